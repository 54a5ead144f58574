"""The PyTorch loop under torch.compile: one step of it, called in a Python loop, or the loop as a whole."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.peers.eager import eager_y
from benchmarks.peers.torch_calls import Function, torch_peer


def step(x_t: Tensor, W: Tensor) -> tuple[Tensor, Tensor]:
    """x_t (..., D), W (..., D, M) -> y_t (..., Do), W after the step."""
    D, M = x_t.shape[-1], W.shape[-1]
    sizes = [M - 2 * D - 4, D, D, 4]
    y, q, k, b = (x_t.unsqueeze(-2) @ W).squeeze(-2).split(sizes, -1)
    q, k, b = q.softmax(-1), k.softmax(-1), b.sigmoid()
    # Expanded block by block: the compiler fuses this, and cannot see through repeat_interleave.
    rates = torch.cat([b[..., i, None].expand(*b.shape[:-1], n) for i, n in enumerate(sizes)], -1)
    u = rates * ((q - k).unsqueeze(-2) @ W).squeeze(-2)
    return y, W + k.unsqueeze(-1) * u.unsqueeze(-2)


def _compile_step() -> Function:
    compiled = torch.compile(step, fullgraph=True, dynamic=False)

    def forward(x: Tensor, W: Tensor) -> Tensor:
        W_t, outputs = W.expand(*x.shape[:-2], *W.shape[-2:]).contiguous(), []
        for t in range(x.shape[-2]):
            y_t, W_t = compiled(x[..., t, :], W_t)
            outputs.append(y_t)
        return torch.stack(outputs, -2)

    return forward


def _compile_loop() -> Function:
    return torch.compile(eager_y, fullgraph=True, dynamic=False)


PEERS = (
    torch_peer("torch.compile, step", _compile_step),
    torch_peer(
        "torch.compile, loop",
        _compile_loop,
        most_steps=26,
        because="its steps are unrolled into one program: over a minute to compile at 26 of them",
    ),
)
