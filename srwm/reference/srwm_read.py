"""The self-referential weight matrix whose output reads another input, step by step.

Irie, Csordás, Schmidhuber: Automating Continual Learning, arXiv 2312.00276. All but the output is as in
srwm/reference/srwm.py:

    x (..., L, D)   read (..., L, D)   W (..., D, M)   y (..., L, Do)

    1  o = x_t W, split into . | q^ | k^ | b^   y_t = read_t W_y
    2  to 5 as there
"""

from __future__ import annotations

from typing import Any

from srwm.reference import srwm
from srwm.reference.functions import outer, product, product_transposed


def step(xp: Any, x_t: Any, read_t: Any, W: Any) -> tuple[Any, Any]:
    """x_t, read_t (..., D), W (..., D, M) -> y_t (..., Do) and the W after the step."""
    y_of_x, W_next = srwm.step(xp, x_t, W)
    return product(read_t, W[..., : y_of_x.shape[-1]]), W_next


def step_backward(xp: Any, x_t: Any, read_t: Any, W: Any, g_y: Any, G: Any) -> tuple[Any, Any, Any]:
    """The gradients of x_t, read_t and W, from g_y and G, the gradient of the W after the step."""
    g_x, G = srwm.step_backward(xp, x_t, W, xp.zeros_like(g_y), G)
    # 1'
    g_read = product_transposed(g_y, W[..., : g_y.shape[-1]])
    others = xp.zeros_like(W[..., 0, g_y.shape[-1] :])
    lead = g_y.shape[:-1]
    g_o = xp.concat([g_y, xp.broadcast_to(others, (*lead, others.shape[-1]))], axis=-1)
    return g_x, g_read, G + outer(read_t, g_o)
