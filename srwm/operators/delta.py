"""Fast weights under the delta rule: the description and the functions of `srwm.delta`.

The self-referential weight matrix generalises this operator. Letters and numbered steps:
`srwm.reference.delta`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from srwm import _call
from srwm.operators.spec import RESET, Operand, Operator
from srwm.reference import delta as reference

_DATA = Operand("q", "L D"), Operand("k", "L D"), Operand("v", "L Do"), Operand("beta", "L")

DELTA = Operator(
    name="delta",
    operands=(*_DATA, Operand("S", "D Do", "initial", optional=True), RESET),
    output=Operand("y", "L Do"),
    reference=reference,
    source="Schlag, Irie, Schmidhuber, ICML 2021, equations 23 to 25; read after write as in Irie, Schlag, "
    "Csordás, Schmidhuber, NeurIPS 2021",
)


def forward(
    q: Any,
    k: Any,
    v: Any,
    beta: Any,
    S: Any = None,
    state: Any = None,
    *,
    reset: Any = None,
    return_state: bool = False,
    backend: str | None = None,
    num_threads: int | None = None,
) -> Any:
    """Run fast weights under the delta rule over sequences, read after write.

    At every step t the fast weights S are changed, so that the key k_t reads the value v_t more exactly.
    Then the query q_t reads the output::

        S <- S + k_t^T (beta_t (v_t - k_t S))
        y_t = q_t S

    Parameters
    ----------
    q, k : arrays (..., L, D)
        Queries and keys. They are used as given: any feature map or normalisation belongs to the layer.
        L >= 0, D >= 1. float16, bfloat16 (computed in float32), float32 or float64. NumPy arrays, torch
        tensors (differentiable), or any arrays with ``__dlpack__``; the device of q decides where the
        operator runs. A step multiplies S along k_t by 1 - beta_t |k_t|^2: with beta_t in [0, 1] and keys
        no longer than sqrt(2), S does not grow without bound. With longer keys, gradients
        stay exact, but take longer.
    v : array (..., L, Do)
        Values, Do >= 1. v and all operands below have the array type, dtype and device of q.
    beta : array (..., L)
        Rates, one for each step. They are used as given, so after any sigmoid.
    S : array (..., D, Do), optional
        Fast weights with which sequences begin; None is zero. Leading axes of all operands broadcast, as
        in a NumPy generalised ufunc (l,d),(l,d),(l,o),(l),(d,o)->(l,o).
    state : array (..., D, Do), optional
        Fast weights with which the sequences start instead of S: those that a call with `return_state`
        returned for the earlier part of the sequences. Its dtype is that of q; with halves it may also be
        float32.
    reset : bool array (..., L), optional
        Where true, the fast weights return to S before that step. The first step may be a reset, too.
    return_state : bool
        Whether to return the fast weights after the last step as well.
    backend : {"cython", "cuda", "reference"}, optional
        Forces a backend; by default the device of q decides.
    num_threads : int, optional
        The most threads to use on the CPU; by default `srwm.set_num_threads` and the variables decide, see
        `srwm.get_num_threads`. The last bits of results may depend on it, and, where many small sequences
        are computed together, on how many there are and on which of them have a reset.

    Returns
    -------
    y : array (..., L, Do)
        Outputs, of q's array type, dtype and device.
    S_next : array (..., D, Do)
        The fast weights after the last step, with the dtype of state, or of q if there is no state. Only
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
    Schlag, Irie, Schmidhuber: Linear Transformers Are Secretly Fast Weight Programmers, ICML 2021,
    equations 23 to 25. Irie, Schlag, Csordás, Schmidhuber: Going Beyond Linear Transformers with
    Recurrent Fast Weight Programmers, NeurIPS 2021.

    With tensors, all of torch's transforms work. Second derivatives and forward mode run a loop of torch
    operations: this is right, but slower, and takes O(L D Do) memory.

    Examples
    --------
    >>> import numpy as np, srwm
    >>> rng = np.random.default_rng(0)
    >>> q, k, v = rng.standard_normal((3, 32, 8, 100, 16)) / 4   # 32 sequences, 8 heads, 100 steps
    >>> y, S = srwm.delta.forward(q, k, v, rng.random((32, 8, 100)), return_state=True)
    >>> y.shape, S.shape
    ((32, 8, 100, 16), (32, 8, 16, 16))

    A key of length 1 reads the value that was last written with this key at rate 1:

    >>> key, values = np.array([[0.6, 0.8]] * 2), np.array([[1.0], [5.0]])
    >>> srwm.delta.forward(key, key, values, np.ones(2))
    array([[1.],
           [5.]])
    """
    return _call.forward(DELTA, (q, k, v, beta, S, state, reset), return_state, (backend, num_threads))


def vjp(
    q: Any,
    k: Any,
    v: Any,
    beta: Any,
    S: Any = None,
    state: Any = None,
    *,
    reset: Any = None,
    backend: str | None = None,
    num_threads: int | None = None,
) -> tuple[tuple[Any, Any], Callable[..., tuple[Any, ...]]]:
    """`forward` with its vector-Jacobian product.

    Takes the arguments of `forward` and raises as it does.

    Returns
    -------
    (y, S_next) : tuple of arrays
        As ``forward(..., return_state=True)``.
    pullback : callable
        ``pullback(grad_y, grad_S_next=None) -> (gq, gk, gv, gbeta, gS)``, with a state ``(..., gS,
        gstate)``: gradients of exactly the shapes of the operands (summed over broadcast axes), from the
        gradients of y and of S_next (None is zero); gS is None if S was. It may be called any number of
        times. It holds O(L (D + Do)) memory for each sequence.

    Examples
    --------
    >>> import numpy as np, srwm
    >>> q, k, v, beta = np.ones((5, 2)), np.ones((5, 2)), np.ones((5, 3)), np.ones(5)
    >>> (y, S_next), pullback = srwm.delta.vjp(q, k, v, beta)
    >>> gq, gk, gv, gbeta, gS = pullback(np.ones_like(y))
    >>> gq.shape, gk.shape, gv.shape, gbeta.shape, gS
    ((5, 2), (5, 2), (5, 3), (5,), None)
    """
    return _call.vjp(DELTA, (q, k, v, beta, S, state, reset), (backend, num_threads))


def backward(
    q: Any,
    k: Any,
    v: Any,
    beta: Any,
    S: Any,
    grad_y: Any,
    grad_S_next: Any = None,
    *,
    state: Any = None,
    reset: Any = None,
    backend: str | None = None,
    num_threads: int | None = None,
) -> tuple[Any, ...]:
    """Gradients of q, k, v, beta, S and state, from those of the results of `forward`.

    It runs forward again first. `vjp` avoids this: it saves data for backward.

    Parameters
    ----------
    q, k, v, beta, S, state, reset, backend, num_threads
        As for `forward`; S may be None.
    grad_y : array (..., L, Do)
        Gradient of y, of y's shape and dtype.
    grad_S_next : array (..., D, Do), optional
        Gradient of S_next, of its shape and dtype; None is zero.

    Returns
    -------
    gq, gk, gv, gbeta, gS : arrays
        With exactly the shapes of the operands: summed over broadcast axes. gS is None if S is.
    gstate : array
        With the shape and dtype of state; only if state is given.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `forward`; also for gradients with other shapes or dtypes.

    Examples
    --------
    >>> import numpy as np, srwm
    >>> q, k, v, beta = np.ones((5, 2)), np.ones((5, 2)), np.ones((5, 3)), np.ones(5)
    >>> gq, gk, gv, gbeta, gS = srwm.delta.backward(q, k, v, beta, np.zeros((2, 3)), np.ones((5, 3)))
    >>> gbeta.shape, gS.shape
    ((5,), (2, 3))
    """
    operands = (q, k, v, beta, S, state, reset)
    return _call.backward(DELTA, operands, grad_y, grad_S_next, (backend, num_threads))
