"""The matrices of a self-referential weight matrix after every step: `srwm.trajectory`."""

from __future__ import annotations

from typing import Any

from srwm import _call
from srwm.operators.srwm import SRWM
from srwm.reference.arrays import cast, namespace, widen, zeros

_NO_OPTIONS = (None, None)


def trajectory(x: Any, W: Any, state: Any = None, *, reset: Any = None) -> Any:
    """The matrices after every step of `srwm.forward`, for figures and analyses.

    Parameters
    ----------
    x : array (..., L, D)
        Inputs, as for `srwm.forward`.
    W : array (..., D, M)
        Packed matrices with which sequences begin.
    state : array (..., D, M), optional
        Matrices with which the sequences start instead.
    reset : bool array (..., L), optional
        Where true, the matrix returns to W before that step.

    Returns
    -------
    matrices : array (..., L, D, M)
        ``matrices[..., t, :, :]`` is the W_next that ``srwm.forward(..., return_state=True)`` gives for the
        steps up to and including t. Array type, dtype and device are those of W_next.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `srwm.forward`.

    Notes
    -----
    The result takes L D M entries for each sequence, which `srwm.forward` and its gradients never need, and
    twice that while it is put together: for 1000 steps of a head with D = 64 in float32, 50 MB and 100 MB.
    There is one call of `srwm.forward` for each step. No gradients pass: tensors come back detached.

    Examples
    --------
    How far the matrix moves from step to step:

    >>> import numpy as np, srwm
    >>> rng = np.random.default_rng(0)
    >>> x, W = rng.standard_normal((8, 100, 16)), rng.standard_normal((16, 16 + 2 * 16 + 4)) / 4
    >>> matrices = srwm.trajectory(x, W)
    >>> matrices.shape
    (8, 100, 16, 52)
    >>> np.linalg.norm(np.diff(matrices, axis=-3), axis=(-2, -1)).shape
    (8, 99)
    """
    flat = (x, W, state, reset)
    call = _call.front_end_of(type(x)).prepare(SRWM, "trajectory", flat, _NO_OPTIONS)
    x, W, state, reset = call.arrays
    xp, like = namespace(x), x if state is None else state
    lead = call.shapes[-1][:-2]
    if state is None:
        state = widen(xp, W)  # halves are not rounded between steps, as they are not within one call
    parts = [zeros((*lead, 0, *W.shape[-2:]), like)]
    for t in range(x.shape[-2]):
        begins = None if reset is None else reset[..., t : t + 1]
        operands = (x[..., t : t + 1, :], W, state, begins)
        _, state = _call.forward(SRWM, operands, True, _NO_OPTIONS)
        parts.append(cast(xp, state, like.dtype)[..., None, :, :])
    return call.given_back((xp.concat(parts, axis=-3),))[0]
