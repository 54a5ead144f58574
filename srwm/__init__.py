"""The self-referential weight matrix: a weight matrix that learns to modify itself.

Irie, Schlag, Csordás, Schmidhuber, ICML 2022 (arXiv 2202.05780). Functions on arrays of any library:
`forward`, `backward`, `vjp`, `pack`, `unpack`, `show_config`; torch layers in `srwm.nn`.
"""

import importlib.metadata

from srwm.ops import backward, forward, pack, show_config, unpack, vjp

__version__ = importlib.metadata.version("srwm")

__all__ = ["backward", "forward", "pack", "show_config", "unpack", "vjp"]
