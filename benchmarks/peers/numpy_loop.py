"""NumPy: a loop over the steps, all sequences at once; backward by hand.

As srwm does, it keeps q, k, beta and Delta of every step, W of every 32nd, and undoes updates in between.
Step numbers as in srwm/reference/srwm.py.
"""

from __future__ import annotations

import numpy as np

from benchmarks.cases import Case
from benchmarks.peers.interface import Peer, Ready

SEGMENT = 32


def _softmax(a: np.ndarray) -> np.ndarray:
    e = np.exp(a - a.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _softmax_gradient(p: np.ndarray, g: np.ndarray) -> np.ndarray:
    return p * (g - (g * p).sum(-1, keepdims=True))


def _row_times(v: np.ndarray, W: np.ndarray) -> np.ndarray:
    """v (..., D), W (..., D, M) -> v W (..., M)."""
    return (v[..., None, :] @ W)[..., 0, :]


def _times_column(W: np.ndarray, v: np.ndarray) -> np.ndarray:
    """W (..., D, M), v (..., M) -> W v (..., D)."""
    return (W @ v[..., :, None])[..., 0]


def _outer(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[..., :, None] * b[..., None, :]


class _Kept:
    """What forward leaves for backward."""

    def __init__(self) -> None:
        self.steps: list[tuple[np.ndarray, ...]] = []
        self.states: list[np.ndarray] = []


def _run(x: np.ndarray, W_0: np.ndarray, kept: _Kept | None) -> np.ndarray:
    """x (B, H, L, D), W_0 (H, D, M) -> y (B, H, L, Do)."""
    (B, _, L, D), M = x.shape, W_0.shape[-1]
    Do = M - 2 * D - 4
    blocks = np.repeat(np.arange(4), [Do, D, D, 4])
    W = np.repeat(W_0[None], B, 0)
    y = np.empty((*x.shape[:-1], Do), x.dtype)
    for t in range(L):
        # 1
        o = _row_times(x[:, :, t], W)
        y[:, :, t] = o[..., :Do]
        # 2
        q, k = _softmax(o[..., Do : Do + D]), _softmax(o[..., Do + D : -4])
        beta = 1 / (1 + np.exp(-o[..., -4:]))
        # 3
        Delta = _row_times(q - k, W)
        if kept is not None:
            kept.steps.append((q, k, beta, Delta))
            if t % SEGMENT == 0:
                kept.states.append(W.copy())
        # 4, 5
        W += _outer(k, beta[..., blocks] * Delta)
        if kept is not None and t == L - 1:
            kept.states.append(W)
    return y


def _forward_and_backward(x: np.ndarray, W_0: np.ndarray, grad_y: np.ndarray) -> tuple[np.ndarray, ...]:
    """y, gx, gW of x (B, H, L, D), W_0 (H, D, M) and the gradient of y."""
    kept = _Kept()
    y = _run(x, W_0, kept)
    (_, _, L, D), M = x.shape, W_0.shape[-1]
    Do = M - 2 * D - 4
    sizes = [Do, D, D, 4]
    blocks, starts = np.repeat(np.arange(4), sizes), np.cumsum([0, *sizes[:-1]])
    W = kept.states.pop()
    G, gx = np.zeros_like(W), np.empty_like(x)
    for t in reversed(range(L)):
        q, k, beta, Delta = kept.steps[t]
        rates = beta[..., blocks]
        u = rates * Delta
        # 5'
        g_u, g_k = _row_times(k, G), _times_column(G, u)
        W = kept.states.pop() if t % SEGMENT == 0 else W - _outer(k, u)
        # 4'
        g_Delta = rates * g_u
        g_beta = np.add.reduceat(g_u * Delta, starts, -1)
        # 3'
        g_q = _times_column(W, g_Delta)
        g_k -= g_q
        G += _outer(q - k, g_Delta)
        # 2'
        g_b = g_beta * beta * (1 - beta)
        gates = (_softmax_gradient(q, g_q), _softmax_gradient(k, g_k), g_b)
        g_o = np.concatenate((grad_y[:, :, t], *gates), -1)
        # 1'
        gx[:, :, t] = _times_column(W, g_o)
        G += _outer(x[:, :, t], g_o)
    return y, gx, G.sum(0)


def _forward(case: Case) -> Ready:
    x, W = case.operands
    return Ready(lambda: (_run(x, W, None),), tuple)


def _training(case: Case) -> Ready:
    x, W = case.operands
    return Ready(lambda: _forward_and_backward(x, W, case.grad_y), tuple)


PEERS = (Peer("NumPy loop", _forward, _training),)
