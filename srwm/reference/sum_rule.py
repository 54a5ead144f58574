"""The sum rule, linear attention's, step by step.

Katharopoulos, Vyas, Pappas, Fleuret: Transformers are RNNs, ICML 2020, equations 16 to 20, without the
denominator; as a fast weight programmer: Schlag, Irie, Schmidhuber, ICML 2021.

    q, k (..., L, D)   v (..., L, Do)   S (..., D, Do)   y (..., L, Do)

    1  S <- S + k_t^T v_t, also at the last step
    2  r = q_t S, with the new S
    3  y_t = scale r

q and k are used as given: a feature map before them belongs to the layer.
"""

from __future__ import annotations

from typing import Any

from srwm.reference.functions import outer, product, product_transposed


def step(xp: Any, q_t: Any, k_t: Any, v_t: Any, S: Any, *, scale: float) -> tuple[Any, Any]:
    """y_t (..., Do) and the S after the step."""
    # 1
    S = S + outer(k_t, v_t)
    # 2, 3
    return scale * product(q_t, S), S


def step_backward(
    xp: Any, q_t: Any, k_t: Any, v_t: Any, S: Any, g_y: Any, G: Any, *, scale: float
) -> tuple[Any, Any, Any, Any]:
    """The gradients of q_t, k_t, v_t and S, from g_y and G, the gradient of S after the step."""
    # 3'
    g_r = scale * g_y
    # 2'
    g_q = product_transposed(g_r, S + outer(k_t, v_t))
    G = G + outer(q_t, g_r)
    # 1'
    return g_q, product_transposed(v_t, G), product(k_t, G), G
