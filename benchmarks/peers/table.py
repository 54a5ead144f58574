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
}
FAMILY = (
    "sum rule",
    "normalised sum rule",
    "delta rule",
    "Recurrent Delta Net",
    "Delta RNN",
    "self-modifying memory",
    "SRWM, another reader",
)
"""Other operators: those of `benchmarks.peers.family`."""

WITH_NUMBA = ("sum rule", "delta rule", "Recurrent Delta Net", "Delta RNN")
"""Those of which `benchmarks.peers.numba_family` has loops, and srwm on arrays to compare these with."""

ONE_THREAD = "srwm, NumPy, one thread"
"""Beside peers of several threads, to say what those are worth."""
ALL = tuple(name for name in _MODULES if name != ONE_THREAD)
JAX = tuple(name for name in ALL if name.startswith("JAX"))
ON_TENSORS = tuple(name for name in ALL if "torch" in name.lower() and not name.startswith("srwm"))
"""Those that compute with tensors: srwm is compared with them through its own torch operator."""


def pairs(member: str) -> tuple[tuple[str, str], ...]:
    """The peers of one of the other operators: srwm and a loop, on tensors, and perhaps on arrays."""
    on_tensors = f"srwm, {member}", f"PyTorch loop, {member}"
    on_arrays = f"srwm, NumPy, {member}", f"numba by hand, {member}"
    return (on_tensors, on_arrays) if member in WITH_NUMBA else (on_tensors,)


@cache
def load(name: str) -> Peer:
    """The peer of that name."""
    of_family = "numba_family" if name.startswith(("srwm, NumPy", "numba")) else "family"
    module = import_module(f"{__package__}.{_MODULES.get(name, of_family)}")
    peers: tuple[Peer, ...] = module.PEERS
    return next(peer for peer in peers if peer.name == name)
