"""srwm itself, called as its users do: on NumPy arrays and on tensors."""

from __future__ import annotations

from typing import Any

import numpy as np

import srwm
from benchmarks.cases import Case
from benchmarks.peers.interface import Peer, Ready
from benchmarks.peers.torch_calls import torch_peer


def numpy_forward(case: Case, num_threads: int | None = None) -> Ready:
    """`srwm.forward` on arrays."""
    x, W = case.operands
    return Ready(lambda: (srwm.forward(x, W, num_threads=num_threads),), tuple)


def numpy_training(case: Case, num_threads: int | None = None) -> Ready:
    """`srwm.vjp` on arrays, and its pullback."""
    x, W = case.operands

    def run() -> tuple[np.ndarray, ...]:
        (y, _), pullback = srwm.vjp(x, W, num_threads=num_threads)
        return (y, *pullback(case.grad_y))

    return Ready(run, tuple)


def _one_thread(f: Any) -> Any:
    return lambda case: f(case, num_threads=1)


PEERS = (
    Peer("srwm, NumPy", numpy_forward, numpy_training),
    Peer("srwm, NumPy, one thread", _one_thread(numpy_forward), _one_thread(numpy_training)),
    torch_peer("srwm, torch", lambda: srwm.forward),
)
