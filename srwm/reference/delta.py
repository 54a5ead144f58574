"""Fast weights under the delta rule, step by step.

Schlag, Irie, Schmidhuber: Linear Transformers Are Secretly Fast Weight Programmers, ICML 2021
(arXiv 2102.11174), equations 23 to 25; read after write, as in Irie, Schlag, Csordás, Schmidhuber: Going
Beyond Linear Transformers with Recurrent Fast Weight Programmers, NeurIPS 2021 (arXiv 2106.06295).

    S       fast weights, from keys to values

    q, k (..., L, D)   v (..., L, Do)   beta (..., L)   S (..., D, Do)   y (..., L, Do)

    1  v_bar = k_t S
    2  Delta = v_t - v_bar
    3  u = beta_t Delta
    4  S <- S + k_t^T u, also at the last step
    5  y_t = q_t S, with the new S

q, k and beta are used as given: a feature map or a sigmoid before them belongs to the layer.
"""

from __future__ import annotations

from typing import Any

from srwm.reference.functions import inner, outer, product, product_transposed


def _update(k_t: Any, v_t: Any, beta_t: Any, S: Any) -> tuple[Any, Any, Any]:
    """Steps 1 to 4: k_t (..., D), v_t (..., Do), beta_t (...), S (..., D, Do) -> Delta, u, the S after."""
    # 1
    v_bar = product(k_t, S)
    # 2
    Delta = v_t - v_bar
    # 3
    u = beta_t[..., None] * Delta
    # 4
    return Delta, u, S + outer(k_t, u)


def step(xp: Any, q_t: Any, k_t: Any, v_t: Any, beta_t: Any, S: Any) -> tuple[Any, Any]:
    """y_t (..., Do) and the S after the step."""
    _, _, S_next = _update(k_t, v_t, beta_t, S)
    # 5
    return product(q_t, S_next), S_next


def step_backward(
    xp: Any, q_t: Any, k_t: Any, v_t: Any, beta_t: Any, S: Any, g_y: Any, G: Any
) -> tuple[Any, Any, Any, Any, Any]:
    """The gradients of q_t, k_t, v_t, beta_t and S, from g_y and G, the gradient of S after the step."""
    Delta, u, S_next = _update(k_t, v_t, beta_t, S)
    # 5'
    g_q = product_transposed(g_y, S_next)
    G = G + outer(q_t, g_y)
    # 4'
    g_u = product(k_t, G)
    g_k = product_transposed(u, G)
    # 3'
    g_beta = inner(xp, g_u, Delta)[..., 0]
    g_Delta = beta_t[..., None] * g_u
    # 2'
    g_v, g_v_bar = g_Delta, -g_Delta
    # 1'
    g_k = g_k + product_transposed(g_v_bar, S)
    return g_q, g_k, g_v, g_beta, G + outer(k_t, g_v_bar)
