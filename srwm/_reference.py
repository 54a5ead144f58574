"""The self-referential weight matrix, step by step: the readable definition and the tests' oracle.

Irie, Schlag, Csordás, Schmidhuber: A Modern Self-Referential Weight Matrix That Learns to Modify
Itself, ICML 2022 (arXiv 2202.05780), equations 5 to 8, with one learning rate per block. Letters and
shapes used in the whole package:

    ...     leading axes: batch, heads, anything; those of x, W and reset broadcast
    L       steps of a sequence; t, one of them
    D, Do   entries of the input x_t and of the output y_t
    M       Do + 2 D + 4, columns of the packed matrix [ y : Do | q : D | k : D | beta : 4 ]

    x (..., L, D)   W (..., D, M)   reset (..., L) bool   y (..., L, Do)

Vectors are rows. The same step numbers stand in the Cython and the CUDA text:

    1  o = x_t W, split into y_t | q^ | k^ | b^
    2  q = softmax(q^)   k = softmax(k^)   beta = sigmoid(b^)
    3  Delta = (q - k) W
    4  u = [ beta_0 Delta_y | beta_1 Delta_q | beta_2 Delta_k | beta_3 Delta_beta ]
    5  W <- W + k^T u, also at the last step

Written over an array namespace (NumPy's, or any of the array API standard). It keeps W of every step,
O(L D M) memory, where the backends undo step 5 instead. The reference's row in the table of backends:
the delta rule, the other operator, is defined in srwm/_delta_reference.py.
"""

from __future__ import annotations

from typing import Any

from srwm._arrays import column, compute, namespace, row
from srwm._broadcast import sum_to_shape
from srwm._delta_reference import delta_backward, delta_forward, delta_kept_shape

__all__ = [
    "BFLOAT16_AS_INT16",
    "backward",
    "declines",
    "delta_backward",
    "delta_forward",
    "delta_kept_shape",
    "forward",
    "kept_shape",
    "unusable",
]

BFLOAT16_AS_INT16 = False


def unusable() -> str | None:
    """Why this backend cannot run here: never."""
    return None


def declines(device: str) -> str | None:
    """Why this backend does not take arrays of `device` ("cpu", "cuda") by itself."""
    return f"it is the readable definition, for {device} too, and runs only when asked for by name"


def _softmax(xp: Any, a: Any) -> Any:
    e = xp.exp(a - xp.max(a, axis=-1, keepdims=True))
    return e / xp.sum(e, axis=-1, keepdims=True)


def _sigmoid(xp: Any, a: Any) -> Any:
    e = xp.exp(-xp.abs(a))  # of a number <= 0: no overflow
    return xp.where(a < 0, e, xp.ones_like(e)) / (1 + e)


def _gates_and_update(xp: Any, x_t: Any, W: Any) -> tuple[Any, ...]:
    """Steps 1 to 4 of one step: x_t (..., D), W (..., D, M) -> y_t, q, k, beta, Delta, u."""
    D = x_t.shape[-1]
    Do = W.shape[-1] - 2 * D - 4
    # 1
    o = (row(x_t) @ W)[..., 0, :]
    y_t, b_hat = o[..., :Do], o[..., Do + 2 * D :]
    # 2
    q = _softmax(xp, o[..., Do : Do + D])
    k = _softmax(xp, o[..., Do + D : Do + 2 * D])
    beta = _sigmoid(xp, b_hat)
    # 3
    Delta = (row(q - k) @ W)[..., 0, :]
    # 4
    u = _rates(xp, beta, Do, D) * Delta
    return y_t, q, k, beta, Delta, u


def _rates(xp: Any, beta: Any, Do: int, D: int) -> Any:
    """beta (..., 4) -> (..., M): the rate of each column's block."""
    sizes = (Do, D, D, 4)
    return xp.concat(
        [xp.broadcast_to(beta[..., j, None], (*beta.shape[:-1], n)) for j, n in enumerate(sizes)],
        axis=-1,
    )


def kept_shape(dtype: Any, lead: tuple[int, ...], L: int, D: int, Do: int) -> tuple[int, ...]:
    """Shape of what forward keeps for backward: W before each step."""
    del dtype
    return (*lead, L, D, Do + 2 * D + 4)


def forward(
    x: Any,
    W: Any,
    reset: Any,
    lead: tuple[int, ...],
    *,
    keep: bool,
    return_state: bool = True,
    num_threads: int | None = None,
) -> tuple[Any, Any, Any]:
    """y (*lead, L, Do); W_next (*lead, D, M) and what backward wants, where asked for, or None."""
    del num_threads  # the namespace's own business
    xp = namespace(x)
    L, D = x.shape[-2:]
    M = W.shape[-1]
    x_wide, W_0 = compute(xp, x), compute(xp, W)
    W_0 = xp.broadcast_to(W_0, (*lead, D, M))
    W_t, outputs, states = W_0, [], []
    for t in range(L):
        if reset is not None:
            W_t = xp.where(reset[..., t, None, None], W_0, W_t)
        states.append(W_t)
        y_t, _, k, _, _, u = _gates_and_update(xp, x_wide[..., t, :], W_t)
        outputs.append(xp.broadcast_to(y_t, (*lead, y_t.shape[-1])))
        # 5
        W_t = W_t + column(k) @ row(u)
    no_output = xp.zeros((*lead, 0, M - 2 * D - 4), dtype=W_0.dtype)
    y = xp.stack(outputs, axis=-2) if outputs else no_output
    kept = None
    if keep:
        kept = xp.stack(states, axis=-3) if states else xp.zeros((*lead, 0, D, M), dtype=W_0.dtype)
    return xp.astype(y, x.dtype), xp.astype(W_t, x.dtype) if return_state else None, kept


def backward(
    x: Any,
    W: Any,
    reset: Any,
    lead: tuple[int, ...],
    kept: Any,
    grad_y: Any,
    grad_W_next: Any,
    *,
    num_threads: int | None = None,
) -> tuple[Any, Any]:
    """gx and gW, of exactly the shapes of x and W. G is the gradient of W after the step at hand."""
    del num_threads
    xp = namespace(x)
    L, D = x.shape[-2:]
    M = W.shape[-1]
    Do = M - 2 * D - 4
    x_wide = xp.broadcast_to(compute(xp, x), (*lead, L, D))
    grad_y = compute(xp, grad_y)
    zero = xp.zeros((*lead, D, M), dtype=x_wide.dtype)
    G = zero if grad_W_next is None else xp.broadcast_to(compute(xp, grad_W_next), zero.shape)
    gW, gx = zero, [None] * L
    for t in range(L - 1, -1, -1):
        x_t, W_t = x_wide[..., t, :], kept[..., t, :, :]
        _, q, k, beta, Delta, u = _gates_and_update(xp, x_t, W_t)
        W_T = xp.matrix_transpose(W_t)
        # 5'
        g_u = (row(k) @ G)[..., 0, :]
        g_k = (row(u) @ xp.matrix_transpose(G))[..., 0, :]
        # 4'
        g_Delta = _rates(xp, beta, Do, D) * g_u
        blocks = (slice(0, Do), slice(Do, Do + D), slice(Do + D, Do + 2 * D), slice(Do + 2 * D, M))
        g_beta = xp.stack([xp.sum((g_u * Delta)[..., block], axis=-1) for block in blocks], axis=-1)
        # 3'
        g_d = (row(g_Delta) @ W_T)[..., 0, :]
        g_q, g_k = g_d, g_k - g_d
        G = G + column(q - k) @ row(g_Delta)
        # 2'
        g_q_hat = q * (g_q - xp.sum(g_q * q, axis=-1, keepdims=True))
        g_k_hat = k * (g_k - xp.sum(g_k * k, axis=-1, keepdims=True))
        g_b_hat = g_beta * beta * (1 - beta)
        # 1'
        g_y = xp.broadcast_to(grad_y[..., t, :], (*lead, Do))
        g_o = xp.concat([g_y, g_q_hat, g_k_hat, g_b_hat], axis=-1)
        gx[t] = (row(g_o) @ W_T)[..., 0, :]
        G = G + column(x_t) @ row(g_o)
        if reset is not None:
            here = reset[..., t, None, None]
            gW, G = gW + xp.where(here, G, zero), xp.where(here, zero, G)
    gx_all = xp.stack(gx, axis=-2) if gx else xp.zeros((*lead, 0, D), dtype=x_wide.dtype)
    return (
        xp.astype(sum_to_shape(xp, gx_all, x.shape), x.dtype),
        xp.astype(sum_to_shape(xp, gW + G, W.shape), W.dtype),
    )
