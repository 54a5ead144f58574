"""A memory that modifies itself: the descriptions and the functions of `srwm.self_modifying`.

Letters and numbered steps: `srwm.reference.self_modifying`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from srwm import _call
from srwm.operators.spec import MASK, RESET, Derived, Operand, Operator, Setting
from srwm.reference import self_modifying, self_modifying_query

SOURCE = "Behrouz, Razaviyayn, Zhong, Mirrokni, NeurIPS 2025 (arXiv 2512.24695), section 8"

_X = Operand("x", "L D")
_W = Operand("W", "D M", "initial")
_SETTINGS = (
    Setting("a", 1.0),
    Setting("c", 1.0),
    Setting("keys", "l2", choices=("l2", "softmax")),
    Setting("rate", "softplus", choices=("softplus", "sigmoid")),
    Setting("rate_scale", 1.0),
    Setting("eps", 1e-6, above=0),
)

SELF_MODIFYING = Operator(
    name="self_modifying",
    operands=(_X, _W, RESET, MASK),
    output=Operand("y", "L Do"),
    reference=self_modifying,
    derived=(
        Derived(
            letter="Do",
            of=lambda sizes: sizes["M"] - 3 * sizes["D"] - 2,
            operand="W",
            expected="M = Do + 3 D + 2 columns [y: Do | k: D | v: D | eta: 1 | alpha: 1 | q: D]",
            remedy="give W more columns, or pass a query, with which W has no block q",
        ),
    ),
    rebuild="replay",
    source=SOURCE,
    settings=_SETTINGS,
)

SELF_MODIFYING_QUERY = Operator(
    name="self_modifying_query",
    operands=(_X, _W, Operand("query", "L D"), RESET, MASK),
    output=Operand("y", "L Do"),
    reference=self_modifying_query,
    derived=(
        Derived(
            letter="Do",
            of=lambda sizes: sizes["M"] - 2 * sizes["D"] - 2,
            operand="W",
            expected="M = Do + 2 D + 2 columns [y: Do | k: D | v: D | eta: 1 | alpha: 1]",
            remedy="give W more columns",
        ),
    ),
    rebuild="replay",
    source=SOURCE,
    module="self_modifying",
    settings=_SETTINGS,
)


def forward(
    x: Any,
    W: Any,
    state: Any = None,
    *,
    query: Any = None,
    a: float = 1.0,
    c: float = 1.0,
    keys: str = "l2",
    rate: str = "softplus",
    rate_scale: float = 1.0,
    eps: float = 1e-6,
    reset: Any = None,
    mask: Any = None,
    return_state: bool = False,
    backend: str | None = None,
    num_threads: int | None = None,
) -> Any:
    """Run matrix memories that generate their own keys, values, rates and retention over sequences.

    At every step t the matrix reads x_t, gives y_t, forgets, and updates itself::

        . | k | v | eta | alpha | q = x_t W     k normalised; softplus on eta, sigmoid on alpha
        y_t = q W_y                             W_y: the first Do columns
        W <- alpha W + k^T (eta (a v - c k) W)  all with the W before the step

    a and c choose the objective whose gradient step this is, for a memory that is to map k to v W, with v W
    held constant, block by block:

    ================================================  =====  =====
    objective                                         a      c
    ================================================  =====  =====
    dot product, -<k W, v W>                          1      1
    half the squared distance (equation 93)           1      2
    the squared distance, with its factor 2           2      3
    dot product as equation 92 is printed             -1     1
    ================================================  =====  =====

    One of the units of c is the preconditioner alpha I - eta k^T k of the paper.

    Parameters
    ----------
    x : array (..., L, D)
        Inputs, used as given. L >= 0, D >= 1. float16, bfloat16 (computed in float32), float32 or float64.
        A NumPy array, a torch tensor (differentiable), or any array with ``__dlpack__``; its device decides
        where the operator runs.
    W : array (..., D, M)
        Packed matrices with which sequences begin, with columns [y: Do | k: D | v: D | eta: 1 | alpha: 1 |
        q: D], M = Do + 3 D + 2. With `query`, they have no block q, and M = Do + 2 D + 2. W and all
        operands below have the array type, dtype and device of x. Leading axes of all operands broadcast.
    state : array (..., D, M), optional
        Matrices with which the sequences start instead of W: those that a call with `return_state` returned
        for the earlier part of the sequences. With halves it may also be float32.
    query : array (..., L, D), optional
        Queries q that come from outside.
    a, c : float
        See above.
    keys : {"l2", "softmax"}
        How keys are normalised: k divided by its length, or by eps if that is longer; or a softmax.
    rate : {"softplus", "sigmoid"}
        eta = rate_scale softplus(.), or rate_scale sigmoid(.).
    rate_scale : float
        A factor of all rates.
    eps : float
        Length below which keys are not lengthened to 1; above 0.
    reset : bool array (..., L), optional
        Where true, the matrix returns to W before that step.
    mask : bool array (..., L), optional
        False at padding: such a step changes nothing, its output is zero, and a reset there is ignored.
    return_state : bool
        Whether to return the matrices after the last step as well.
    backend : {"cython", "cuda", "reference"}, optional
        Forces a backend; by default the device of x decides.
    num_threads : int, optional
        The most threads to use on the CPU; see `srwm.get_num_threads`.

    Returns
    -------
    y : array (..., L, Do)
        Outputs, of x's array type, dtype and device.
    W_next : array (..., D, M)
        The matrices after the last step, with the dtype of state, or of x without one. Only returned with
        `return_state`.

    Raises
    ------
    TypeError
        Arguments that are not arrays, other or mixed dtypes, mixed array types; settings of other types.
    ValueError
        Shapes that do not fit, leading axes that do not broadcast, arrays on two devices, an unknown
        backend, an unknown keys or rate, numbers out of range.
    RuntimeError
        The backend cannot run here; the message says why.

    Notes
    -----
    Behrouz, Razaviyayn, Zhong, Mirrokni: Nested Learning: The Illusion of Deep Learning Architectures,
    NeurIPS 2025 (arXiv 2512.24695), section 8, with a matrix for each memory and an update at every step.
    Gradients pass through all updates; the known reproductions compute updates without gradient, so that
    the memories that generate them are not learned.

    A step multiplies W by alpha I + eta k^T (a v - c k). Where eta or v is large, W grows without bound:
    nothing limits it.

    Updates are not undone in backward, which would divide by alpha. The matrices are recomputed from one in
    every 8 steps: backward takes O(L (D + M) + L / 8 D M) memory for each sequence. With tensors, all of
    torch's transforms work. Second derivatives and forward mode run a loop of torch operations: this is
    right, but slower, and takes O(L D M) memory.

    Examples
    --------
    >>> import numpy as np, srwm
    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((32, 8, 100, 16))               # 32 sequences, 8 heads, 100 steps, D = 16
    >>> W = rng.standard_normal((8, 16, 16 + 3 * 16 + 2)) / 16  # one matrix a head
    >>> y, W_next = srwm.self_modifying.forward(x, W, c=2.0, rate_scale=0.1, return_state=True)
    >>> y.shape, W_next.shape
    ((32, 8, 100, 16), (32, 8, 16, 66))

    With one entry, eta = alpha = 1/2 and a query of 1, by hand:

    >>> W = np.array([[2.0, 1.0, 4.0, 0.0, 0.0]])               # y | k | v | eta | alpha
    >>> ones = np.ones((2, 1))
    >>> srwm.self_modifying.forward(ones, W, query=ones, c=2.0, rate="sigmoid")
    array([[2.],
           [3.]])
    """
    op, flat = _chosen("forward", x, W, state, query, reset, mask, (a, c, keys, rate, rate_scale, eps))
    return _call.forward(op, flat, return_state, (backend, num_threads))


def vjp(
    x: Any,
    W: Any,
    state: Any = None,
    *,
    query: Any = None,
    a: float = 1.0,
    c: float = 1.0,
    keys: str = "l2",
    rate: str = "softplus",
    rate_scale: float = 1.0,
    eps: float = 1e-6,
    reset: Any = None,
    mask: Any = None,
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
        ``pullback(grad_y, grad_W_next=None) -> (gx, gW)``, with a query ``(gx, gW, gquery)``, and with a
        state one more, gstate: gradients of exactly the shapes of the operands (summed over broadcast
        axes). It may be called any number of times.

    Examples
    --------
    >>> import numpy as np, srwm
    >>> x, W = np.ones((5, 2)), np.ones((2, 3 + 3 * 2 + 2))
    >>> (y, W_next), pullback = srwm.self_modifying.vjp(x, W, rate_scale=0.1)
    >>> gx, gW = pullback(np.ones_like(y))
    >>> gx.shape, gW.shape
    ((5, 2), (2, 11))
    """
    op, flat = _chosen("vjp", x, W, state, query, reset, mask, (a, c, keys, rate, rate_scale, eps))
    return _call.vjp(op, flat, (backend, num_threads))


def backward(
    x: Any,
    W: Any,
    grad_y: Any,
    grad_W_next: Any = None,
    *,
    state: Any = None,
    query: Any = None,
    a: float = 1.0,
    c: float = 1.0,
    keys: str = "l2",
    rate: str = "softplus",
    rate_scale: float = 1.0,
    eps: float = 1e-6,
    reset: Any = None,
    mask: Any = None,
    backend: str | None = None,
    num_threads: int | None = None,
) -> tuple[Any, ...]:
    """Gradients of x, W, query and state, from those of the results of `forward`.

    It runs forward again first. `vjp` avoids this.

    Parameters
    ----------
    x, W, state, query, a, c, keys, rate, rate_scale, eps, reset, mask, backend, num_threads
        As for `forward`.
    grad_y : array (..., L, Do)
        Gradient of y, of y's shape and dtype.
    grad_W_next : array (..., D, M), optional
        Gradient of W_next, of its shape and dtype; None is zero.

    Returns
    -------
    gx, gW : arrays
        With exactly the shapes of x and W: summed over broadcast axes.
    gquery, gstate : arrays
        With the shapes of query and state; only if these are given.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `forward`; also for gradients with other shapes or dtypes.

    Examples
    --------
    >>> import numpy as np, srwm
    >>> x, W = np.ones((5, 2)), np.ones((2, 3 + 3 * 2 + 2))
    >>> gx, gW = srwm.self_modifying.backward(x, W, np.ones((5, 3)), rate_scale=0.1)
    >>> gx.shape, gW.shape
    ((5, 2), (2, 11))
    """
    op, flat = _chosen("backward", x, W, state, query, reset, mask, (a, c, keys, rate, rate_scale, eps))
    return _call.backward(op, flat, grad_y, grad_W_next, (backend, num_threads))


def _chosen(
    verb: str, x: Any, W: Any, state: Any, query: Any, reset: Any, mask: Any, settings: tuple[Any, ...]
) -> tuple[Operator, tuple[Any, ...]]:
    """The operator with or without a query from outside, and its operands."""
    if query is None:
        return _call.with_settings(SELF_MODIFYING, verb, *settings), (x, W, state, reset, mask)
    return _call.with_settings(SELF_MODIFYING_QUERY, verb, *settings), (x, W, query, state, reset, mask)
