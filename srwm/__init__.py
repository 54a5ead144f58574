"""The self-referential weight matrix: a weight matrix that learns to modify itself.

Irie, Schlag, Csordás, Schmidhuber, ICML 2022 (arXiv 2202.05780). Functions on arrays of any library:
`forward`, `backward`, `vjp`, `pack`, `unpack`; those of its sibling, fast weights under the delta rule:
`delta_forward`, `delta_backward`, `delta_vjp`; `warmup` and `show_config`; torch layers in `srwm.nn`.
"""

from srwm._memory import free_memory
from srwm._threads import get_num_threads, set_num_threads
from srwm._version import __version__ as __version__
from srwm.delta_ops import delta_backward, delta_forward, delta_vjp
from srwm.ops import backward, forward, pack, show_config, unpack, vjp, warmup

__all__ = [
    "backward",
    "delta_backward",
    "delta_forward",
    "delta_vjp",
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
