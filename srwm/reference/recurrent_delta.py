"""The Recurrent Delta Net, step by step: the delta rule whose inputs depend on its last output.

Irie, Schlag, Csordás, Schmidhuber: Going Beyond Linear Transformers with Recurrent Fast Weight Programmers,
NeurIPS 2021.

    q, k, v (..., L, D)   b (..., L)   R_q, R_k, R_v (..., D, D)   r_b (..., D)
    S (..., D, D)   y (..., D), the last output   outputs y (..., L, D)

    1  r = tanh(y_{t-1})
    2  q = softmax(q_t + r R_q)   k = softmax(k_t + r R_k)   v = v_t + r R_v   beta = sigmoid(b_t + r . r_b)
    3  Delta = v - k S   u = beta Delta
    4  S <- S + k^T u, also at the last step
    5  y_t = q S, with the new S
"""

from __future__ import annotations

from typing import Any

from srwm.reference.functions import (
    inner,
    outer,
    product,
    product_transposed,
    sigmoid,
    softmax,
    softmax_backward,
)


def _update(
    xp: Any, q_t: Any, k_t: Any, v_t: Any, b_t: Any, R_q: Any, R_k: Any, R_v: Any, r_b: Any, S: Any, y: Any
) -> tuple[Any, ...]:
    """Steps 1 to 4: vectors (..., D), b_t (...) -> r, q, k, beta (..., 1), Delta, u, the S after."""
    # 1
    r = xp.tanh(y)
    # 2
    q, k = softmax(xp, q_t + product(r, R_q)), softmax(xp, k_t + product(r, R_k))
    v, beta = v_t + product(r, R_v), sigmoid(xp, b_t[..., None] + inner(xp, r, r_b))
    # 3
    Delta = v - product(k, S)
    u = beta * Delta
    # 4
    return r, q, k, beta, Delta, u, S + outer(k, u)


def step(xp: Any, *arguments: Any) -> tuple[Any, Any, Any]:
    """y_t (..., D), and S and the last output after the step; `arguments` as `_update`."""
    _, q, *_, S_next = _update(xp, *arguments)
    # 5
    y_t = product(q, S_next)
    return y_t, S_next, y_t


def step_backward(
    xp: Any,
    q_t: Any,
    k_t: Any,
    v_t: Any,
    b_t: Any,
    R_q: Any,
    R_k: Any,
    R_v: Any,
    r_b: Any,
    S: Any,
    y: Any,
    g_y: Any,
    G: Any,
    e: Any,
) -> tuple[Any, ...]:
    """The gradients of the arguments of `step`, from g_y, and from G and e, those of S and y after it."""
    r, q, k, beta, Delta, u, S_next = _update(xp, q_t, k_t, v_t, b_t, R_q, R_k, R_v, r_b, S, y)
    # 5'
    g = g_y + e
    g_q = product_transposed(g, S_next)
    G = G + outer(q, g)
    # 4'
    g_u = product(k, G)
    g_k = product_transposed(u, G)
    # 3'
    g_beta = inner(xp, g_u, Delta)
    g_v = beta * g_u
    g_k = g_k - product_transposed(g_v, S)
    G = G - outer(k, g_v)
    # 2'
    g_q, g_k = softmax_backward(xp, g_q, q), softmax_backward(xp, g_k, k)
    g_b = g_beta * beta * (1 - beta)
    of_parameters = outer(r, g_q), outer(r, g_k), outer(r, g_v), g_b * r
    # 1'
    g_r = product_transposed(g_q, R_q) + product_transposed(g_k, R_k) + product_transposed(g_v, R_v)
    e = (g_r + g_b * r_b) * (1 - r * r)
    return g_q, g_k, g_v, g_b[..., 0], *of_parameters, G, e
