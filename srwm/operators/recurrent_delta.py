"""The Recurrent Delta Net: the description and the functions of `srwm.recurrent_delta`.

Letters and numbered steps: `srwm.reference.recurrent_delta`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from srwm import _call
from srwm.operators.spec import MASK, RESET, Operand, Operator
from srwm.reference import recurrent_delta as reference

_DATA = Operand("q", "L D"), Operand("k", "L D"), Operand("v", "L D"), Operand("b", "L")
_R = tuple(Operand(name, "D D", "parameter") for name in ("R_q", "R_k", "R_v"))
_S, _Y = Operand("S", "D D", "initial", optional=True), Operand("y", "D", "initial", optional=True)

RECURRENT_DELTA = Operator(
    name="recurrent_delta",
    operands=(*_DATA, *_R, Operand("r_b", "D", "parameter"), _S, _Y, RESET, MASK),
    output=Operand("y", "L D"),
    reference=reference,
    rebuild="replay",
    source="Irie, Schlag, Csordás, Schmidhuber, NeurIPS 2021",
)


def forward(
    q: Any,
    k: Any,
    v: Any,
    b: Any,
    R_q: Any,
    R_k: Any,
    R_v: Any,
    r_b: Any,
    S: Any = None,
    y: Any = None,
    state: Any = None,
    *,
    reset: Any = None,
    mask: Any = None,
    return_state: bool = False,
    backend: str | None = None,
    num_threads: int | None = None,
) -> Any:
    """Run the Recurrent Delta Net over sequences: the delta rule, whose inputs depend on its last output.

    At every step t the last output is added, through recurrent weights, to the query, the key, the value
    and the rate::

        r = tanh(y_{t-1})
        q' = softmax(q_t + r R_q)    k' = softmax(k_t + r R_k)
        v' = v_t + r R_v             beta = sigmoid(b_t + r . r_b)
        S <- S + k'^T (beta (v' - k' S))
        y_t = q' S

    Parameters
    ----------
    q, k, v : arrays (..., L, D)
        Queries, keys and values before any softmax. L >= 0, D >= 1. float16, bfloat16 (computed in
        float32), float32 or float64. NumPy arrays, torch tensors (differentiable), or any arrays with
        ``__dlpack__``; the device of q decides where the operator runs.
    b : array (..., L)
        Rates before the sigmoid. b and all operands below have the array type, dtype and device of q.
    R_q, R_k, R_v : arrays (..., D, D)
        Recurrent weights, from the last output to queries, keys and values; for example one for each head,
        (H, D, D). Leading axes of all operands broadcast.
    r_b : array (..., D)
        Recurrent weights to the rate.
    S : array (..., D, D), optional
        Fast weights with which sequences begin; None is zero.
    y : array (..., D), optional
        The last output with which sequences begin; None is zero.
    state : tuple of arrays (..., D, D) and (..., D), optional
        S and y with which the sequences start instead: what a call with `return_state` returned for their
        earlier part. With halves they may also be float32.
    reset : bool array (..., L), optional
        Where true, S and y return to the operands S and y before that step.
    mask : bool array (..., L), optional
        False at padding: such a step changes nothing, its output is zero, and a reset there is ignored.
    return_state : bool
        Whether to return S and y after the last step as well.
    backend : {"cython", "cuda", "reference"}, optional
        Forces a backend; by default the device of q decides.
    num_threads : int, optional
        The most threads to use on the CPU; see `srwm.get_num_threads`.

    Returns
    -------
    y : array (..., L, D)
        Outputs, of q's array type, dtype and device.
    (S_next, y_next) : tuple of arrays (..., D, D) and (..., D)
        S and the last output after the last step, with the dtype of state, or of q without one. Only
        returned with `return_state`.

    Raises
    ------
    TypeError
        Arguments that are not arrays, other or mixed dtypes, mixed array types, a state that is no tuple
        of two.
    ValueError
        Shapes that do not fit, leading axes that do not broadcast, arrays on two devices, an unknown
        backend.
    RuntimeError
        The backend cannot run here; the message says why.

    Notes
    -----
    Irie, Schlag, Csordás, Schmidhuber: Going Beyond Linear Transformers with Recurrent Fast Weight
    Programmers, NeurIPS 2021. Unlike in the published kernels, S and y with which sequences start have
    gradients.

    Backward recomputes the matrices from one in every 8 steps: it takes O(L D + L / 8 D D) memory for each
    sequence. With tensors, all of torch's transforms work. Second derivatives and forward mode run a loop
    of torch operations: this is right, but slower, and takes O(L D D) memory.

    Examples
    --------
    >>> import numpy as np, srwm
    >>> rng = np.random.default_rng(0)
    >>> q, k, v = rng.standard_normal((3, 32, 8, 100, 16))   # 32 sequences, 8 heads, 100 steps, D = 16
    >>> b = rng.standard_normal((32, 8, 100))
    >>> R_q, R_k, R_v = rng.standard_normal((3, 8, 16, 16)) / 4
    >>> r_b = rng.standard_normal((8, 16)) / 4
    >>> y, (S, last) = srwm.recurrent_delta.forward(q, k, v, b, R_q, R_k, R_v, r_b, return_state=True)
    >>> y.shape, S.shape, bool(np.array_equal(last, y[..., -1, :]))
    ((32, 8, 100, 16), (32, 8, 16, 16), True)
    """
    states = _call.states(RECURRENT_DELTA, "forward", state)
    flat = q, k, v, b, R_q, R_k, R_v, r_b, S, y, *states, reset, mask
    return _call.forward(RECURRENT_DELTA, flat, return_state, (backend, num_threads))


def vjp(
    q: Any,
    k: Any,
    v: Any,
    b: Any,
    R_q: Any,
    R_k: Any,
    R_v: Any,
    r_b: Any,
    S: Any = None,
    y: Any = None,
    state: Any = None,
    *,
    reset: Any = None,
    mask: Any = None,
    backend: str | None = None,
    num_threads: int | None = None,
) -> tuple[tuple[Any, Any], Callable[..., tuple[Any, ...]]]:
    """`forward` with its vector-Jacobian product.

    Takes the arguments of `forward` and raises as it does.

    Returns
    -------
    (y, (S_next, y_next)) : tuple
        As ``forward(..., return_state=True)``.
    pullback : callable
        ``pullback(grad_y, grad_state_next=None) -> (gq, gk, gv, gb, gR_q, gR_k, gR_v, gr_b, gS, gy)``, with
        a state ``(..., gstate_S, gstate_y)``: gradients of exactly the shapes of the operands (summed over
        broadcast axes), None for S and y if they are. `grad_state_next` is a tuple of the gradients of
        S_next and y_next, each of which may be None, or None. It may be called any number of times.

    Examples
    --------
    >>> import numpy as np, srwm
    >>> q, b, R, r = np.ones((5, 2)), np.ones(5), np.ones((2, 2)), np.ones(2)
    >>> (y, state), pullback = srwm.recurrent_delta.vjp(q, q, q, b, R, R, R, r)
    >>> [None if g is None else g.shape for g in pullback(np.ones_like(y))]
    [(5, 2), (5, 2), (5, 2), (5,), (2, 2), (2, 2), (2, 2), (2,), None, None]
    """
    states = _call.states(RECURRENT_DELTA, "vjp", state)
    flat = q, k, v, b, R_q, R_k, R_v, r_b, S, y, *states, reset, mask
    return _call.vjp(RECURRENT_DELTA, flat, (backend, num_threads))


def backward(
    q: Any,
    k: Any,
    v: Any,
    b: Any,
    R_q: Any,
    R_k: Any,
    R_v: Any,
    r_b: Any,
    S: Any,
    y: Any,
    grad_y: Any,
    grad_state_next: Any = None,
    *,
    state: Any = None,
    reset: Any = None,
    mask: Any = None,
    backend: str | None = None,
    num_threads: int | None = None,
) -> tuple[Any, ...]:
    """Gradients of all operands and of state, from those of the results of `forward`.

    It runs forward again first. `vjp` avoids this.

    Parameters
    ----------
    q, k, v, b, R_q, R_k, R_v, r_b, S, y, state, reset, mask, backend, num_threads
        As for `forward`; S and y may be None.
    grad_y : array (..., L, D)
        Gradient of the outputs, of their shape and dtype.
    grad_state_next : tuple of arrays (..., D, D) and (..., D), optional
        Gradients of S_next and y_next, each of which may be None; None is zero.

    Returns
    -------
    gq, gk, gv, gb, gR_q, gR_k, gR_v, gr_b, gS, gy : arrays
        With exactly the shapes of the operands: summed over broadcast axes. None for S or y not given.
    gstate_S, gstate_y : arrays
        With the shapes of state; only if it is given.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `forward`; also for gradients with other shapes or dtypes.

    Examples
    --------
    >>> import numpy as np, srwm
    >>> q, b, R, r = np.ones((5, 2)), np.ones(5), np.ones((2, 2)), np.ones(2)
    >>> gradients = srwm.recurrent_delta.backward(q, q, q, b, R, R, R, r, None, None, np.ones((5, 2)))
    >>> gradients[4].shape
    (2, 2)
    """
    states = _call.states(RECURRENT_DELTA, "backward", state)
    flat = q, k, v, b, R_q, R_k, R_v, r_b, S, y, *states, reset, mask
    return _call.backward(RECURRENT_DELTA, flat, grad_y, grad_state_next, (backend, num_threads))
