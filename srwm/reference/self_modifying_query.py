"""The memory that modifies itself, read by a query from outside: `srwm.reference.self_modifying`, step 3.

x, query (..., L, D)   W (..., D, M)   y (..., L, Do)   M = Do + 2 D + 2

3  y_t = query_t W_y
"""

from __future__ import annotations

from typing import Any

from srwm.reference.self_modifying import step_backward_of, step_of


def step(xp: Any, x_t: Any, query_t: Any, W: Any, **settings: Any) -> tuple[Any, Any]:
    """x_t, query_t (..., D), W (..., D, M) -> y_t (..., Do) and the W after the step."""
    return step_of(xp, x_t, query_t, W, settings)


def step_backward(
    xp: Any, x_t: Any, query_t: Any, W: Any, g_y: Any, G: Any, **settings: Any
) -> tuple[Any, Any, Any]:
    """The gradients of x_t, of query_t and of W, from g_y and G, the gradient of the W after the step."""
    return step_backward_of(xp, x_t, query_t, W, g_y, G, settings)
