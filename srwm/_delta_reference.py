"""The delta rule, step by step: the readable definition and the tests' oracle.

Schlag, Irie, Schmidhuber: Linear Transformers Are Secretly Fast Weight Programmers, ICML 2021
(arXiv 2102.11174), equations 23 to 25; read after write, as in Irie, Schlag, Csordás, Schmidhuber: Going
Beyond Linear Transformers with Recurrent Fast Weight Programmers, NeurIPS 2021 (arXiv 2106.06295).
Letters and shapes beside those of srwm/_reference.py:

    D, Do   entries of a query q_t or a key k_t, and of a value v_t or an output y_t
    S       fast weights, from keys to values

    q, k (..., L, D)   v (..., L, Do)   beta (..., L)   S (..., D, Do)   reset (..., L) bool
    y (..., L, Do)

Vectors are rows. The same step numbers stand in the Cython and the CUDA text:

    1  v_bar = k_t S
    2  Delta = v_t - v_bar
    3  u = beta_t Delta
    4  S <- S + k_t^T u, also at the last step
    5  y_t = q_t S, the S just written

q, k and beta are used as given: what makes them (a feature map, a sigmoid) belongs to the layer. Written
over an array namespace. It keeps S of every step, O(L D Do) memory, where the backends undo step 4.
"""

from __future__ import annotations

from typing import Any

from srwm._arrays import column, compute, namespace, row
from srwm._broadcast import sum_to_shape


def _update(k_t: Any, v_t: Any, beta_t: Any, S: Any) -> tuple[Any, Any, Any]:
    """Steps 1 to 4: k_t (..., D), v_t (..., Do), beta_t (..., 1), S (..., D, Do) -> Delta, u, new S."""
    # 1
    v_bar = (row(k_t) @ S)[..., 0, :]
    # 2
    Delta = v_t - v_bar
    # 3
    u = beta_t * Delta
    # 4
    return Delta, u, S + column(k_t) @ row(u)


def delta_kept_shape(dtype: Any, lead: tuple[int, ...], L: int, D: int, Do: int) -> tuple[int, ...]:
    """Shape of what forward keeps for backward: S before each step."""
    del dtype
    return (*lead, L, D, Do)


def delta_forward(
    q: Any,
    k: Any,
    v: Any,
    beta: Any,
    S: Any,
    reset: Any,
    lead: tuple[int, ...],
    *,
    keep: bool,
    return_state: bool = True,
    num_threads: int | None = None,
) -> tuple[Any, Any, Any]:
    """y (*lead, L, Do); S_next (*lead, D, Do) and what backward wants, where asked for, or None."""
    del num_threads  # the namespace's own business
    xp = namespace(q)
    (L, D), Do = q.shape[-2:], v.shape[-1]
    q_wide, k_wide, v_wide, beta_wide, S_0 = (compute(xp, a) for a in (q, k, v, beta, S))
    S_0 = xp.broadcast_to(S_0, (*lead, D, Do))
    S_t, outputs, states = S_0, [], []
    for t in range(L):
        if reset is not None:
            S_t = xp.where(reset[..., t, None, None], S_0, S_t)
        states.append(S_t)
        _, _, S_t = _update(k_wide[..., t, :], v_wide[..., t, :], beta_wide[..., t, None], S_t)
        # 5
        outputs.append((row(q_wide[..., t, :]) @ S_t)[..., 0, :])
    y = xp.stack(outputs, axis=-2) if outputs else xp.zeros((*lead, 0, Do), dtype=S_0.dtype)
    kept = None
    if keep:
        kept = xp.stack(states, axis=-3) if states else xp.zeros((*lead, 0, D, Do), dtype=S_0.dtype)
    return xp.astype(y, q.dtype), xp.astype(S_t, q.dtype) if return_state else None, kept


def delta_backward(
    q: Any,
    k: Any,
    v: Any,
    beta: Any,
    S: Any,
    reset: Any,
    lead: tuple[int, ...],
    kept: Any,
    grad_y: Any,
    grad_S_next: Any,
    *,
    num_threads: int | None = None,
) -> tuple[Any, Any, Any, Any, Any]:
    """gq, gk, gv, gbeta, gS, of exactly their shapes. G is the gradient of S after the step at hand."""
    del num_threads
    xp = namespace(q)
    (L, D), Do = q.shape[-2:], v.shape[-1]
    q_wide, k_wide = (xp.broadcast_to(compute(xp, a), (*lead, L, D)) for a in (q, k))
    v_wide, grad_y = (xp.broadcast_to(compute(xp, a), (*lead, L, Do)) for a in (v, grad_y))
    beta_wide = xp.broadcast_to(compute(xp, beta), (*lead, L))
    zero = xp.zeros((*lead, D, Do), dtype=q_wide.dtype)
    G = zero if grad_S_next is None else xp.broadcast_to(compute(xp, grad_S_next), zero.shape)
    gS = zero
    gq, gk, gv, gbeta = [None] * L, [None] * L, [None] * L, [None] * L
    for t in range(L - 1, -1, -1):
        q_t, k_t, beta_t, g_y = (
            q_wide[..., t, :],
            k_wide[..., t, :],
            beta_wide[..., t, None],
            grad_y[..., t, :],
        )
        S_before = kept[..., t, :, :]
        Delta, u, S_after = _update(k_t, v_wide[..., t, :], beta_t, S_before)
        # 5'
        g_q = (row(g_y) @ xp.matrix_transpose(S_after))[..., 0, :]
        G = G + column(q_t) @ row(g_y)
        # 4'
        g_u = (row(k_t) @ G)[..., 0, :]
        g_k = (row(u) @ xp.matrix_transpose(G))[..., 0, :]
        # 3'
        g_beta = xp.sum(g_u * Delta, axis=-1)
        g_Delta = beta_t * g_u
        # 2'
        g_v, g_v_bar = g_Delta, -g_Delta
        # 1'
        g_k = g_k + (row(g_v_bar) @ xp.matrix_transpose(S_before))[..., 0, :]
        G = G + column(k_t) @ row(g_v_bar)
        gq[t], gk[t], gv[t], gbeta[t] = g_q, g_k, g_v, g_beta
        if reset is not None:
            here = reset[..., t, None, None]
            gS, G = gS + xp.where(here, G, zero), xp.where(here, zero, G)

    def of_steps(gradients: list[Any], a: Any, axis: int) -> Any:
        if not gradients:
            return xp.zeros(a.shape, dtype=a.dtype)
        return xp.astype(sum_to_shape(xp, xp.stack(gradients, axis=axis), a.shape), a.dtype)

    return (
        of_steps(gq, q, -2),
        of_steps(gk, k, -2),
        of_steps(gv, v, -2),
        of_steps(gbeta, beta, -1),
        xp.astype(sum_to_shape(xp, gS + G, S.shape), S.dtype),
    )
