"""Plain loops in Python, compiled by numba: what a patient user gets without leaving Python.

The same algorithm as srwm's, step numbers as in srwm/reference/srwm.py: it keeps q, k, beta and Delta of
every step, W of every 32nd, and undoes updates in between. Of the forms tried the fastest is kept: D and
M are constants of the compiled code; fastmath, so that sums along rows are vectors too; the update and
the next x W in one sweep of W; and four rows at a time (a fifth to a quarter faster than one at a time,
and faster than without the fusion), for which the rows are padded with zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numba
import numpy as np

from benchmarks.cases import Case
from benchmarks.peers.interface import Peer, Ready

SEGMENT = 32


@cache
def _kernels(D: int, Do: int, parallel: bool) -> tuple[Callable[..., None], Callable[..., None]]:
    """Forward and backward for heads of one size."""
    f32 = np.float32
    M, R = Do + 2 * D + 4, -(-D // 4) * 4
    Q, K, Z = Do, Do + D, Do + 2 * D  # where the columns of q, k and beta begin
    jit = numba.njit(fastmath=True, error_model="numpy")
    in_parallel = numba.njit(fastmath=True, error_model="numpy", parallel=parallel)

    @jit
    def softmax(o: Any, first: int, p: Any) -> None:
        top = o[first]
        for i in range(1, D):
            top = max(top, o[first + i])
        total = f32(0)
        for i in range(D):
            p[i] = np.exp(o[first + i] - top)
            total += p[i]
        for i in range(D):
            p[i] *= f32(1) / total

    @jit
    def scaled(a: Any, beta: Any, u: Any) -> None:
        for j in range(Q):
            u[j] = beta[0] * a[j]
        for j in range(Q, K):
            u[j] = beta[1] * a[j]
        for j in range(K, Z):
            u[j] = beta[2] * a[j]
        for j in range(Z, M):
            u[j] = beta[3] * a[j]

    @jit
    def forward_one(x: Any, W_0: Any, y: Any, trace: Any, states: Any, keep: bool) -> None:
        L = x.shape[0]
        W, x_next = np.zeros((R, M), f32), np.zeros(R, f32)
        o, Delta, u = np.zeros(M, f32), np.empty(M, f32), np.empty(M, f32)
        q, k, beta = np.zeros(R, f32), np.zeros(R, f32), np.empty(4, f32)
        for i in range(D):
            for j in range(M):
                W[i, j] = W_0[i, j]
                o[j] += x[0, i] * W[i, j]
        for t in range(L):
            # 1, but for the product, which the step before has made
            for j in range(Do):
                y[t, j] = o[j]
            # 2
            softmax(o, Q, q)
            softmax(o, K, k)
            for j in range(4):
                beta[j] = f32(1) / (f32(1) + np.exp(-o[Z + j]))
            # 3
            Delta[:] = 0
            for i in range(0, R, 4):
                d0, d1, d2, d3 = q[i] - k[i], q[i + 1] - k[i + 1], q[i + 2] - k[i + 2], q[i + 3] - k[i + 3]
                for j in range(M):
                    Delta[j] += d0 * W[i, j] + d1 * W[i + 1, j] + d2 * W[i + 2, j] + d3 * W[i + 3, j]
            # 4
            scaled(Delta, beta, u)
            if keep:
                if t % SEGMENT == 0:
                    states[t // SEGMENT] = W[:D]
                for i in range(D):
                    trace[t, i] = q[i]
                    trace[t, D + i] = k[i]
                for j in range(M):
                    trace[t, 2 * D + j] = Delta[j]
                for j in range(4):
                    trace[t, 2 * D + M + j] = beta[j]
            # 5, and 1 of the next step
            if t + 1 < L:
                for i in range(D):
                    x_next[i] = x[t + 1, i]
            o[:] = 0
            for i in range(0, R, 4):
                k0, k1, k2, k3 = k[i], k[i + 1], k[i + 2], k[i + 3]
                x0, x1, x2, x3 = x_next[i], x_next[i + 1], x_next[i + 2], x_next[i + 3]
                for j in range(M):
                    w0, w1 = W[i, j] + k0 * u[j], W[i + 1, j] + k1 * u[j]
                    w2, w3 = W[i + 2, j] + k2 * u[j], W[i + 3, j] + k3 * u[j]
                    W[i, j], W[i + 1, j], W[i + 2, j], W[i + 3, j] = w0, w1, w2, w3
                    o[j] += x0 * w0 + x1 * w1 + x2 * w2 + x3 * w3
        if keep:
            states[-1] = W[:D]

    @jit
    def softmax_gradient(p: Any, g: Any, g_o: Any, first: int) -> None:
        along = f32(0)
        for i in range(D):
            along += g[i] * p[i]
        for i in range(D):
            g_o[first + i] = p[i] * (g[i] - along)

    @jit
    def backward_one(x: Any, trace: Any, states: Any, grad_y: Any, gx: Any, gW: Any) -> None:
        L = x.shape[0]
        W, G = np.zeros((R, M), f32), np.zeros((R, M), f32)
        W[:D] = states[-1]
        q, k, d, x_t = np.zeros(R, f32), np.zeros(R, f32), np.zeros(R, f32), np.zeros(R, f32)
        g_q, g_k, g_x = np.empty(R, f32), np.empty(R, f32), np.empty(R, f32)
        u, g_u, g_o, g_Delta = np.empty(M, f32), np.empty(M, f32), np.zeros(M, f32), np.zeros(M, f32)
        for t in range(L - 1, -1, -1):
            Delta, beta = trace[t, 2 * D : 2 * D + M], trace[t, 2 * D + M :]
            for i in range(D):
                q[i] = trace[t, i]
                k[i] = trace[t, D + i]
            scaled(Delta, beta, u)
            # G of the later step's 3' and 1', and 5'
            g_u[:] = 0
            for i in range(0, R, 4):
                d0, d1, d2, d3 = d[i], d[i + 1], d[i + 2], d[i + 3]
                x0, x1, x2, x3 = x_t[i], x_t[i + 1], x_t[i + 2], x_t[i + 3]
                k0, k1, k2, k3 = k[i], k[i + 1], k[i + 2], k[i + 3]
                s0, s1, s2, s3 = f32(0), f32(0), f32(0), f32(0)
                for j in range(M):
                    a0 = G[i, j] + d0 * g_Delta[j] + x0 * g_o[j]
                    a1 = G[i + 1, j] + d1 * g_Delta[j] + x1 * g_o[j]
                    a2 = G[i + 2, j] + d2 * g_Delta[j] + x2 * g_o[j]
                    a3 = G[i + 3, j] + d3 * g_Delta[j] + x3 * g_o[j]
                    G[i, j], G[i + 1, j], G[i + 2, j], G[i + 3, j] = a0, a1, a2, a3
                    g_u[j] += k0 * a0 + k1 * a1 + k2 * a2 + k3 * a3
                    s0 += a0 * u[j]
                    s1 += a1 * u[j]
                    s2 += a2 * u[j]
                    s3 += a3 * u[j]
                g_k[i], g_k[i + 1], g_k[i + 2], g_k[i + 3] = s0, s1, s2, s3
            # 4'
            scaled(g_u, beta, g_Delta)
            for j in range(4):
                g_o[Z + j] = 0
            for j in range(Q):
                g_o[Z] += g_u[j] * Delta[j]
            for j in range(Q, K):
                g_o[Z + 1] += g_u[j] * Delta[j]
            for j in range(K, Z):
                g_o[Z + 2] += g_u[j] * Delta[j]
            for j in range(Z, M):
                g_o[Z + 3] += g_u[j] * Delta[j]
            # W before this step, and 3'
            if t % SEGMENT == 0:
                W[:D] = states[t // SEGMENT]
                u[:] = 0
            for i in range(0, R, 4):
                k0, k1, k2, k3 = k[i], k[i + 1], k[i + 2], k[i + 3]
                s0, s1, s2, s3 = f32(0), f32(0), f32(0), f32(0)
                for j in range(M):
                    w0, w1 = W[i, j] - k0 * u[j], W[i + 1, j] - k1 * u[j]
                    w2, w3 = W[i + 2, j] - k2 * u[j], W[i + 3, j] - k3 * u[j]
                    W[i, j], W[i + 1, j], W[i + 2, j], W[i + 3, j] = w0, w1, w2, w3
                    s0 += w0 * g_Delta[j]
                    s1 += w1 * g_Delta[j]
                    s2 += w2 * g_Delta[j]
                    s3 += w3 * g_Delta[j]
                g_q[i], g_q[i + 1], g_q[i + 2], g_q[i + 3] = s0, s1, s2, s3
            for i in range(D):
                g_k[i] -= g_q[i]
                d[i] = q[i] - k[i]
                x_t[i] = x[t, i]
            # 2'
            for j in range(Do):
                g_o[j] = grad_y[t, j]
            softmax_gradient(q, g_q, g_o, Q)
            softmax_gradient(k, g_k, g_o, K)
            for j in range(4):
                g_o[Z + j] *= beta[j] * (f32(1) - beta[j])
            # 1'
            for i in range(0, R, 4):
                s0, s1, s2, s3 = f32(0), f32(0), f32(0), f32(0)
                for j in range(M):
                    s0 += W[i, j] * g_o[j]
                    s1 += W[i + 1, j] * g_o[j]
                    s2 += W[i + 2, j] * g_o[j]
                    s3 += W[i + 3, j] * g_o[j]
                g_x[i], g_x[i + 1], g_x[i + 2], g_x[i + 3] = s0, s1, s2, s3
            for i in range(D):
                gx[t, i] = g_x[i]
        for i in range(D):
            for j in range(M):
                gW[i, j] += G[i, j] + d[i] * g_Delta[j] + x_t[i] * g_o[j]

    @in_parallel
    def forward(x: Any, W: Any, y: Any, trace: Any, states: Any, keep: bool) -> None:
        B, H = x.shape[:2]
        for n in numba.prange(B * H):
            b, h = n // H, n % H
            forward_one(x[b, h], W[h], y[b, h], trace[b, h], states[b, h], keep)

    @in_parallel
    def backward(x: Any, trace: Any, states: Any, grad_y: Any, gx: Any, gW: Any) -> None:
        B, H = x.shape[:2]
        for h in numba.prange(H):  # heads, so that no two threads add to one gW
            for b in range(B):
                backward_one(x[b, h], trace[b, h], states[b, h], grad_y[b, h], gx[b, h], gW[h])

    return forward, backward


def _sizes(case: Case) -> tuple[int, int, int, int, int]:
    """B, H, L, D, M"""
    x, W = case.operands
    return (*x.shape, W.shape[-1])


def _forward(case: Case) -> Ready:
    B, H, L, D, M = _sizes(case)
    kernel, _ = _kernels(D, M - 2 * D - 4, numba.get_num_threads() > 1)
    trace, states = np.empty((B, H, 0, 0), np.float32), np.empty((B, H, 0, D, M), np.float32)

    def run() -> tuple[np.ndarray, ...]:
        y = np.empty((B, H, L, M - 2 * D - 4), np.float32)
        kernel(*case.operands, y, trace, states, False)
        return (y,)

    return Ready(run, tuple)


def _training(case: Case) -> Ready:
    B, H, L, D, M = _sizes(case)
    forward, backward = _kernels(D, M - 2 * D - 4, numba.get_num_threads() > 1)
    x, W = case.operands

    def run() -> tuple[np.ndarray, ...]:
        y = np.empty((B, H, L, M - 2 * D - 4), np.float32)
        trace = np.empty((B, H, L, 2 * D + M + 4), np.float32)
        states = np.empty((B, H, -(-L // SEGMENT) + 1, D, M), np.float32)
        gx, gW = np.empty_like(x), np.zeros_like(W)
        forward(x, W, y, trace, states, True)
        backward(x, trace, states, case.grad_y, gx, gW)
        return y, gx, gW

    return Ready(run, tuple)


PEERS = (Peer("numba by hand", _forward, _training),)
