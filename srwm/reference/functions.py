"""Functions of the references: products, softmax, sigmoid and others, for any array namespace."""

from __future__ import annotations

from typing import Any


def product(v: Any, A: Any) -> Any:
    """v A: (..., n) and (..., n, m) -> (..., m)."""
    return (v[..., None, :] @ A)[..., 0, :]


def product_transposed(v: Any, A: Any) -> Any:
    """v Aᵀ: (..., m) and (..., n, m) -> (..., n)."""
    return (A @ v[..., :, None])[..., 0]


def outer(a: Any, b: Any) -> Any:
    """aᵀ b: (..., n) and (..., m) -> (..., n, m)."""
    return a[..., :, None] * b[..., None, :]


def inner(xp: Any, a: Any, b: Any) -> Any:
    """⟨a, b⟩ over the last axis: (..., n) and (..., n) -> (..., 1)."""
    return xp.sum(a * b, axis=-1, keepdims=True)


def softmax(xp: Any, a: Any) -> Any:
    """The softmax over the last axis."""
    if hasattr(xp, "softmax"):  # torch's function is right under every transform
        return xp.softmax(a, -1)
    e = xp.exp(a - xp.max(a, axis=-1, keepdims=True))
    return e / xp.sum(e, axis=-1, keepdims=True)


def softmax_with(xp: Any, a: Any, eps: float) -> Any:
    """exp(a) / (sum of exp(a) + eps) over the last axis. Its gradient is that of a softmax."""
    above = xp.where(a > 0, a, xp.zeros_like(a))
    highest = getattr(xp, "amax", xp.max)(above, axis=-1, keepdims=True)  # torch's max gives indices too
    e = xp.exp(a - highest)
    return e / (xp.sum(e, axis=-1, keepdims=True) + eps * xp.exp(-highest))


def softmax_backward(xp: Any, g: Any, p: Any) -> Any:
    """The gradient of a, from g, the gradient of p = softmax(a)."""
    return p * (g - inner(xp, g, p))


def sigmoid(xp: Any, a: Any) -> Any:
    """The sigmoid of each entry."""
    if hasattr(xp, "sigmoid"):
        return xp.sigmoid(a)
    e = xp.exp(-xp.abs(a))  # exp of a number <= 0 cannot overflow
    return xp.where(a < 0, e, xp.ones_like(e)) / (1 + e)


def softplus(xp: Any, a: Any) -> Any:
    """log(1 + exp(a)) of each entry."""
    return xp.logaddexp(a, xp.zeros_like(a))


def unit(xp: Any, a: Any, eps: float) -> Any:
    """a / max(|a|, eps): the vector of length 1 in the direction of a."""
    return a / _length(xp, a, eps)


def unit_backward(xp: Any, g: Any, a: Any, eps: float) -> Any:
    """The gradient of a, from g, the gradient of n = a / max(|a|, eps)."""
    n, is_short = unit(xp, a, eps), inner(xp, a, a) <= eps * eps
    return xp.where(is_short, g, g - n * inner(xp, g, n)) / _length(xp, a, eps)


def _length(xp: Any, a: Any, eps: float) -> Any:
    """max(|a|, eps), of which every derivative is finite."""
    squared = inner(xp, a, a)
    is_short = squared <= eps * eps
    ones = xp.ones_like(squared)
    return xp.where(is_short, eps * ones, xp.sqrt(xp.where(is_short, ones, squared)))
