"""The sum rule with a denominator, linear attention's, step by step.

Katharopoulos, Vyas, Pappas, Fleuret: Transformers are RNNs, ICML 2020, equations 16 to 20; eps as in
Schlag, Irie, Schmidhuber, ICML 2021.

    q, k (..., L, D)   v (..., L, Do)   S (..., D, Do)   z (..., D)   y (..., L, Do)

    1  S <- S + k_t^T v_t   z <- z + k_t, also at the last step
    2  r = q_t S   n = q_t . z, with the new S and z
    3  y_t = scale r / (n + eps)

q and k are used as given: a feature map before them belongs to the layer.
"""

from __future__ import annotations

from typing import Any

from srwm.reference.functions import inner, outer, product, product_transposed


def step(
    xp: Any, q_t: Any, k_t: Any, v_t: Any, S: Any, z: Any, *, normalise: float, scale: float
) -> tuple[Any, Any, Any]:
    """y_t (..., Do), and S and z after the step."""
    # 1
    S, z = S + outer(k_t, v_t), z + k_t
    # 2
    r, n = product(q_t, S), inner(xp, q_t, z)
    # 3
    return scale * r / (n + normalise), S, z


def step_backward(
    xp: Any,
    q_t: Any,
    k_t: Any,
    v_t: Any,
    S: Any,
    z: Any,
    g_y: Any,
    G: Any,
    g_z: Any,
    *,
    normalise: float,
    scale: float,
) -> tuple[Any, Any, Any, Any, Any]:
    """The gradients of the arguments of `step`, from g_y, and from G and g_z, those of S and z after it."""
    S, z = S + outer(k_t, v_t), z + k_t
    r, n = product(q_t, S), inner(xp, q_t, z)
    # 3'
    g_r = scale * g_y / (n + normalise)
    g_n = -inner(xp, g_r, r) / (n + normalise)
    # 2'
    g_q = product_transposed(g_r, S) + g_n * z
    G, g_z = G + outer(q_t, g_r), g_z + g_n * q_t
    # 1'
    return g_q, product_transposed(v_t, G) + g_z, product(k_t, G), G, g_z
