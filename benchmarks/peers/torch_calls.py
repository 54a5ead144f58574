"""How every function of tensors is called: without gradients, or with torch's autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.cases import Case
from benchmarks.peers.interface import Peer, Ready

Function = Callable[..., Tensor]


def _arrays(results: tuple[Tensor, ...]) -> tuple[np.ndarray, ...]:
    return tuple(result.detach().numpy() for result in results)


def forward(f: Function, case: Case) -> Ready:
    """y alone, of operands that want no gradient."""
    operands = [torch.from_numpy(a) for a in case.operands]
    return Ready(lambda: (f(*operands),), _arrays)


def training(f: Function, case: Case) -> Ready:
    """y and the gradients of all operands."""
    operands = [torch.from_numpy(a).requires_grad_() for a in case.operands]
    grad_y = torch.from_numpy(case.grad_y)

    def run() -> tuple[Tensor, ...]:
        y = f(*operands)
        return (y, *torch.autograd.grad(y, operands, grad_y))

    return Ready(run, _arrays)


def torch_peer(name: str, make: Callable[[], Function], **limits: Any) -> Peer:
    """A peer whose function, made anew for each case, is differentiated by torch."""
    return Peer(name, lambda case: forward(make(), case), lambda case: training(make(), case), **limits)
