"""All peers by name. A peer's module, and with it its library, is imported when it is first asked for."""

from __future__ import annotations

from functools import cache
from importlib import import_module

from benchmarks.peers.interface import Peer

_MODULES = {
    "srwm, NumPy": "ours",
    "srwm, NumPy, one thread": "ours",
    "srwm, torch": "ours",
    "PyTorch loop": "eager",
    "PyTorch loop, published style": "published",
    "torch.compile, step": "compiled",
    "torch.compile, loop": "compiled",
    "torch.jit": "jit",
    "JAX scan": "jax_scan",
    "JAX scan, unrolled": "jax_scan",
    "JAX scan, remat": "jax_scan",
    "JAX scan, remat of segments": "jax_scan",
    "numba by hand": "numba_loops",
    "NumPy loop": "numpy_loop",
    "srwm, delta rule": "ours",
    "PyTorch loop, delta rule": "eager",
}

ONE_THREAD = "srwm, NumPy, one thread"
"""Beside peers of several threads, to say what those are worth."""
DELTA = ("srwm, delta rule", "PyTorch loop, delta rule")
ALL = tuple(name for name in _MODULES if name not in (ONE_THREAD, *DELTA))
JAX = tuple(name for name in ALL if name.startswith("JAX"))
ON_TENSORS = tuple(name for name in ALL if "torch" in name.lower() and not name.startswith("srwm"))
"""Those that compute with tensors: srwm is compared with them through its own torch operator."""


@cache
def load(name: str) -> Peer:
    """The peer of that name."""
    module = import_module(f"{__package__}.{_MODULES[name]}")
    peers: tuple[Peer, ...] = module.PEERS
    return next(peer for peer in peers if peer.name == name)
