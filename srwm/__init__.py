"""The self-referential weight matrix: a weight matrix that learns to modify itself.

Irie, Schlag, Csordás, Schmidhuber, ICML 2022 (arXiv 2202.05780). Functions on arrays of any library:
`forward`, `backward`, `vjp`, `pack`, `unpack`, `trajectory`. Related operators have the first three in a
module each: `srwm.sum_rule`, `srwm.delta`, `srwm.recurrent_delta`, `srwm.delta_rnn`, `srwm.self_modifying`.
Torch layers are in `srwm.nn`. `warmup` compiles kernels ahead, and `show_config` prints what runs here.
"""

import importlib
from typing import TYPE_CHECKING, Any

from srwm import delta, delta_rnn, recurrent_delta, self_modifying, sum_rule
from srwm._config import show_config, warmup
from srwm._memory import free_memory
from srwm._threads import get_num_threads, set_num_threads
from srwm._version import __version__ as __version__
from srwm.operators.srwm import backward, forward, pack, unpack, vjp
from srwm.operators.trajectory import trajectory

__all__ = [
    "backward",
    "delta",
    "delta_rnn",
    "forward",
    "free_memory",
    "get_num_threads",
    "pack",
    "recurrent_delta",
    "self_modifying",
    "set_num_threads",
    "show_config",
    "sum_rule",
    "trajectory",
    "unpack",
    "vjp",
    "warmup",
]

if TYPE_CHECKING:  # a function __getattr__ would let type checkers pass any name
    from srwm import nn as nn
else:

    def __getattr__(name: str) -> Any:
        """`srwm.nn`, imported when it is first used, because it needs torch."""
        if name == "nn":
            return importlib.import_module("srwm.nn")
        raise AttributeError(f"module 'srwm' has no attribute {name!r}")
