"""The Delta RNN: the description and the functions of `srwm.delta_rnn`.

Letters and numbered steps: `srwm.reference.delta_rnn`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from srwm import _call
from srwm.operators.spec import MASK, RESET, Operand, Operator, Setting
from srwm.reference import delta_rnn as reference

_DATA = Operand("z", "L D"), Operand("k", "L D"), Operand("v", "L D"), Operand("beta", "L")
_R, _H = Operand("R", "D D", "initial", optional=True), Operand("h", "D", "initial", optional=True)

DELTA_RNN = Operator(
    name="delta_rnn",
    operands=(*_DATA, _R, _H, RESET, MASK),
    output=Operand("y", "L D"),
    reference=reference,
    rebuild="replay",
    source="Irie, Schlag, Csordás, Schmidhuber, NeurIPS 2021",
    settings=(Setting("version", 2, choices=(1, 2)),),
)


def forward(
    z: Any,
    k: Any,
    v: Any,
    beta: Any,
    R: Any = None,
    h: Any = None,
    state: Any = None,
    *,
    version: int = 2,
    reset: Any = None,
    mask: Any = None,
    return_state: bool = False,
    backend: str | None = None,
    num_threads: int | None = None,
) -> Any:
    """Run the Delta RNN over sequences: a recurrence whose matrix R is written by the delta rule.

    At every step t the key k_t comes to read the value v_t from R, as in `srwm.delta`. Then the last output
    reads R, and what it reads is added to the input z_t::

        R <- R + k_t^T (beta_t (v_t - k_t R))
        version 1:  h_t = softmax(z_t + h_{t-1} R)
        version 2:  h_t = z_t + softmax(h_{t-1}) R

    Parameters
    ----------
    z : array (..., L, D)
        Inputs of the recurrence; in the published network, outputs of a first `srwm.delta`. L >= 0, D >= 1.
        float16, bfloat16 (computed in float32), float32 or float64. A NumPy array, a torch tensor
        (differentiable), or any array with ``__dlpack__``; its device decides where the operator runs.
    k, v : arrays (..., L, D)
        Keys and values. They and all operands below have the array type, dtype and device of z. Keys are
        used as given: any softmax belongs to the layer.
    beta : array (..., L)
        Rates, used as given, so after any sigmoid.
    R : array (..., D, D), optional
        Matrices with which sequences begin; None is zero. Leading axes of all operands broadcast.
    h : array (..., D), optional
        The last output with which sequences begin; None is zero.
    state : tuple of arrays (..., D, D) and (..., D), optional
        R and h with which the sequences start instead: what a call with `return_state` returned for their
        earlier part. With halves they may also be float32.
    version : {2, 1}
        Where the softmax is: on what reads R, with 1e-6 in its denominator (2), or on the output (1).
    reset : bool array (..., L), optional
        Where true, R and h return to the operands R and h before that step.
    mask : bool array (..., L), optional
        False at padding: such a step changes nothing, its output is zero, and a reset there is ignored.
    return_state : bool
        Whether to return R and h after the last step as well.
    backend : {"cython", "cuda", "reference"}, optional
        Forces a backend; by default the device of z decides.
    num_threads : int, optional
        The most threads to use on the CPU; see `srwm.get_num_threads`.

    Returns
    -------
    h : array (..., L, D)
        Outputs, of z's array type, dtype and device.
    (R_next, h_next) : tuple of arrays (..., D, D) and (..., D)
        R and the last output after the last step, with the dtype of state, or of z without one. Only
        returned with `return_state`.

    Raises
    ------
    TypeError
        Arguments that are not arrays, other or mixed dtypes, mixed array types, a state that is no tuple
        of two.
    ValueError
        Shapes that do not fit, leading axes that do not broadcast, arrays on two devices, an unknown
        backend or version.
    RuntimeError
        The backend cannot run here; the message says why.

    Notes
    -----
    Irie, Schlag, Csordás, Schmidhuber: Going Beyond Linear Transformers with Recurrent Fast Weight
    Programmers, NeurIPS 2021. Version 1 is that of the authors' language models, version 2 that of their
    other experiments. Unlike in the published kernels, R and h with which sequences start have gradients.

    Backward recomputes the matrices from one in every 8 steps: it takes O(L D + L / 8 D D) memory for each
    sequence. With tensors, all of torch's transforms work. Second derivatives and forward mode run a loop
    of torch operations: this is right, but slower, and takes O(L D D) memory.

    Examples
    --------
    >>> import numpy as np, srwm
    >>> k, v = np.eye(2), np.array([[2.0, 4.0], [6.0, 0.0]])
    >>> z, beta = np.array([[-1.0, -2.0], [0.0, 0.0]]), np.array([1.0, 0.5])
    >>> srwm.delta_rnn.forward(z, k, v, beta).round(5)
    array([[-0. , -0. ],
           [ 2.5,  2. ]])
    """
    op = _call.with_settings(DELTA_RNN, "forward", version)
    flat = z, k, v, beta, R, h, *_call.states(op, "forward", state), reset, mask
    return _call.forward(op, flat, return_state, (backend, num_threads))


def vjp(
    z: Any,
    k: Any,
    v: Any,
    beta: Any,
    R: Any = None,
    h: Any = None,
    state: Any = None,
    *,
    version: int = 2,
    reset: Any = None,
    mask: Any = None,
    backend: str | None = None,
    num_threads: int | None = None,
) -> tuple[tuple[Any, Any], Callable[..., tuple[Any, ...]]]:
    """`forward` with its vector-Jacobian product.

    Takes the arguments of `forward` and raises as it does.

    Returns
    -------
    (h, (R_next, h_next)) : tuple
        As ``forward(..., return_state=True)``.
    pullback : callable
        ``pullback(grad_y, grad_state_next=None) -> (gz, gk, gv, gbeta, gR, gh)``, with a state ``(...,
        gstate_R, gstate_h)``: gradients of exactly the shapes of the operands (summed over broadcast axes),
        None for R and h if they are. `grad_state_next` is a tuple of the gradients of R_next and h_next,
        each of which may be None, or None. It may be called any number of times.

    Examples
    --------
    >>> import numpy as np, srwm
    >>> z, beta = np.ones((5, 2)), np.ones(5)
    >>> (h, state), pullback = srwm.delta_rnn.vjp(z, z, z, beta)
    >>> gz, gk, gv, gbeta, gR, gh = pullback(np.ones_like(h))
    >>> gz.shape, gbeta.shape, gR
    ((5, 2), (5,), None)
    """
    op = _call.with_settings(DELTA_RNN, "vjp", version)
    flat = z, k, v, beta, R, h, *_call.states(op, "vjp", state), reset, mask
    return _call.vjp(op, flat, (backend, num_threads))


def backward(
    z: Any,
    k: Any,
    v: Any,
    beta: Any,
    R: Any,
    h: Any,
    grad_y: Any,
    grad_state_next: Any = None,
    *,
    state: Any = None,
    version: int = 2,
    reset: Any = None,
    mask: Any = None,
    backend: str | None = None,
    num_threads: int | None = None,
) -> tuple[Any, ...]:
    """Gradients of all operands and of state, from those of the results of `forward`.

    It runs forward again first. `vjp` avoids this.

    Parameters
    ----------
    z, k, v, beta, R, h, state, version, reset, mask, backend, num_threads
        As for `forward`; R and h may be None.
    grad_y : array (..., L, D)
        Gradient of the outputs, of their shape and dtype.
    grad_state_next : tuple of arrays (..., D, D) and (..., D), optional
        Gradients of R_next and h_next, each of which may be None; None is zero.

    Returns
    -------
    gz, gk, gv, gbeta, gR, gh : arrays
        With exactly the shapes of the operands: summed over broadcast axes. None for R or h not given.
    gstate_R, gstate_h : arrays
        With the shapes of state; only if it is given.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `forward`; also for gradients with other shapes or dtypes.

    Examples
    --------
    >>> import numpy as np, srwm
    >>> z, beta = np.ones((5, 2)), np.ones(5)
    >>> gz, gk, gv, gbeta, gR, gh = srwm.delta_rnn.backward(z, z, z, beta, None, None, np.ones((5, 2)))
    >>> gk.shape
    (5, 2)
    """
    op = _call.with_settings(DELTA_RNN, "backward", version)
    flat = z, k, v, beta, R, h, *_call.states(op, "backward", state), reset, mask
    return _call.backward(op, flat, grad_y, grad_state_next, (backend, num_threads))
