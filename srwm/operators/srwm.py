"""The self-referential weight matrix: its description and its functions.

Letters and numbered steps: `srwm.reference.srwm`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from srwm import _call, _checks
from srwm.operators.spec import RESET, Derived, Operand, Operator
from srwm.reference import srwm as reference
from srwm.reference import srwm_read
from srwm.reference.arrays import namespace

_X = Operand("x", "L D")
_W = Operand("W", "D M", "initial")
_DO = Derived(
    letter="Do",
    of=lambda sizes: sizes["M"] - 2 * sizes["D"] - 4,
    operand="W",
    expected="M = Do + 2 D + 4 columns [y: Do | q: D | k: D | beta: 4]",
    remedy="build W with srwm.pack",
)

SRWM = Operator(
    name="srwm",
    operands=(_X, _W, RESET),
    output=Operand("y", "L Do"),
    reference=reference,
    derived=(_DO,),
    source="Irie, Schlag, Csordás, Schmidhuber, ICML 2022, equations 5 to 8",
)

SRWM_READ = Operator(
    name="srwm_read",
    operands=(_X, _W, Operand("read", "L D"), RESET),
    output=Operand("y", "L Do"),
    reference=srwm_read,
    derived=(_DO,),
    rebuild="replay",
    source="Irie, Csordás, Schmidhuber, arXiv 2312.00276",
    module="srwm",
)


def forward(
    x: Any,
    W: Any,
    state: Any = None,
    *,
    read: Any = None,
    reset: Any = None,
    return_state: bool = False,
    backend: str | None = None,
    num_threads: int | None = None,
) -> Any:
    """Run a self-referential weight matrix over sequences.

    At every step t the matrix reads x_t, gives y_t, and updates itself::

        y_t | q | k | b = x_t W                 softmax on q and k; sigmoid on b, the four rates
        W <- W + k^T (b * ((q - k) W))          each rate for its block of columns y | q | k | beta

    Parameters
    ----------
    x : array (..., L, D)
        Inputs. They are used as given: any softmax on x belongs to the layer. L >= 0, D >= 1. float16,
        bfloat16 (computed in float32), float32 or float64. A NumPy array, a torch tensor
        (differentiable), or any array with ``__dlpack__``; its device decides where the operator runs.
    W : array (..., D, M)
        Packed matrices with which sequences begin, M = Do + 2 D + 4; see `pack`. They have the array type,
        dtype and device of x. Leading axes of all operands broadcast, as in a NumPy generalised ufunc
        (l,d),(d,m)->(l,o).
    state : array (..., D, M), optional
        Matrices with which the sequences start instead of W: those that a call with `return_state` returned
        for the earlier part of the sequences. Its dtype is that of x; with halves it may also be float32.
    read : array (..., L, D), optional
        What reads the outputs instead of x: y_t = read_t W_y. All else still reads x.
    reset : bool array (..., L), optional
        Where true, the matrix returns to W before that step. The first step may be a reset, too.
    return_state : bool
        Whether to return the matrices after the last step as well.
    backend : {"cython", "cuda", "reference"}, optional
        Forces a backend; by default the device of x decides.
    num_threads : int, optional
        The most threads to use on the CPU; by default `srwm.set_num_threads` and the variables decide, see
        `srwm.get_num_threads`. The last bits of results may depend on it, and, where many small sequences
        are computed together, on how many there are and on which of them have a reset.

    Returns
    -------
    y : array (..., L, Do)
        Outputs, of x's array type, dtype and device.
    W_next : array (..., D, M)
        The matrices after the last step, with the dtype of state, or of x if there is no state. Only
        returned with `return_state`.

    Raises
    ------
    TypeError
        Arguments that are not arrays, other or mixed dtypes, mixed array types.
    ValueError
        Shapes that do not fit, leading axes that do not broadcast, arrays on two devices, an unknown
        backend.
    RuntimeError
        The backend cannot run here; the message says why.

    Notes
    -----
    Irie, Schlag, Csordás, Schmidhuber: A Modern Self-Referential Weight Matrix That Learns to Modify
    Itself, ICML 2022, equations 5 to 8. `read`: Irie, Csordás, Schmidhuber: Automating Continual Learning,
    arXiv 2312.00276.

    Gradients stay exact where W grows, and take longer.

    With tensors, all of torch's transforms work. Second derivatives and forward mode run a loop of torch
    operations: this is right, but slower, and takes O(L D M) memory.

    Examples
    --------
    >>> import numpy as np, srwm
    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((32, 8, 100, 16))             # 32 sequences, 8 heads, 100 steps, D = 16
    >>> W = rng.standard_normal((8, 16, 16 + 2 * 16 + 4)) / 4  # one matrix a head
    >>> y, W_next = srwm.forward(x, W, return_state=True)
    >>> y.shape, W_next.shape
    ((32, 8, 100, 16), (32, 8, 16, 52))

    The same in two parts; the second starts with the state of the first:

    >>> _, state = srwm.forward(x[..., :60, :], W, return_state=True)
    >>> bool(np.allclose(srwm.forward(x[..., 60:, :], W, state), y[..., 60:, :]))
    True
    """
    op, flat = _chosen(x, W, state, read, reset)
    return _call.forward(op, flat, return_state, (backend, num_threads))


def vjp(
    x: Any,
    W: Any,
    state: Any = None,
    *,
    read: Any = None,
    reset: Any = None,
    backend: str | None = None,
    num_threads: int | None = None,
) -> tuple[tuple[Any, Any], Callable[..., tuple[Any, ...]]]:
    """`forward` with its vector-Jacobian product.

    Takes the arguments of `forward` and raises as it does.

    Returns
    -------
    (y, W_next) : tuple of arrays
        As ``forward(..., return_state=True)``.
    pullback : callable
        ``pullback(grad_y, grad_W_next=None) -> (gx, gW)``, with `read` ``(gx, gW, gread)``, and with a
        state one more, gstate: gradients of exactly the shapes of the operands (summed over broadcast
        axes), from the gradients of y and of W_next (None is zero). It may be called any number of times.
        It holds O(L (D + M)) memory for each sequence.

    Examples
    --------
    >>> import numpy as np, srwm
    >>> x, W = np.ones((5, 2)), np.ones((2, 3 + 2 * 2 + 4))
    >>> (y, W_next), pullback = srwm.vjp(x, W)
    >>> gx, gW = pullback(np.ones_like(y))
    >>> gx.shape, gW.shape
    ((5, 2), (2, 11))
    """
    op, flat = _chosen(x, W, state, read, reset)
    return _call.vjp(op, flat, (backend, num_threads))


def backward(
    x: Any,
    W: Any,
    grad_y: Any,
    grad_W_next: Any = None,
    *,
    state: Any = None,
    read: Any = None,
    reset: Any = None,
    backend: str | None = None,
    num_threads: int | None = None,
) -> tuple[Any, ...]:
    """Gradients of x, W, read and state, from those of the results of `forward`.

    It runs forward again first. `vjp` avoids this: it saves data for backward.

    Parameters
    ----------
    x, W, state, read, reset, backend, num_threads
        As for `forward`.
    grad_y : array (..., L, Do)
        Gradient of y, of y's shape and dtype.
    grad_W_next : array (..., D, M), optional
        Gradient of W_next, of its shape and dtype; None is zero.

    Returns
    -------
    gx, gW : arrays
        With exactly the shapes of x and W: summed over broadcast axes.
    gread, gstate : arrays
        With the shapes of read and state, and their dtypes; only if these are given.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `forward`; also for gradients with other shapes or dtypes.

    Examples
    --------
    >>> import numpy as np, srwm
    >>> x, W = np.ones((5, 2)), np.ones((2, 3 + 2 * 2 + 4))
    >>> gx, gW = srwm.backward(x, W, np.ones((5, 3)))
    >>> gx.shape, gW.shape
    ((5, 2), (2, 11))
    """
    op, flat = _chosen(x, W, state, read, reset)
    return _call.backward(op, flat, grad_y, grad_W_next, (backend, num_threads))


def _chosen(x: Any, W: Any, state: Any, read: Any, reset: Any) -> tuple[Operator, tuple[Any, ...]]:
    """The operator with or without another input for the outputs, and its operands."""
    if read is None:
        return SRWM, (x, W, state, reset)
    return SRWM_READ, (x, W, read, state, reset)


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
    name = "srwm.pack"
    blocks = {"W_y": W_y, "W_q": W_q, "W_k": W_k, "w_beta": w_beta}
    _checks.dense(name, tuple(blocks), tuple(blocks.values()))
    for argument, block in blocks.items():
        _checks.array(name, argument, block)
        _checks.floating(name, argument, block)
        _checks.same_kind(name, argument, block, W_y, of="W_y")
        _checks.same_dtype(name, argument, block, W_y.dtype, of="W_y")
        _checks.rank(name, argument, block, 2, "(..., D, columns)")
    _checks.one_device(name, tuple(blocks), [*map(_device_of, blocks.values())])
    _checks.entries(name, "W_y", W_y, ("D", "Do"))
    D = W_y.shape[-2]
    lead: tuple[Any, ...] | None = ()
    for argument, block in blocks.items():
        columns = {"W_y": block.shape[-1], "w_beta": 4}.get(argument, D)
        if tuple(block.shape[-2:]) != (D, columns):
            raise ValueError(
                f"{name}: {argument}: expected shape (..., {D}, {columns}) to go with W_y "
                f"{tuple(W_y.shape)}, got {tuple(block.shape)}; a block has D = {D} rows"
            )
        assert lead is not None
        lead = _checks.broadcast_pair(lead, tuple(block.shape[:-2]))
        if lead is None:
            shapes = ", ".join(str(tuple(b.shape)) for b in blocks.values())
            raise ValueError(
                f"{name}: {argument}: expected leading axes that broadcast with those of the blocks before "
                f"it, got blocks of shapes {shapes}; all axes but the last two must be equal or 1"
            )
    assert lead is not None
    xp = namespace(W_y)
    return xp.concat([xp.broadcast_to(b, (*lead, *b.shape[-2:])) for b in blocks.values()], axis=-1)


def _device_of(a: Any) -> Any:
    """The device of an array; None where its library does not say: NumPy before 2, a tracer of JAX."""
    try:
        return a.device
    except (AttributeError, TypeError):
        return None


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
    name = "srwm.unpack"
    _checks.dense(name, ("W",), (W,))
    _checks.array(name, "W", W)
    _checks.floating(name, "W", W)
    _checks.rank(name, "W", W, 2, "(..., D, M)")
    _checks.entries(name, "W", W, ("D", "M"))
    D, M = W.shape[-2:]
    Do = _checks.derived(SRWM, name, {"D": D, "M": M}, {"W": W})["Do"]
    return W[..., :Do], W[..., Do : Do + D], W[..., Do + D : Do + 2 * D], W[..., Do + 2 * D :]
