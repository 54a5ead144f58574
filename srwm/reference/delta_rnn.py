"""The Delta RNN, step by step: a recurrence whose matrix is written by the delta rule.

Irie, Schlag, Csordás, Schmidhuber: Going Beyond Linear Transformers with Recurrent Fast Weight Programmers,
NeurIPS 2021. Version 1 is that of the authors' language models, version 2 that of their other experiments.

    z, k, v (..., L, D)   beta (..., L)   R (..., D, D)   h (..., D), the last output
    outputs h (..., L, D)

    1  Delta = v_t - k_t R   R <- R + k_t^T beta_t Delta, also at the last step
    2  version 1: s = h_{t-1}   version 2: s = exp(h_{t-1}) / (sum of exp(h_{t-1}) + 1e-6)
    3  p = z_t + s R, with the new R
    4  version 1: h_t = softmax(p)   version 2: h_t = p

z, k and beta are used as given: a feature map or a sigmoid before them belongs to the layer.
"""

from __future__ import annotations

from typing import Any

from srwm.reference.functions import (
    inner,
    outer,
    product,
    product_transposed,
    softmax,
    softmax_backward,
    softmax_with,
)

EPS = 1e-6  # of step 2 in version 2


def _results(
    xp: Any, z_t: Any, k_t: Any, v_t: Any, beta_t: Any, R: Any, h: Any, version: int
) -> tuple[Any, Any, Any, Any]:
    """Delta, the R after the step, s, h_t: z_t, k_t, v_t, h (..., D), beta_t (...), R (..., D, D)."""
    # 1
    Delta = v_t - product(k_t, R)
    R = R + outer(k_t, beta_t[..., None] * Delta)
    # 2
    s = h if version == 1 else softmax_with(xp, h, EPS)
    # 3
    p = z_t + product(s, R)
    # 4
    return Delta, R, s, softmax(xp, p) if version == 1 else p


def step(
    xp: Any, z_t: Any, k_t: Any, v_t: Any, beta_t: Any, R: Any, h: Any, *, version: int
) -> tuple[Any, Any, Any]:
    """h_t (..., D), and R and the last output after the step."""
    _, R, _, h_t = _results(xp, z_t, k_t, v_t, beta_t, R, h, version)
    return h_t, R, h_t


def step_backward(
    xp: Any,
    z_t: Any,
    k_t: Any,
    v_t: Any,
    beta_t: Any,
    R: Any,
    h: Any,
    g_h: Any,
    G: Any,
    w: Any,
    *,
    version: int,
) -> tuple[Any, ...]:
    """The gradients of the arguments of `step`, from g_h, and from G and w, those of R and h after it."""
    Delta, R_next, s, h_t = _results(xp, z_t, k_t, v_t, beta_t, R, h, version)
    # 4'
    g = g_h + w
    if version == 1:
        g = softmax_backward(xp, g, h_t)
    # 3'
    g_z, g_s = g, product_transposed(g, R_next)
    G = G + outer(s, g)
    # 2'
    w = g_s if version == 1 else softmax_backward(xp, g_s, s)
    # 1'
    g_u = product(k_t, G)
    g_beta = inner(xp, g_u, Delta)[..., 0]
    g_v = beta_t[..., None] * g_u
    g_k = product_transposed(beta_t[..., None] * Delta, G) - product_transposed(g_v, R)
    return g_z, g_k, g_v, g_beta, G - outer(k_t, g_v), w
