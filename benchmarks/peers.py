"""What a user could write instead: the operator as a loop of torch operations, under autograd.

Also the tests' independent truth. Packed weights, one product with W for all of o, one for (q - k) W.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import srwm


def eager_forward(x: Tensor, W: Tensor, reset: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """x (..., L, D), W (..., D, M), reset (..., L) -> y (..., L, Do), W after the last step."""
    D, M = x.shape[-1], W.shape[-1]
    sizes = [M - 2 * D - 4, D, D, 4]
    repeats = torch.tensor(sizes)
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


PEERS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "srwm": srwm.forward,
    "eager": lambda x, W: eager_forward(x, W)[0],
}


def random_case(size: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """x (B, H, L, D), W (H, D, 3 D + 4), gradient of y: one layer's operands, Do = D."""
    B, H, L, D = size
    generator = torch.Generator().manual_seed(0)
    x, grad_y = (torch.randn(B, H, L, D, generator=generator, dtype=torch.float64) for _ in range(2))
    W = torch.randn(H, D, 3 * D + 4, generator=generator, dtype=torch.float64) / D**0.5
    return x.to(dtype), W.to(dtype), grad_y.to(dtype)


def forward_and_backward(
    forward: Callable[[Tensor, Tensor], Tensor], x: Tensor, W: Tensor, grad_y: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """y and the gradients of x and W."""
    x, W = x.detach().requires_grad_(), W.detach().requires_grad_()
    y = forward(x, W)
    gx, gW = torch.autograd.grad(y, (x, W), grad_y)
    return y.detach(), gx, gW
