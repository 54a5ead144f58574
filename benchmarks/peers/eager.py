"""What a user could write instead: the operator as a loop of torch operations, under autograd.

Also the tests' independent truth. Packed weights, one product with W for all of o, one for (q - k) W.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.peers.torch_calls import torch_peer


def eager_forward(x: Tensor, W: Tensor, reset: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """x (..., L, D), W (..., D, M), reset (..., L) -> y (..., L, Do), W after the last step."""
    D, M = x.shape[-1], W.shape[-1]
    sizes = [M - 2 * D - 4, D, D, 4]
    repeats = torch.tensor(sizes, device=x.device)
    lead = torch.broadcast_shapes(x.shape[:-2], W.shape[:-2], () if reset is None else reset.shape[:-1])
    x, W_0 = x.expand(*lead, *x.shape[-2:]), W.expand(*lead, D, M)
    W_t, outputs = W_0, []
    for t in range(x.shape[-2]):
        if reset is not None:
            W_t = torch.where(reset[..., t, None, None], W_0, W_t)
        y, q, k, b = (x[..., t, None, :] @ W_t).squeeze(-2).split(sizes, -1)
        outputs.append(y)
        q, k = q.softmax(-1), k.softmax(-1)
        rates = b.sigmoid().repeat_interleave(repeats, -1, output_size=M)
        u = rates * ((q - k).unsqueeze(-2) @ W_t).squeeze(-2)
        W_t = W_t + k.unsqueeze(-1) * u.unsqueeze(-2)
    return torch.stack(outputs, -2), W_t


def eager_y(x: Tensor, W: Tensor) -> Tensor:
    """`eager_forward`'s output alone."""
    return eager_forward(x, W)[0]


PEERS = (torch_peer("PyTorch loop", lambda: eager_y),)
