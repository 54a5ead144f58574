"""`show_config` prints versions and which backends are usable; `warmup` compiles kernels ahead."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Any

import numpy as np

from srwm import _checks, _dispatch
from srwm._version import __version__
from srwm.operators.spec import described


def warmup(D: int, Do: int, dtype: Any = "float32", *, operators: Sequence[str] | None = None) -> None:
    """Compile and load the CUDA kernels of one size ahead, for CuPy's current device.

    Otherwise they are compiled at their first use, which takes a second or two each. The capture of a CUDA
    graph forbids that: call this before. CuPy caches what is compiled on disk, in `CUPY_CACHE_DIR`. On the
    CPU there is nothing to compile.

    Parameters
    ----------
    D, Do : int
        Entries of an input and of an output; for the delta rule, of a key and of a value. Operators whose
        outputs have D entries have no Do.
    dtype : str or dtype
        float16, bfloat16, float32 or float64.
    operators : sequence of str, optional
        Which ones: "srwm" for `srwm.forward`, "delta" for `srwm.delta`, and so on. None: all, which takes
        a minute or two the first time.

    Raises
    ------
    ValueError
        An unknown dtype or operator, or sizes that the kernels do not support.
    RuntimeError
        The CUDA backend cannot run here; the message says why.

    Examples
    --------
    >>> import srwm
    >>> srwm.warmup(16, 16, operators=["srwm"])  # doctest: +SKIP
    """
    op = "srwm.warmup"
    is_numpys = isinstance(dtype, (type, np.dtype))  # np.float32 and np.dtype("float32")
    storage = np.dtype(dtype).name if is_numpys else str(dtype).rpartition(".")[2]
    _checks.one_of(op, "dtype", storage, _checks.DTYPES)
    modules = sorted({o.module or o.name for o in described.values()})
    for name in modules if operators is None else operators:
        _checks.one_of(op, "operators", name, tuple(modules))
    wanted = [o for o in described.values() if operators is None or (o.module or o.name) in operators]
    backend = _dispatch.module("cuda")
    reason = backend.unusable()
    if reason is not None:
        raise RuntimeError(f"{op}: backend 'cuda' cannot run: {reason}")
    backend.warmup(wanted, D, Do, storage)


def show_config() -> None:
    """Print versions, which backends are usable and why others are not, instruction set and threads.

    Examples
    --------
    >>> import srwm
    >>> srwm.show_config()  # doctest: +ELLIPSIS
    srwm ...
    """
    import importlib.metadata  # slow to import, and used nowhere else

    lines = [
        f"srwm {__version__}",
        f"python {platform.python_version()} on {platform.machine()} ({platform.system()})",
    ]
    installed = importlib.metadata.packages_distributions()  # CuPy has a wheel for each version of CUDA
    for package in ("numpy", "torch", "cupy"):
        wheels = [f"{name} {importlib.metadata.version(name)}" for name in installed.get(package, [])]
        lines.append(", ".join(wheels) or f"{package} not installed")
    states = _dispatch.states()
    lines += [f"backend {name}: {state}" for name, state in states.items()]
    if states["cython"] == "usable":
        lines += [f"{what}: {value}" for what, value in _dispatch.module("cython").configuration().items()]
    print("\n".join(lines))  # noqa: T201  the result is what it prints
