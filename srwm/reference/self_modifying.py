"""A memory that modifies itself, with retention, step by step: a matrix that generates all of its update.

Behrouz, Razaviyayn, Zhong, Mirrokni: Nested Learning, NeurIPS 2025 (arXiv 2512.24695), section 8: the
self-modifying Titans with matrix memories, updated at every step.

    M       Do + 3 D + 2, columns of the packed matrix
            [ y : Do | k : D | v : D | eta : 1 | alpha : 1 | q : D ];
            with a query from outside (srwm/reference/self_modifying_query.py) there is no block q

    x (..., L, D)   W (..., D, M)   y (..., L, Do)

    1  o = x_t W, split into . | k^ | v | eta^ | alpha^ | q
    2  k = k^ / max(|k^|, eps), or softmax(k^)   alpha = sigmoid(alpha^)
       eta = rate_scale softplus(eta^), or rate_scale sigmoid(eta^)
    3  y_t = q W_y
    4  delta = a v - c k   Delta = delta W   u = eta Delta
    5  W <- alpha W + k^T u, also at the last step

All products are with the W before the step. With alpha = 1, softmax keys, a rate for each block, a softmax
query in the place of v, and y read by x_t, this is the self-referential weight matrix.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

from srwm.reference.functions import (
    inner,
    outer,
    product,
    product_transposed,
    sigmoid,
    softmax,
    softmax_backward,
    softplus,
    unit,
    unit_backward,
)


class Step(NamedTuple):
    """What a step computes."""

    k_hat: Any  # (..., D)
    eta_hat: Any  # (..., 1)
    k: Any  # (..., D)
    eta: Any  # (..., 1)
    alpha: Any  # (..., 1)
    q: Any  # (..., D)
    y: Any  # (..., Do)
    delta: Any  # (..., D)
    Delta: Any  # (..., M)
    u: Any  # (..., M)


def blocks(a: Any, D: int, has_query: bool) -> tuple[Any, ...]:
    """(..., M) -> its columns y, k, v, eta, alpha and q; q has none where the query comes from outside."""
    of_q = 0 if has_query else D
    starts = [0, a.shape[-1] - of_q - 2 * D - 2]
    for n in (D, D, 1, 1, of_q):
        starts.append(starts[-1] + n)
    return tuple(a[..., i:j] for i, j in pairwise(starts))


def run(xp: Any, x_t: Any, query_t: Any, W: Any, settings: Any) -> Step:
    """Steps 1 to 4; query_t is None where W has a block for it."""
    D = x_t.shape[-1]
    # 1
    _, k_hat, v, eta_hat, alpha_hat, q = blocks(product(x_t, W), D, query_t is not None)
    if query_t is not None:
        q = query_t
    # 2
    k = unit(xp, k_hat, settings["eps"]) if settings["keys"] == "l2" else softmax(xp, k_hat)
    rate = softplus if settings["rate"] == "softplus" else sigmoid
    eta, alpha = settings["rate_scale"] * rate(xp, eta_hat), sigmoid(xp, alpha_hat)
    # 3
    y_t = product(q, blocks(W, D, query_t is not None)[0])
    # 4
    delta = settings["a"] * v - settings["c"] * k
    Delta = product(delta, W)
    return Step(k_hat, eta_hat, k, eta, alpha, q, y_t, delta, Delta, eta * Delta)


def step(xp: Any, x_t: Any, W: Any, **settings: Any) -> tuple[Any, Any]:
    """x_t (..., D), W (..., D, M) -> y_t (..., Do) and the W after the step."""
    return step_of(xp, x_t, None, W, settings)


def step_of(xp: Any, x_t: Any, query_t: Any, W: Any, settings: Any) -> tuple[Any, Any]:
    """`step` with a query, or None."""
    of = run(xp, x_t, query_t, W, settings)
    # 5
    return of.y, of.alpha[..., None] * W + outer(of.k, of.u)


def step_backward(xp: Any, x_t: Any, W: Any, g_y: Any, G: Any, **settings: Any) -> tuple[Any, Any]:
    """The gradients of x_t and of W, from g_y and G, the gradient of the W after the step."""
    g_x, _, G = step_backward_of(xp, x_t, None, W, g_y, G, settings)
    return g_x, G


def step_backward_of(
    xp: Any, x_t: Any, query_t: Any, W: Any, g_y: Any, G: Any, settings: Any
) -> tuple[Any, Any, Any]:
    """The gradients of x_t, of q and of W."""
    D, has_query = x_t.shape[-1], query_t is not None
    of = run(xp, x_t, query_t, W, settings)
    # 5'
    g_u, g_k = product(of.k, G), product_transposed(of.u, G)
    g_alpha = xp.sum(inner(xp, G, W), axis=-2)
    H = of.alpha[..., None] * G
    # 4'
    g_eta = inner(xp, g_u, of.Delta)
    g_Delta = of.eta * g_u
    g_delta = product_transposed(g_Delta, W)
    H = H + outer(of.delta, g_Delta)
    g_v, g_k = settings["a"] * g_delta, g_k - settings["c"] * g_delta
    # 3'
    g_q = product_transposed(g_y, blocks(W, D, has_query)[0])
    others = xp.zeros_like(H[..., 0, g_y.shape[-1] :])
    H = H + outer(
        of.q, xp.concat([xp.broadcast_to(g_y, (*others.shape[:-1], g_y.shape[-1])), others], axis=-1)
    )
    # 2'
    if settings["keys"] == "l2":
        g_k_hat = unit_backward(xp, g_k, of.k_hat, settings["eps"])
    else:
        g_k_hat = softmax_backward(xp, g_k, of.k)
    slope = sigmoid(xp, of.eta_hat)  # of a softplus
    if settings["rate"] == "sigmoid":
        slope = slope * (1 - slope)
    g_eta_hat = settings["rate_scale"] * g_eta * slope
    g_alpha_hat = g_alpha * of.alpha * (1 - of.alpha)
    # 1'
    g_o = [xp.zeros_like(g_y), g_k_hat, g_v, g_eta_hat, g_alpha_hat, *(() if has_query else (g_q,))]
    g_o = xp.concat(g_o, axis=-1)
    return product_transposed(g_o, W), g_q, H + outer(x_t, g_o)
