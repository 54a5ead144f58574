"""The delta rule on arrays: check the arguments, resolve a backend, call it.

As `srwm.ops`, for the operator of fast weights that the self-referential weight matrix generalises.
Shapes and letters are those of `srwm._delta_reference`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from srwm import _call, _checks, _dispatch
from srwm._arrays import zeros
from srwm._broadcast import delta_leading_shape
from srwm._call import Plan, as_backend_arrays, give_back, own_copy, prepare

_OPERANDS = ("q", "k", "v", "beta", "S", "reset")
_GRADIENTS = ("q", "grad_y", "grad_S_next")

Gradients = tuple[Any, Any, Any, Any, Any]


def check_operands(op: str, q: Any, k: Any, v: Any, beta: Any, S: Any, reset: Any) -> tuple[int, ...]:
    """The broadcast leading shape of all operands; raises as §delta_forward."""
    _checks.array(op, "q", q)
    _checks.floating(op, "q", q)
    for name, a in (("k", k), ("v", v), ("beta", beta), ("S", S)):
        if a is not None or name != "S":
            _checks.array(op, name, a)
            _checks.same_kind(op, name, a, q, of="q")
    _checks.rank(op, "q", q, 2, "(..., L, D)")
    _checks.rank(op, "v", v, 2, "(..., L, Do)")
    _checks.at_least_one(op, "q", q, "D", "(..., L, D)")
    _checks.at_least_one(op, "v", v, "Do", "(..., L, Do)")
    (L, D), Do = q.shape[-2:], v.shape[-1]
    wanted = [
        ("k", k, {"L": L, "D": D}, "a key has the size of a query"),
        ("v", v, {"L": L, "Do": Do}, "one value for each step"),
        ("beta", beta, {"L": L}, "one rate for each step"),
    ]
    if S is not None:
        wanted.append(("S", S, {"D": D, "Do": Do}, f"Do is the last axis of v {tuple(v.shape)}"))
    for name, a, sizes, why in wanted:
        _checks.last_axes(op, name, a, sizes, q, of="q", why=why)
    if reset is not None:
        _checks.boolean(op, "reset", reset, q, L, of="q")
    return delta_leading_shape(op, q, k, v, beta, S, reset)


def check_gradients(op: str, q: Any, lead: tuple[int, ...], v: Any, grad_y: Any, grad_S_next: Any) -> None:
    """Raise unless grad_y and grad_S_next (or None) have the shapes of y and S_next, and q's dtype."""
    (L, D), Do = q.shape[-2:], v.shape[-1]
    _call.check_gradients(
        *(op, q, "q"),
        ("grad_y", grad_y, (*lead, L, Do), "y"),
        ("grad_S_next", grad_S_next, (*lead, D, Do), "S_next"),
    )


def _prepare(
    op: str, operands: tuple[Any, ...], backend: str | None, num_threads: Any
) -> tuple[Plan, tuple[Any, ...]]:
    """The plan, and the operands as arrays of its backend: a missing S as zeros."""
    plan, arrays = prepare(check_operands, op, _OPERANDS, operands, backend, num_threads)
    if arrays[4] is None:
        q, k, v, beta, _, reset = arrays
        S = zeros((q.shape[-1], v.shape[-1]), like=q)
        arrays = (q, k, v, beta, S, reset)
    return plan, arrays


def delta_forward(
    q: Any,
    k: Any,
    v: Any,
    beta: Any,
    S: Any = None,
    *,
    reset: Any = None,
    return_state: bool = False,
    backend: str | None = None,
    num_threads: int | None = None,
) -> Any:
    """Run fast weights under the delta rule over sequences, read after write.

    At every step t the fast weights S answer the key k_t with v_t a little more exactly, and then the
    query q_t::

        S <- S + k_t^T (beta_t (v_t - k_t S))
        y_t = q_t S

    Parameters
    ----------
    q, k : arrays (..., L, D)
        Queries and keys, as they are: any feature map or normalisation belongs to the layer. L >= 0,
        D >= 1. float16, bfloat16 (computed in float32), float32 or float64. NumPy arrays, torch
        tensors (differentiable), or any arrays with ``__dlpack__``; the device of q decides where the
        operator runs. A step multiplies S along k_t by 1 - beta_t k_t k_t^T: with beta_t in [0, 1],
        keys no longer than sqrt(2) keep S from growing without bound.
    v : array (..., L, Do)
        Values, Do >= 1. This and all that follow: array type, dtype and device of q.
    beta : array (..., L)
        Rates, one for each step, as they are: after any sigmoid.
    S : array (..., D, Do), optional
        Initial fast weights; None is zero. Leading axes of all operands broadcast, as in a NumPy
        generalised ufunc (l,d),(l,d),(l,o),(l),(d,o)->(l,o).
    reset : bool array (..., L), optional
        Where true, S returns to the initial S before that step. Leading axes broadcast too.
    return_state : bool
        Whether to return S after the last step as well.
    backend : {"cython", "cuda", "reference"}, optional
        Forces a backend; by default the device of q decides.
    num_threads : int, optional
        The most threads to use on the CPU; by default `set_num_threads` and the variables decide, see
        `get_num_threads`.

    Returns
    -------
    y : array (..., L, Do)
        Outputs, of q's array type, dtype and device.
    S_next : array (..., D, Do)
        S after the last step; only with `return_state`.

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
    Schlag, Irie, Schmidhuber: Linear Transformers Are Secretly Fast Weight Programmers, ICML 2021,
    equations 23 to 25. Irie, Schlag, Csordás, Schmidhuber: Going Beyond Linear Transformers with
    Recurrent Fast Weight Programmers, NeurIPS 2021.

    Examples
    --------
    >>> import numpy as np, srwm
    >>> rng = np.random.default_rng(0)
    >>> q, k, v = rng.standard_normal((3, 32, 8, 100, 16)) / 4   # 32 sequences, 8 heads, 100 steps
    >>> y, S = srwm.delta_forward(q, k, v, rng.random((32, 8, 100)), return_state=True)
    >>> y.shape, S.shape
    ((32, 8, 100, 16), (32, 8, 16, 16))

    What was written last under a key of length 1, at rate 1, is what the key reads:

    >>> key, values = np.array([[0.6, 0.8]] * 2), np.array([[1.0], [5.0]])
    >>> srwm.delta_forward(key, key, values, np.ones(2))
    array([[1.],
           [5.]])
    """
    op = "srwm.delta_forward"
    front_end = None if type(q) is np.ndarray else _dispatch.front_end_of(type(q))
    if front_end is not None:
        return _dispatch.front_ends[front_end].delta_forward(
            *(q, k, v, beta, S),
            reset=reset,
            return_state=return_state,
            backend=backend,
            num_threads=num_threads,
        )
    plan, arrays = _prepare(op, (q, k, v, beta, S, reset), backend, num_threads)
    y, S_next, _ = plan.backend.delta_forward(
        *arrays, plan.lead, keep=False, return_state=return_state, num_threads=num_threads
    )
    if plan.original is not None:
        y, S_next = give_back(plan, y, S_next)
    return (y, S_next) if return_state else y


def delta_vjp(
    q: Any,
    k: Any,
    v: Any,
    beta: Any,
    S: Any = None,
    *,
    reset: Any = None,
    backend: str | None = None,
    num_threads: int | None = None,
) -> tuple[tuple[Any, Any], Callable[..., Gradients]]:
    """`delta_forward` with its vector-Jacobian product.

    Takes the arguments of `delta_forward` and raises as it does.

    Returns
    -------
    (y, S_next) : tuple of arrays
        As ``delta_forward(..., return_state=True)``.
    pullback : callable
        ``pullback(grad_y, grad_S_next=None) -> (gq, gk, gv, gbeta, gS)``: gradients of exactly the
        shapes of the operands (summed over broadcast axes), for the gradients of y and, unless None
        (zero), of S_next; gS is None where S was. May be called any number of times. It holds
        O(L (D + Do)) memory a sequence.

    Examples
    --------
    >>> import numpy as np, srwm
    >>> q, k, v, beta, S = (np.ones(n) for n in ((5, 2), (5, 2), (5, 3), 5, (2, 3)))
    >>> (y, S_next), pullback = srwm.delta_vjp(q, k, v, beta, S)
    >>> [g.shape for g in pullback(np.ones_like(y))]
    [(5, 2), (5, 2), (5, 3), (5,), (2, 3)]
    """
    op = "srwm.delta_vjp"
    front_end = None if type(q) is np.ndarray else _dispatch.front_end_of(type(q))
    if front_end is not None:
        return _dispatch.front_ends[front_end].delta_vjp(
            q, k, v, beta, S, reset=reset, backend=backend, num_threads=num_threads
        )
    plan, arrays = _prepare(op, (q, k, v, beta, S, reset), backend, num_threads)
    arrays = own_copy(arrays)  # the pullback must not see what the caller does to the operands
    y, S_next, kept = plan.backend.delta_forward(
        *arrays, plan.lead, keep=True, return_state=True, num_threads=num_threads
    )
    is_stateless = S is None

    def pullback(grad_y: Any, grad_S_next: Any = None) -> Gradients:
        return _pull_back(op, plan, arrays, kept, grad_y, grad_S_next, is_stateless, num_threads)

    y, S_next = give_back(plan, y, S_next)
    return (y, S_next), pullback


def _pull_back(
    op: str,
    plan: Plan,
    arrays: tuple[Any, ...],
    kept: Any,
    grad_y: Any,
    grad_S_next: Any,
    is_stateless: bool,
    num_threads: int | None,
) -> Gradients:
    like = arrays[0] if plan.original is None else plan.original
    check_gradients(op, like, plan.lead, arrays[2], grad_y, grad_S_next)
    _, grad_y, grad_S_next = as_backend_arrays(op, _GRADIENTS, (like, grad_y, grad_S_next))
    gq, gk, gv, gbeta, gS = plan.backend.delta_backward(
        *arrays, plan.lead, kept, grad_y, grad_S_next, num_threads=num_threads
    )
    gq, gk, gv, gbeta, gS = give_back(plan, gq, gk, gv, gbeta, None if is_stateless else gS)
    return gq, gk, gv, gbeta, gS


def delta_backward(
    q: Any,
    k: Any,
    v: Any,
    beta: Any,
    S: Any,
    grad_y: Any,
    grad_S_next: Any = None,
    *,
    reset: Any = None,
    backend: str | None = None,
    num_threads: int | None = None,
) -> Gradients:
    """Gradients of q, k, v, beta and S, from those of the results of `delta_forward`.

    Runs forward again first; `delta_vjp` keeps what it needs instead.

    Parameters
    ----------
    q, k, v, beta, S, reset, backend, num_threads
        As for `delta_forward`; S may be None here too.
    grad_y : array (..., L, Do)
        Gradient of y, of y's shape and q's dtype.
    grad_S_next : array (..., D, Do), optional
        Gradient of S_next; None is zero.

    Returns
    -------
    gq, gk, gv, gbeta, gS : arrays
        Of exactly the shapes of q, k, v, beta and S: summed over axes that were broadcast. gS is None
        where S was.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `delta_forward`; also for gradients of other shapes or dtypes.

    Examples
    --------
    >>> import numpy as np, srwm
    >>> q, k, v, beta = np.ones((5, 2)), np.ones((5, 2)), np.ones((5, 3)), np.ones(5)
    >>> gq, gk, gv, gbeta, gS = srwm.delta_backward(q, k, v, beta, None, np.ones((5, 3)))
    >>> gq.shape, gv.shape, gbeta.shape, gS
    ((5, 2), (5, 3), (5,), None)
    """
    op = "srwm.delta_backward"
    front_end = None if type(q) is np.ndarray else _dispatch.front_end_of(type(q))
    if front_end is not None:
        return _dispatch.front_ends[front_end].delta_backward(
            *(q, k, v, beta, S, grad_y, grad_S_next),
            reset=reset,
            backend=backend,
            num_threads=num_threads,
        )
    plan, arrays = _prepare(op, (q, k, v, beta, S, reset), backend, num_threads)
    check_gradients(op, q, plan.lead, v, grad_y, grad_S_next)
    _, _, kept = plan.backend.delta_forward(
        *arrays, plan.lead, keep=True, return_state=False, num_threads=num_threads
    )
    return _pull_back(op, plan, arrays, kept, grad_y, grad_S_next, S is None, num_threads)
