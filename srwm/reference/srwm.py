"""The self-referential weight matrix, step by step.

Irie, Schlag, Csordás, Schmidhuber: A Modern Self-Referential Weight Matrix That Learns to Modify Itself,
ICML 2022 (arXiv 2202.05780), equations 5 to 8, with one learning rate per block.

    M       Do + 2 D + 4, columns of the packed matrix [ y : Do | q : D | k : D | beta : 4 ]

    x (..., L, D)   W (..., D, M)   y (..., L, Do)

    1  o = x_t W, split into y_t | q^ | k^ | b^
    2  q = softmax(q^)   k = softmax(k^)   beta = sigmoid(b^)
    3  Delta = (q - k) W
    4  u = [ beta_0 Delta_y | beta_1 Delta_q | beta_2 Delta_k | beta_3 Delta_beta ]
    5  W <- W + k^T u, also at the last step
"""

from __future__ import annotations

from typing import Any

from srwm.reference.functions import (
    outer,
    product,
    product_transposed,
    sigmoid,
    softmax,
    softmax_backward,
)


def _blocks(a: Any, D: int) -> tuple[Any, Any, Any, Any]:
    """(..., M) -> its columns y, q, k and beta."""
    Do = a.shape[-1] - 2 * D - 4
    return a[..., :Do], a[..., Do : Do + D], a[..., Do + D : Do + 2 * D], a[..., Do + 2 * D :]


def _rates(xp: Any, beta: Any, D: int, M: int) -> Any:
    """beta (..., 4) -> (..., M): the rate of each column's block."""
    sizes = (M - 2 * D - 4, D, D, 4)
    lead = beta.shape[:-1]
    return xp.concat(
        [xp.broadcast_to(beta[..., j : j + 1], (*lead, n)) for j, n in enumerate(sizes)], axis=-1
    )


def _gates_and_update(xp: Any, x_t: Any, W: Any) -> tuple[Any, ...]:
    """Steps 1 to 4: x_t (..., D), W (..., D, M) -> y_t, q, k, beta, rates (..., M), Delta, u."""
    D, M = W.shape[-2:]
    # 1
    y_t, q_hat, k_hat, b_hat = _blocks(product(x_t, W), D)
    # 2
    q, k, beta = softmax(xp, q_hat), softmax(xp, k_hat), sigmoid(xp, b_hat)
    # 3
    Delta = product(q - k, W)
    # 4
    rates = _rates(xp, beta, D, M)
    return y_t, q, k, beta, rates, Delta, rates * Delta


def step(xp: Any, x_t: Any, W: Any) -> tuple[Any, Any]:
    """x_t (..., D), W (..., D, M) -> y_t (..., Do) and the W after the step."""
    y_t, _, k, _, _, _, u = _gates_and_update(xp, x_t, W)
    # 5
    return y_t, W + outer(k, u)


def step_backward(xp: Any, x_t: Any, W: Any, g_y: Any, G: Any) -> tuple[Any, Any]:
    """The gradients of x_t and of W, from g_y and G, the gradient of the W after the step."""
    D = x_t.shape[-1]
    _, q, k, beta, rates, Delta, u = _gates_and_update(xp, x_t, W)
    # 5'
    g_u = product(k, G)
    g_k = product_transposed(u, G)
    # 4'
    g_Delta = rates * g_u
    g_beta = xp.stack([xp.sum(block, axis=-1) for block in _blocks(g_u * Delta, D)], axis=-1)
    # 3'
    g_d = product_transposed(g_Delta, W)
    g_q, g_k = g_d, g_k - g_d
    G = G + outer(q - k, g_Delta)
    # 2'
    g_q_hat, g_k_hat = softmax_backward(xp, g_q, q), softmax_backward(xp, g_k, k)
    g_b_hat = g_beta * beta * (1 - beta)
    # 1'
    g_o = xp.concat([g_y, g_q_hat, g_k_hat, g_b_hat], axis=-1)
    return product_transposed(g_o, W), G + outer(x_t, g_o)
