"""The operator on arrays: check the arguments, resolve a backend, call it.

Arrays are NumPy's, or of any library that speaks DLPack; torch tensors go through `srwm.autograd`.
Shapes and letters are those of `srwm._reference`.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

import numpy as np

from srwm import _call, _checks, _dispatch
from srwm._arrays import namespace
from srwm._broadcast import leading_shape
from srwm._call import Plan, as_backend_arrays, give_back, own_copy, prepare
from srwm._version import __version__

_OPERANDS = ("x", "W", "reset")
_GRADIENTS = ("x", "grad_y", "grad_W_next")


def check_operands(op: str, x: Any, W: Any, reset: Any) -> tuple[int, ...]:
    """The broadcast leading shape of x (..., L, D), W (..., D, M), reset (..., L); raises as §forward."""
    _checks.array(op, "x", x)
    _checks.array(op, "W", W)
    _checks.floating(op, "x", x)
    _checks.same_kind(op, "W", W, x)
    _checks.rank(op, "x", x, 2, "(..., L, D)")
    _checks.rank(op, "W", W, 2, "(..., D, M)")
    _checks.columns(op, x, W)
    if reset is not None:
        _checks.boolean(op, "reset", reset, x, x.shape[-2])
    return leading_shape(op, x, W, reset)


def check_gradients(
    op: str,
    x: Any,
    y_shape: tuple[int, ...],
    W_shape: tuple[int, ...],
    grad_y: Any,
    grad_W_next: Any,
) -> None:
    """Raise unless grad_y and grad_W_next (or None) have the shapes of y and W_next, and x's dtype."""
    _call.check_gradients(
        *(op, x, "x"), ("grad_y", grad_y, y_shape, "y"), ("grad_W_next", grad_W_next, W_shape, "W_next")
    )


def forward(
    x: Any,
    W: Any,
    *,
    reset: Any = None,
    return_state: bool = False,
    backend: str | None = None,
    num_threads: int | None = None,
) -> Any:
    """Run a self-referential weight matrix over sequences.

    At every step t the matrix reads x_t, gives y_t, and rewrites itself::

        y_t | q | k | b = x_t W                 q, k through softmax; b, four rates, through sigmoid
        W <- W + k^T (b * ((q - k) W))          each rate for its block of columns y | q | k | beta

    Parameters
    ----------
    x : array (..., L, D)
        Inputs, as they are: any softmax on x belongs to the layer. L >= 0, D >= 1. float16, bfloat16
        (computed in float32), float32 or float64. A NumPy array, a torch tensor (differentiable), or
        any array with ``__dlpack__``; its device decides where the operator runs.
    W : array (..., D, M)
        Packed initial matrices, M = Do + 2 D + 4; see `pack`. Array type, dtype and device of x.
        Leading axes broadcast with those of x, as in a NumPy generalised ufunc (l,d),(d,m)->(l,o).
    reset : bool array (..., L), optional
        Where true, W returns to the initial W before that step. Leading axes broadcast too.
    return_state : bool
        Whether to return W after the last step as well.
    backend : {"cython", "cuda", "reference"}, optional
        Forces a backend; by default the device of x decides.
    num_threads : int, optional
        The most threads to use on the CPU; by default `set_num_threads` and the variables decide, see
        `get_num_threads`.

    Returns
    -------
    y : array (..., L, Do)
        Outputs, of x's array type, dtype and device.
    W_next : array (..., D, M)
        W after the last step; only with `return_state`.

    Raises
    ------
    TypeError
        Not arrays, dtypes that are not the four above or are mixed, mixed array types.
    ValueError
        Shapes that do not fit, leading axes that do not broadcast, arrays on two devices, a backend
        of no such name.
    RuntimeError
        The backend asked for cannot run here; the message says why.

    Notes
    -----
    Irie, Schlag, Csordás, Schmidhuber: A Modern Self-Referential Weight Matrix That Learns to Modify
    Itself, ICML 2022, equations 5 to 8.

    Examples
    --------
    >>> import numpy as np, srwm
    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((32, 8, 100, 16))             # 32 sequences, 8 heads, 100 steps, D = 16
    >>> W = rng.standard_normal((8, 16, 16 + 2 * 16 + 4)) / 4  # one matrix a head
    >>> y, W_next = srwm.forward(x, W, return_state=True)
    >>> y.shape, W_next.shape
    ((32, 8, 100, 16), (32, 8, 16, 52))
    """
    op = "srwm.forward"
    front_end = None if type(x) is np.ndarray else _dispatch.front_end_of(type(x))
    if front_end is not None:
        return _dispatch.front_ends[front_end].forward(
            x, W, reset=reset, return_state=return_state, backend=backend, num_threads=num_threads
        )
    plan, arrays = prepare(check_operands, op, _OPERANDS, (x, W, reset), backend, num_threads)
    y, W_next, _ = plan.backend.forward(
        *arrays, plan.lead, keep=False, return_state=return_state, num_threads=num_threads
    )
    if plan.original is not None:
        y, W_next = give_back(plan, y, W_next)
    return (y, W_next) if return_state else y


def vjp(
    x: Any,
    W: Any,
    *,
    reset: Any = None,
    backend: str | None = None,
    num_threads: int | None = None,
) -> tuple[tuple[Any, Any], Callable[..., tuple[Any, Any]]]:
    """`forward` with its vector-Jacobian product.

    Takes the arguments of `forward` and raises as it does.

    Returns
    -------
    (y, W_next) : tuple of arrays
        As ``forward(..., return_state=True)``.
    pullback : callable
        ``pullback(grad_y, grad_W_next=None) -> (gx, gW)``: gradients of x and W, of exactly their
        shapes (summed over broadcast axes), for the gradients of y and, unless None (zero), of
        W_next. May be called any number of times. It holds O(L (D + M)) memory a sequence.

    Examples
    --------
    >>> import numpy as np, srwm
    >>> x, W = np.ones((5, 2)), np.ones((2, 3 + 2 * 2 + 4))
    >>> (y, W_next), pullback = srwm.vjp(x, W)
    >>> gx, gW = pullback(np.ones_like(y))
    >>> gx.shape, gW.shape
    ((5, 2), (2, 11))
    """
    op = "srwm.vjp"
    front_end = None if type(x) is np.ndarray else _dispatch.front_end_of(type(x))
    if front_end is not None:
        return _dispatch.front_ends[front_end].vjp(
            x, W, reset=reset, backend=backend, num_threads=num_threads
        )
    plan, arrays = prepare(check_operands, op, _OPERANDS, (x, W, reset), backend, num_threads)
    arrays = own_copy(arrays)  # the pullback must not see what the caller does to x, W and reset
    y, W_next, kept = plan.backend.forward(
        *arrays, plan.lead, keep=True, return_state=True, num_threads=num_threads
    )
    y_shape, W_shape = y.shape, W_next.shape

    def pullback(grad_y: Any, grad_W_next: Any = None) -> tuple[Any, Any]:
        return _pull_back(op, plan, arrays, kept, y_shape, W_shape, grad_y, grad_W_next, num_threads)

    y, W_next = give_back(plan, y, W_next)
    return (y, W_next), pullback


def _pull_back(
    op: str,
    plan: Plan,
    arrays: tuple[Any, ...],
    kept: Any,
    y_shape: tuple[int, ...],
    W_shape: tuple[int, ...],
    grad_y: Any,
    grad_W_next: Any,
    num_threads: int | None,
) -> tuple[Any, Any]:
    like = arrays[0] if plan.original is None else plan.original
    check_gradients(op, like, y_shape, W_shape, grad_y, grad_W_next)
    _, grad_y, grad_W_next = as_backend_arrays(op, _GRADIENTS, (like, grad_y, grad_W_next))
    gradients = plan.backend.backward(
        *arrays, plan.lead, kept, grad_y, grad_W_next, num_threads=num_threads
    )
    gx, gW = give_back(plan, *gradients)
    return gx, gW


def backward(
    x: Any,
    W: Any,
    grad_y: Any,
    grad_W_next: Any = None,
    *,
    reset: Any = None,
    backend: str | None = None,
    num_threads: int | None = None,
) -> tuple[Any, Any]:
    """Gradients of x and W, from those of the results of `forward`.

    Runs forward again first; `vjp` keeps what it needs instead.

    Parameters
    ----------
    x, W, reset, backend, num_threads
        As for `forward`.
    grad_y : array (..., L, Do)
        Gradient of y, of y's shape and x's dtype.
    grad_W_next : array (..., D, M), optional
        Gradient of W_next; None is zero.

    Returns
    -------
    gx, gW : arrays
        Of exactly the shapes of x and W: summed over axes that were broadcast.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `forward`; also for gradients of other shapes or dtypes.

    Examples
    --------
    >>> import numpy as np, srwm
    >>> x, W = np.ones((5, 2)), np.ones((2, 3 + 2 * 2 + 4))
    >>> gx, gW = srwm.backward(x, W, np.ones((5, 3)))
    >>> gx.shape, gW.shape
    ((5, 2), (2, 11))
    """
    op = "srwm.backward"
    front_end = None if type(x) is np.ndarray else _dispatch.front_end_of(type(x))
    if front_end is not None:
        return _dispatch.front_ends[front_end].backward(
            x, W, grad_y, grad_W_next, reset=reset, backend=backend, num_threads=num_threads
        )
    plan, arrays = prepare(check_operands, op, _OPERANDS, (x, W, reset), backend, num_threads)
    L, Do = x.shape[-2], W.shape[-1] - 2 * x.shape[-1] - 4
    y_shape, W_shape = (*plan.lead, L, Do), (*plan.lead, *W.shape[-2:])
    check_gradients(op, x, y_shape, W_shape, grad_y, grad_W_next)
    _, _, kept = plan.backend.forward(
        *arrays, plan.lead, keep=True, return_state=False, num_threads=num_threads
    )
    return _pull_back(op, plan, arrays, kept, y_shape, W_shape, grad_y, grad_W_next, num_threads)


def pack(W_y: Any, W_q: Any, W_k: Any, w_beta: Any) -> Any:
    """One packed matrix (..., D, M = Do + 2 D + 4) from its four blocks of columns.

    Parameters
    ----------
    W_y, W_q, W_k, w_beta : arrays (..., D, Do), (..., D, D), (..., D, D), (..., D, 4)
        Of one array type and dtype; leading axes broadcast.

    Returns
    -------
    W : array (..., D, M)
        A new array; of tensors, a differentiable one.

    Raises
    ------
    TypeError, ValueError
        Blocks of other types, dtypes or shapes.

    Examples
    --------
    >>> import numpy as np, srwm
    >>> W = srwm.pack(np.ones((2, 3)), np.zeros((2, 2)), np.zeros((2, 2)), np.zeros((2, 4)))
    >>> W.shape
    (2, 11)
    """
    op = "srwm.pack"
    blocks = {"W_y": W_y, "W_q": W_q, "W_k": W_k, "w_beta": w_beta}
    for name, block in blocks.items():
        _checks.array(op, name, block)
        _checks.floating(op, name, block)
        if name != "W_y":
            _checks.same_kind(op, name, block, W_y)
        _checks.rank(op, name, block, 2, "(..., D, columns)")
    D = W_y.shape[-2]
    for name, block, n in (("W_q", W_q, D), ("W_k", W_k, D), ("w_beta", w_beta, 4)):
        _checks.shape(op, f"{name}, last two axes", block[(0,) * (block.ndim - 2)], (D, n), f"D = {D}")
    xp = namespace(W_y)
    leads = [tuple(block.shape[:-2]) for block in blocks.values()]
    try:
        lead = np.broadcast_shapes(*leads)
    except ValueError:
        raise ValueError(
            f"{op}: expected leading axes that broadcast, got {', '.join(map(str, leads))}"
        ) from None
    return xp.concat([xp.broadcast_to(b, (*lead, *b.shape[-2:])) for b in blocks.values()], -1)


def unpack(W: Any) -> tuple[Any, Any, Any, Any]:
    """The four blocks of columns of a packed matrix: views where the array library gives views.

    Parameters
    ----------
    W : array (..., D, M)
        M = Do + 2 D + 4 with Do >= 1.

    Returns
    -------
    W_y, W_q, W_k, w_beta : arrays (..., D, Do), (..., D, D), (..., D, D), (..., D, 4)

    Raises
    ------
    TypeError, ValueError
        Not an array of a floating dtype; too few axes or columns.

    Examples
    --------
    >>> import numpy as np, srwm
    >>> [block.shape for block in srwm.unpack(np.zeros((8, 2, 11)))]
    [(8, 2, 3), (8, 2, 2), (8, 2, 2), (8, 2, 4)]
    """
    op = "srwm.unpack"
    _checks.array(op, "W", W)
    _checks.floating(op, "W", W)
    _checks.rank(op, "W", W, 2, "(..., D, M)")
    D, M = W.shape[-2:]
    Do = _checks.output_size(op, W, D, M)
    return W[..., :Do], W[..., Do : Do + D], W[..., Do + D : Do + 2 * D], W[..., Do + 2 * D :]


def warmup(D: int, Do: int, dtype: Any = "float32") -> None:
    """Compile the CUDA kernels of one size ahead, for CuPy's current device.

    They are compiled when first used otherwise, which takes a second or two each, and kept on disk in
    CuPy's folder, `CUPY_CACHE_DIR`. On the CPU there is nothing to compile.

    Parameters
    ----------
    D, Do : int
        Entries of an input and of an output; of the delta rule, of a key and of a value.
    dtype : str or dtype
        float16, bfloat16, float32 or float64.

    Raises
    ------
    ValueError
        No such dtype, or sizes that the kernels do not run.
    RuntimeError
        The CUDA backend cannot run here; the message says why.

    Examples
    --------
    >>> import srwm
    >>> srwm.warmup(16, 16)  # doctest: +SKIP
    """
    op = "srwm.warmup"
    name = dtype if isinstance(dtype, str) else np.dtype(dtype).name
    _checks.one_of(op, "dtype", name, ("float16", "bfloat16", "float32", "float64"))
    _dispatch.resolve(op, "cuda", "cuda").warmup(D, Do, name)


def show_config() -> None:
    """Print versions, which backends are usable and why others are not, instruction set and threads.

    Examples
    --------
    >>> import srwm
    >>> srwm.show_config()  # doctest: +ELLIPSIS
    srwm ...
    """
    import importlib.metadata  # slow to load, and of use nowhere else

    lines = [
        f"srwm {__version__}",
        f"python {platform.python_version()} on {platform.machine()} ({platform.system()})",
    ]
    installed = importlib.metadata.packages_distributions()  # CuPy comes as a wheel for each CUDA
    for package in ("numpy", "torch", "cupy"):
        wheels = [f"{name} {importlib.metadata.version(name)}" for name in installed.get(package, [])]
        lines.append(", ".join(wheels) or f"{package} not installed")
    lines += [f"backend {name}: {state}" for name, state in _dispatch.states().items()]
    lines += [f"{what}: {value}" for what, value in _dispatch.cpu_configuration().items()]
    print("\n".join(lines))  # noqa: T201  the result is what it prints
