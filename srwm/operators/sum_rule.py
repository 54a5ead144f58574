"""Fast weights under the sum rule: the descriptions and the functions of `srwm.sum_rule`.

Letters and numbered steps: `srwm.reference.sum_rule`, and `srwm.reference.normalised_sum_rule`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from srwm import _call, _checks
from srwm.operators.spec import RESET, Operand, Operator, Setting
from srwm.reference import normalised_sum_rule, sum_rule

SOURCE = "Katharopoulos, Vyas, Pappas, Fleuret, ICML 2020, equations 16 to 20"

_DATA = Operand("q", "L D"), Operand("k", "L D"), Operand("v", "L Do")
_S = Operand("S", "D Do", "initial", optional=True)
_SCALE = Setting("scale", 1.0)

SUM_RULE = Operator(
    name="sum_rule",
    operands=(*_DATA, _S, RESET),
    output=Operand("y", "L Do"),
    reference=sum_rule,
    rebuild="replay",
    source=SOURCE,
    settings=(_SCALE,),
    grad_state="grad_state_next",
)

NORMALISED_SUM_RULE = Operator(
    name="normalised_sum_rule",
    operands=(*_DATA, _S, Operand("z", "D", "initial", optional=True), RESET),
    output=Operand("y", "L Do"),
    reference=normalised_sum_rule,
    rebuild="replay",
    source=SOURCE,
    module="sum_rule",
    settings=(Setting("normalise", 1e-6, least=0), _SCALE),
)


def forward(
    q: Any,
    k: Any,
    v: Any,
    S: Any = None,
    z: Any = None,
    state: Any = None,
    *,
    reset: Any = None,
    normalise: float | None = None,
    scale: float = 1.0,
    return_state: bool = False,
    backend: str | None = None,
    num_threads: int | None = None,
) -> Any:
    """Run fast weights under the sum rule over sequences: linear attention, read after write.

    At every step t the fast weights S store the value v_t with the key k_t. Then the query q_t reads::

        S <- S + k_t^T v_t                      with `normalise`, also  z <- z + k_t
        y_t = scale q_t S                       with `normalise`,  y_t = scale q_t S / (q_t . z + normalise)

    Parameters
    ----------
    q, k : arrays (..., L, D)
        Queries and keys. They are used as given: any feature map belongs to the layer (`srwm.nn.maps`).
        L >= 0, D >= 1. float16, bfloat16 (computed in float32), float32 or float64. NumPy arrays, torch
        tensors (differentiable), or any arrays with ``__dlpack__``; the device of q decides where the
        operator runs.
    v : array (..., L, Do)
        Values, Do >= 1. v and all operands below have the array type, dtype and device of q.
    S : array (..., D, Do), optional
        Fast weights with which sequences begin; None is zero. Leading axes of all operands broadcast.
    z : array (..., D), optional
        The sum of keys with which sequences begin; None is zero. Only with `normalise`.
    state : array (..., D, Do), or tuple of it and an array (..., D), optional
        S, with `normalise` S and z, with which the sequences start instead: what a call with `return_state`
        returned for their earlier part. With halves it may also be float32.
    reset : bool array (..., L), optional
        Where true, S and z return to the operands S and z before that step.
    normalise : float, optional
        Divide outputs by q_t . z and this number, which is >= 0. None: they are not divided. If q_t . z
        comes near to zero, outputs grow without bound: keys and queries must be positive. With 0, outputs
        before the first key are NaN.
    scale : float
        A factor of all outputs, for example D ** -0.5.
    return_state : bool
        Whether to return S, with `normalise` S and z, after the last step as well.
    backend : {"cython", "cuda", "reference"}, optional
        Forces a backend; by default the device of q decides.
    num_threads : int, optional
        The most threads to use on the CPU; see `srwm.get_num_threads`.

    Returns
    -------
    y : array (..., L, Do)
        Outputs, of q's array type, dtype and device.
    S_next : array (..., D, Do), or tuple of it and z_next (..., D)
        S, with `normalise` S and z, after the last step, with the dtype of state, or of q without one. Only
        returned with `return_state`.

    Raises
    ------
    TypeError
        Arguments that are not arrays, other or mixed dtypes, mixed array types.
    ValueError
        Shapes that do not fit, leading axes that do not broadcast, arrays on two devices, an unknown
        backend, z without `normalise`.
    RuntimeError
        The backend cannot run here; the message says why.

    Notes
    -----
    Katharopoulos, Vyas, Pappas, Fleuret: Transformers are RNNs, ICML 2020, equations 16 to 20; as a fast
    weight programmer: Schlag, Irie, Schmidhuber, ICML 2021. Unlike in the published kernels, gradients of
    queries include the fast weights with which sequences start.

    With tensors, all of torch's transforms work. Second derivatives and forward mode run a loop of torch
    operations: this is right, but slower, and takes O(L D Do) memory.

    Examples
    --------
    >>> import numpy as np, srwm
    >>> q, k = np.array([[1.0, 1.0], [2.0, 1.0]]), np.array([[1.0, 0.0], [1.0, 1.0]])
    >>> v = np.array([[1.0, 2.0], [3.0, -1.0]])
    >>> srwm.sum_rule.forward(q, k, v)
    array([[ 1.,  2.],
           [11.,  1.]])
    >>> srwm.sum_rule.forward(q, k, v, normalise=0)
    array([[1. , 2. ],
           [2.2, 0.2]])
    """
    op, flat = _chosen("forward", q, k, v, S, z, state, reset, normalise, scale)
    return _call.forward(op, flat, return_state, (backend, num_threads))


def vjp(
    q: Any,
    k: Any,
    v: Any,
    S: Any = None,
    z: Any = None,
    state: Any = None,
    *,
    reset: Any = None,
    normalise: float | None = None,
    scale: float = 1.0,
    backend: str | None = None,
    num_threads: int | None = None,
) -> tuple[tuple[Any, Any], Callable[..., tuple[Any, ...]]]:
    """`forward` with its vector-Jacobian product.

    Takes the arguments of `forward` and raises as it does.

    Returns
    -------
    (y, S_next) : tuple
        As ``forward(..., return_state=True)``.
    pullback : callable
        ``pullback(grad_y, grad_state_next=None) -> (gq, gk, gv, gS, gz)``, with a state ``(..., gstate)``,
        or with `normalise` ``(..., gstate_S, gstate_z)``: gradients of exactly the shapes of the operands
        (summed over broadcast axes), None for those not given. `grad_state_next` has the structure of
        S_next. It may be called any number of times.

    Examples
    --------
    >>> import numpy as np, srwm
    >>> q, k, v = np.ones((5, 2)), np.ones((5, 2)), np.ones((5, 3))
    >>> (y, S_next), pullback = srwm.sum_rule.vjp(q, k, v)
    >>> gq, gk, gv, gS, gz = pullback(np.ones_like(y))
    >>> gq.shape, gk.shape, gv.shape, gS, gz
    ((5, 2), (5, 2), (5, 3), None, None)
    """
    op, flat = _chosen("vjp", q, k, v, S, z, state, reset, normalise, scale)
    results, pullback = _call.vjp(op, flat, (backend, num_threads))
    if normalise is not None:
        return results, pullback
    return results, lambda *gradients, **by_name: _with_z(pullback(*gradients, **by_name))


def backward(
    q: Any,
    k: Any,
    v: Any,
    S: Any,
    z: Any,
    grad_y: Any,
    grad_state_next: Any = None,
    *,
    state: Any = None,
    reset: Any = None,
    normalise: float | None = None,
    scale: float = 1.0,
    backend: str | None = None,
    num_threads: int | None = None,
) -> tuple[Any, ...]:
    """Gradients of q, k, v, S, z and state, from those of the results of `forward`.

    It runs forward again first. `vjp` avoids this.

    Parameters
    ----------
    q, k, v, S, z, state, reset, normalise, scale, backend, num_threads
        As for `forward`; S and z may be None.
    grad_y : array (..., L, Do)
        Gradient of y, of y's shape and dtype.
    grad_state_next : array (..., D, Do), or tuple of it and an array (..., D), optional
        Gradient of what `return_state` gives; None is zero.

    Returns
    -------
    gq, gk, gv, gS, gz : arrays
        With exactly the shapes of the operands: summed over broadcast axes. None for S or z not given.
    gstate : array, or two
        With the shapes of state; only if it is given.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `forward`; also for gradients with other shapes or dtypes.

    Examples
    --------
    >>> import numpy as np, srwm
    >>> q, k, v = np.ones((5, 2)), np.ones((5, 2)), np.ones((5, 3))
    >>> gq, gk, gv, gS, gz = srwm.sum_rule.backward(q, k, v, np.zeros((2, 3)), None, np.ones((5, 3)))
    >>> gS.shape, gz
    ((2, 3), None)
    """
    op, flat = _chosen("backward", q, k, v, S, z, state, reset, normalise, scale)
    gradients = _call.backward(op, flat, grad_y, grad_state_next, (backend, num_threads))
    return _with_z(gradients) if normalise is None else gradients


def _chosen(
    verb: str, q: Any, k: Any, v: Any, S: Any, z: Any, state: Any, reset: Any, normalise: Any, scale: Any
) -> tuple[Operator, tuple[Any, ...]]:
    """The operator with or without a denominator, and its operands."""
    if normalise is not None:
        op = _call.with_settings(NORMALISED_SUM_RULE, verb, normalise, scale)
        return op, (q, k, v, S, z, *_call.states(op, verb, state), reset)
    if z is not None:
        raise ValueError(
            f"{SUM_RULE.verb(verb)}: z: expected None without normalise, got {_checks.type_name(z)}; z is "
            "the sum of keys by which outputs are divided: pass normalise=1e-6 too, or no z"
        )
    return _call.with_settings(SUM_RULE, verb, scale), (q, k, v, S, state, reset)


def _with_z(gradients: tuple[Any, ...]) -> tuple[Any, ...]:
    """The gradients with None for z, which is not given."""
    gq, gk, gv, gS, *gstate = gradients
    return gq, gk, gv, gS, None, *gstate
