"""The PyTorch loop as TorchScript."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from benchmarks.peers.torch_calls import Function, torch_peer


def loop(x: Tensor, W: Tensor) -> Tensor:
    """x (B, H, L, D), W (H, D, M) -> y (B, H, L, Do)."""
    D, M = x.size(-1), W.size(-1)
    sizes = [M - 2 * D - 4, D, D, 4]
    repeats = torch.tensor(sizes)
    W_t = W.expand(x.size(0), x.size(1), D, M)
    outputs: list[Tensor] = []
    for t in range(x.size(-2)):
        y, q, k, b = (x[:, :, t].unsqueeze(-2) @ W_t).squeeze(-2).split(sizes, -1)
        outputs.append(y)
        q = q.softmax(-1)
        k = k.softmax(-1)
        rates = b.sigmoid().repeat_interleave(repeats, -1, output_size=M)
        u = rates * ((q - k).unsqueeze(-2) @ W_t).squeeze(-2)
        W_t = W_t + k.unsqueeze(-1) * u.unsqueeze(-2)
    return torch.stack(outputs, -2)


def _script() -> Function:
    with warnings.catch_warnings():
        # TorchScript is deprecated, and a peer for as long as torch has it.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        return torch.jit.script(loop)


PEERS = (torch_peer("torch.jit", _script),)
