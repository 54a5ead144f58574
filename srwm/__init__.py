"""The self-referential weight matrix: a weight matrix that learns to modify itself.

Irie, Schlag, Csordás, Schmidhuber, ICML 2022 (arXiv 2202.05780). Functions on arrays of any library:
`forward`, `backward`, `vjp`, `pack`, `unpack`. `srwm.delta` has the first three for a related operator,
fast weights under the delta rule. Torch layers are in `srwm.nn`. `warmup` compiles kernels ahead, and
`show_config` prints what runs here.
"""

import importlib
from typing import TYPE_CHECKING, Any

from srwm import delta
from srwm._config import show_config, warmup
from srwm._memory import free_memory
from srwm._threads import get_num_threads, set_num_threads
from srwm._version import __version__ as __version__
from srwm.operators.srwm import backward, forward, pack, unpack, vjp

__all__ = [
    "backward",
    "delta",
    "forward",
    "free_memory",
    "get_num_threads",
    "pack",
    "set_num_threads",
    "show_config",
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
