"""A PyTorch loop in the manner of published code: four matrices, each with products of its own.

Every step multiplies x by each of the four matrices, then q and k by each: what they would write, and
what they hold already, are looked up separately. Written from the equations.
"""

from __future__ import annotations

import torch
from torch import Tensor

import srwm
from benchmarks.peers.torch_calls import torch_peer


def _product(v: Tensor, W: Tensor) -> Tensor:
    return torch.einsum("...d,...dm->...m", v, W)


def published_forward(x: Tensor, W: Tensor) -> Tensor:
    """x (..., L, D), W (..., D, M) -> y (..., L, Do)."""
    lead, L = x.shape[:-2], x.shape[-2]
    W_y, W_q, W_k, w_beta = (block.expand(*lead, *block.shape[-2:]) for block in srwm.unpack(W))
    outputs = []
    for t in range(L):
        x_t = x[..., t, :]
        outputs.append(_product(x_t, W_y))
        q = _product(x_t, W_q).softmax(-1)
        k = _product(x_t, W_k).softmax(-1)
        rates = _product(x_t, w_beta).sigmoid()
        matrices = []
        for i, matrix in enumerate((W_y, W_q, W_k, w_beta)):
            wanted, held = _product(q, matrix), _product(k, matrix)
            change = rates[..., i, None] * (wanted - held)
            matrices.append(matrix + torch.einsum("...d,...m->...dm", k, change))
        W_y, W_q, W_k, w_beta = matrices
    return torch.stack(outputs, -2)


PEERS = (torch_peer("PyTorch loop, published style", lambda: published_forward),)
