"""Loops by hand for numba, as `benchmarks.peers.numba_loops`, of the operators whose fast weights are S.

As there: D is a constant of the compiled code, sums along rows are vectors (fastmath), rows are taken four
at a time, padded with zeros. A copy of S is kept every 32 steps, and updates are undone in between. Each
step sweeps S once forward, where the next key is known, and S and its gradient G once each backward. Step
numbers are those of srwm/reference/.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numba
import numpy as np

from benchmarks.cases import Case
from benchmarks.peers import table
from benchmarks.peers.family import FAMILY
from benchmarks.peers.interface import Peer, Ready

SEGMENT = 32
EPS = 1e-6  # of the softmax of the Delta RNN

Kernels = tuple[Callable[..., None], Callable[..., None]]


@cache
def _kernels(D: int) -> dict[str, Kernels]:
    """Forward and backward of each, for heads of one size. They are compiled when first called."""
    f32 = np.float32
    R, M = -(-D // 4) * 4, 3 * D + 1
    jit = numba.njit(fastmath=True, error_model="numpy")

    # ---- sweeps of matrices of R rows

    @jit
    def read(A: Any, k: Any, out: Any) -> None:
        """out = k A"""
        out[:] = 0
        for i in range(0, R, 4):
            k0, k1, k2, k3 = k[i], k[i + 1], k[i + 2], k[i + 3]
            for j in range(len(out)):
                out[j] += k0 * A[i, j] + k1 * A[i + 1, j] + k2 * A[i + 2, j] + k3 * A[i + 3, j]

    @jit
    def write(S: Any, k: Any, u: Any, q: Any, y: Any) -> None:
        """S += k^T u, y = q S"""
        y[:] = 0
        for i in range(0, R, 4):
            k0, k1, k2, k3 = k[i], k[i + 1], k[i + 2], k[i + 3]
            q0, q1, q2, q3 = q[i], q[i + 1], q[i + 2], q[i + 3]
            for j in range(D):
                s0, s1 = S[i, j] + k0 * u[j], S[i + 1, j] + k1 * u[j]
                s2, s3 = S[i + 2, j] + k2 * u[j], S[i + 3, j] + k3 * u[j]
                S[i, j], S[i + 1, j], S[i + 2, j], S[i + 3, j] = s0, s1, s2, s3
                y[j] += q0 * s0 + q1 * s1 + q2 * s2 + q3 * s3

    @jit
    def write_and_read(S: Any, k: Any, u: Any, q: Any, y: Any, k_next: Any, v_bar: Any) -> None:
        """The same, and v_bar = k_next S"""
        y[:] = 0
        v_bar[:] = 0
        for i in range(0, R, 4):
            k0, k1, k2, k3 = k[i], k[i + 1], k[i + 2], k[i + 3]
            q0, q1, q2, q3 = q[i], q[i + 1], q[i + 2], q[i + 3]
            n0, n1, n2, n3 = k_next[i], k_next[i + 1], k_next[i + 2], k_next[i + 3]
            for j in range(D):
                s0, s1 = S[i, j] + k0 * u[j], S[i + 1, j] + k1 * u[j]
                s2, s3 = S[i + 2, j] + k2 * u[j], S[i + 3, j] + k3 * u[j]
                S[i, j], S[i + 1, j], S[i + 2, j], S[i + 3, j] = s0, s1, s2, s3
                y[j] += q0 * s0 + q1 * s1 + q2 * s2 + q3 * s3
                v_bar[j] += n0 * s0 + n1 * s1 + n2 * s2 + n3 * s3

    @jit
    def back_through_write(
        G: Any, k_later: Any, later: Any, q: Any, g: Any, k: Any, u: Any, g_u: Any, g_k: Any
    ) -> None:
        """G += q^T g - k_later^T later, which is what the later step left; g_u = k G, g_k = u G^T"""
        g_u[:] = 0
        for i in range(0, R, 4):
            l0, l1, l2, l3 = k_later[i], k_later[i + 1], k_later[i + 2], k_later[i + 3]
            q0, q1, q2, q3 = q[i], q[i + 1], q[i + 2], q[i + 3]
            k0, k1, k2, k3 = k[i], k[i + 1], k[i + 2], k[i + 3]
            s0, s1, s2, s3 = f32(0), f32(0), f32(0), f32(0)
            for j in range(D):
                a0, a1 = G[i, j] + q0 * g[j] - l0 * later[j], G[i + 1, j] + q1 * g[j] - l1 * later[j]
                a2, a3 = G[i + 2, j] + q2 * g[j] - l2 * later[j], G[i + 3, j] + q3 * g[j] - l3 * later[j]
                G[i, j], G[i + 1, j], G[i + 2, j], G[i + 3, j] = a0, a1, a2, a3
                g_u[j] += k0 * a0 + k1 * a1 + k2 * a2 + k3 * a3
                s0 += a0 * u[j]
                s1 += a1 * u[j]
                s2 += a2 * u[j]
                s3 += a3 * u[j]
            g_k[i], g_k[i + 1], g_k[i + 2], g_k[i + 3] = s0, s1, s2, s3

    @jit
    def undo(S: Any, g: Any, g_q: Any, k: Any, u: Any, g_v: Any, g_k: Any) -> None:
        """g_q = g S^T, then S -= k^T u, then g_k -= g_v S^T"""
        for i in range(0, R, 4):
            k0, k1, k2, k3 = k[i], k[i + 1], k[i + 2], k[i + 3]
            q0, q1, q2, q3 = f32(0), f32(0), f32(0), f32(0)
            s0, s1, s2, s3 = f32(0), f32(0), f32(0), f32(0)
            for j in range(D):
                w0, w1, w2, w3 = S[i, j], S[i + 1, j], S[i + 2, j], S[i + 3, j]
                q0 += w0 * g[j]
                q1 += w1 * g[j]
                q2 += w2 * g[j]
                q3 += w3 * g[j]
                w0, w1, w2, w3 = w0 - k0 * u[j], w1 - k1 * u[j], w2 - k2 * u[j], w3 - k3 * u[j]
                S[i, j], S[i + 1, j], S[i + 2, j], S[i + 3, j] = w0, w1, w2, w3
                s0 += w0 * g_v[j]
                s1 += w1 * g_v[j]
                s2 += w2 * g_v[j]
                s3 += w3 * g_v[j]
            g_q[i], g_q[i + 1], g_q[i + 2], g_q[i + 3] = q0, q1, q2, q3
            g_k[i] -= s0
            g_k[i + 1] -= s1
            g_k[i + 2] -= s2
            g_k[i + 3] -= s3

    @jit
    def back_through_sum(
        S: Any, G: Any, q: Any, k: Any, v: Any, g: Any, g_q: Any, g_k: Any, g_v: Any
    ) -> None:
        """g_q = g S^T, then S -= k^T v; G += q^T g, then g_v = k G, g_k = v G^T"""
        for i in range(0, R, 4):  # in two sweeps: one has more sums than there are registers
            k0, k1, k2, k3 = k[i], k[i + 1], k[i + 2], k[i + 3]
            s0, s1, s2, s3 = f32(0), f32(0), f32(0), f32(0)
            for j in range(D):
                w0, w1, w2, w3 = S[i, j], S[i + 1, j], S[i + 2, j], S[i + 3, j]
                s0 += w0 * g[j]
                s1 += w1 * g[j]
                s2 += w2 * g[j]
                s3 += w3 * g[j]
                w0, w1, w2, w3 = w0 - k0 * v[j], w1 - k1 * v[j], w2 - k2 * v[j], w3 - k3 * v[j]
                S[i, j], S[i + 1, j], S[i + 2, j], S[i + 3, j] = w0, w1, w2, w3
            g_q[i], g_q[i + 1], g_q[i + 2], g_q[i + 3] = s0, s1, s2, s3
        g_v[:] = 0
        for i in range(0, R, 4):
            k0, k1, k2, k3 = k[i], k[i + 1], k[i + 2], k[i + 3]
            q0, q1, q2, q3 = q[i], q[i + 1], q[i + 2], q[i + 3]
            s0, s1, s2, s3 = f32(0), f32(0), f32(0), f32(0)
            for j in range(D):
                a0, a1 = G[i, j] + q0 * g[j], G[i + 1, j] + q1 * g[j]
                a2, a3 = G[i + 2, j] + q2 * g[j], G[i + 3, j] + q3 * g[j]
                G[i, j], G[i + 1, j], G[i + 2, j], G[i + 3, j] = a0, a1, a2, a3
                g_v[j] += k0 * a0 + k1 * a1 + k2 * a2 + k3 * a3
                s0 += a0 * v[j]
                s1 += a1 * v[j]
                s2 += a2 * v[j]
                s3 += a3 * v[j]
            g_k[i], g_k[i + 1], g_k[i + 2], g_k[i + 3] = s0, s1, s2, s3

    @jit
    def back_through_feedback(A: Any, gA: Any, r: Any, g: Any, g_r: Any) -> None:
        """gA += r^T g, g_r = g A^T, for what the last output is multiplied by"""
        for i in range(0, R, 4):
            r0, r1, r2, r3 = r[i], r[i + 1], r[i + 2], r[i + 3]
            s0, s1, s2, s3 = f32(0), f32(0), f32(0), f32(0)
            for j in range(M):
                gA[i, j] += r0 * g[j]
                gA[i + 1, j] += r1 * g[j]
                gA[i + 2, j] += r2 * g[j]
                gA[i + 3, j] += r3 * g[j]
                s0 += A[i, j] * g[j]
                s1 += A[i + 1, j] * g[j]
                s2 += A[i + 2, j] * g[j]
                s3 += A[i + 3, j] * g[j]
            g_r[i], g_r[i + 1], g_r[i + 2], g_r[i + 3] = s0, s1, s2, s3

    # ---- vectors

    @jit
    def load(a: Any, out: Any) -> None:
        for i in range(D):
            out[i] = a[i]

    @jit
    def softmax(o: Any, eps: Any, p: Any) -> None:
        """p = exp(o) / (the sum of exp(o) + eps)"""
        top = o[0]
        for i in range(1, D):
            top = max(top, o[i])
        total = f32(eps) * np.exp(-top)
        for i in range(D):
            p[i] = np.exp(o[i] - top)
            total += p[i]
        for i in range(D):
            p[i] *= f32(1) / total

    @jit
    def softmax_gradient(p: Any, g: Any, g_o: Any) -> None:
        along = f32(0)
        for i in range(D):
            along += g[i] * p[i]
        for i in range(D):
            g_o[i] = p[i] * (g[i] - along)

    @jit
    def rows() -> Any:
        return np.zeros(R, f32)

    @jit
    def columns() -> Any:
        return np.zeros(D, f32)

    @jit
    def matrix(S: Any) -> Any:
        """A copy with rows that are padding."""
        A = np.zeros((R, S.shape[1]), f32)
        A[:D] = S
        return A

    # ---- the sum rule

    @jit
    def sum_forward_one(q: Any, k: Any, v: Any, S_0: Any, y: Any, states: Any, keep: bool) -> None:
        S, q_t, k_t = matrix(S_0), rows(), rows()
        for t in range(len(q)):
            load(q[t], q_t)
            load(k[t], k_t)
            write(S, k_t, v[t], q_t, y[t])
            if keep and ((t + 1) % SEGMENT == 0 or t + 1 == len(q)):
                states[t // SEGMENT] = S[:D]

    @jit
    def sum_backward_one(
        q: Any, k: Any, v: Any, states: Any, grad_y: Any, gq: Any, gk: Any, gv: Any, gS: Any
    ) -> None:
        S, G = np.zeros((R, D), f32), np.zeros((R, D), f32)
        q_t, k_t, g_q, g_k = rows(), rows(), rows(), rows()
        for t in range(len(q) - 1, -1, -1):
            if (t + 1) % SEGMENT == 0 or t + 1 == len(q):
                S[:D] = states[t // SEGMENT]
            load(q[t], q_t)
            load(k[t], k_t)
            back_through_sum(S, G, q_t, k_t, v[t], grad_y[t], g_q, g_k, gv[t])
            load(g_q, gq[t])
            load(g_k, gk[t])
        gS += G[:D]

    # ---- the delta rule

    @jit
    def delta_forward_one(
        q: Any, k: Any, v: Any, beta: Any, S_0: Any, y: Any, trace: Any, states: Any, keep: bool
    ) -> None:
        S, q_t, k_t, k_next = matrix(S_0), rows(), rows(), rows()
        v_bar, Delta, u = columns(), columns(), columns()
        # 1 of the first step; those of the others are made in the sweep of the step before
        load(k[0], k_t)
        read(S, k_t, v_bar)
        for t in range(len(q)):
            load(q[t], q_t)
            # 2, 3
            for j in range(D):
                Delta[j] = v[t, j] - v_bar[j]
                u[j] = beta[t] * Delta[j]
            # 4, 5
            load(k[min(t + 1, len(q) - 1)], k_next)
            write_and_read(S, k_t, u, q_t, y[t], k_next, v_bar)
            k_t[:] = k_next
            if keep:
                trace[t] = Delta
                if (t + 1) % SEGMENT == 0 or t + 1 == len(q):
                    states[t // SEGMENT] = S[:D]

    @jit
    def delta_backward_one(
        q: Any,
        k: Any,
        beta: Any,
        trace: Any,
        states: Any,
        grad_y: Any,
        gq: Any,
        gk: Any,
        gv: Any,
        gbeta: Any,
        gS: Any,
    ) -> None:
        S, G = np.zeros((R, D), f32), np.zeros((R, D), f32)
        q_t, k_t, k_later, g_q, g_k = rows(), rows(), rows(), rows(), rows()
        u, g_u, g_v = columns(), columns(), columns()
        for t in range(len(q) - 1, -1, -1):
            if (t + 1) % SEGMENT == 0 or t + 1 == len(q):
                S[:D] = states[t // SEGMENT]
            load(q[t], q_t)
            load(k[t], k_t)
            for j in range(D):
                u[j] = beta[t] * trace[t, j]
            # 5', 4', and 1' of the later step
            back_through_write(G, k_later, g_v, q_t, grad_y[t], k_t, u, g_u, g_k)
            # 3', 2'
            g_beta = f32(0)
            for j in range(D):
                g_beta += g_u[j] * trace[t, j]
                g_v[j] = beta[t] * g_u[j]
                gv[t, j] = g_v[j]
            gbeta[t] = g_beta
            # 1', but for G
            undo(S, grad_y[t], g_q, k_t, u, g_v, g_k)
            load(g_q, gq[t])
            load(g_k, gk[t])
            k_later[:] = k_t
        for i in range(D):
            for j in range(D):
                gS[i, j] += G[i, j] - k_later[i] * g_v[j]

    # ---- the Delta RNN, version 2: S is R

    @jit
    def delta_rnn_forward_one(
        z: Any, k: Any, v: Any, beta: Any, S_0: Any, h: Any, trace: Any, states: Any, keep: bool
    ) -> None:
        S, s, k_t, k_next = matrix(S_0), rows(), rows(), rows()
        v_bar, Delta, u, p, last = columns(), columns(), columns(), columns(), columns()
        load(k[0], k_t)
        read(S, k_t, v_bar)
        for t in range(len(z)):
            # 1, but for the write
            for j in range(D):
                Delta[j] = v[t, j] - v_bar[j]
                u[j] = beta[t] * Delta[j]
            # 2
            softmax(last, EPS, s)
            # 1, 3
            load(k[min(t + 1, len(z) - 1)], k_next)
            write_and_read(S, k_t, u, s, p, k_next, v_bar)
            k_t[:] = k_next
            # 4
            for j in range(D):
                last[j] = z[t, j] + p[j]
                h[t, j] = last[j]
            if keep:
                for j in range(D):
                    trace[t, j] = Delta[j]
                    trace[t, D + j] = s[j]
                if (t + 1) % SEGMENT == 0 or t + 1 == len(z):
                    states[t // SEGMENT] = S[:D]

    @jit
    def delta_rnn_backward_one(
        k: Any,
        beta: Any,
        trace: Any,
        states: Any,
        grad_h: Any,
        gz: Any,
        gk: Any,
        gv: Any,
        gbeta: Any,
        gS: Any,
    ) -> None:
        S, G = np.zeros((R, D), f32), np.zeros((R, D), f32)
        s, k_t, k_later, g_s, g_k = rows(), rows(), rows(), rows(), rows()
        u, g_u, g_v, g, w = columns(), columns(), columns(), columns(), columns()
        for t in range(len(k) - 1, -1, -1):
            if (t + 1) % SEGMENT == 0 or t + 1 == len(k):
                S[:D] = states[t // SEGMENT]
            load(trace[t, D:], s)
            load(k[t], k_t)
            # 4'
            for j in range(D):
                u[j] = beta[t] * trace[t, j]
                g[j] = grad_h[t, j] + w[j]
                gz[t, j] = g[j]
            # 3', 1', and what the later step left
            back_through_write(G, k_later, g_v, s, g, k_t, u, g_u, g_k)
            g_beta = f32(0)
            for j in range(D):
                g_beta += g_u[j] * trace[t, j]
                g_v[j] = beta[t] * g_u[j]
                gv[t, j] = g_v[j]
            gbeta[t] = g_beta
            undo(S, g, g_s, k_t, u, g_v, g_k)
            # 2'
            softmax_gradient(s, g_s, w)
            load(g_k, gk[t])
            k_later[:] = k_t
        for i in range(D):
            for j in range(D):
                gS[i, j] += G[i, j] - k_later[i] * g_v[j]

    # ---- the Recurrent Delta Net: A = [R_q | R_k | R_v | r_b]

    @jit
    def recurrent_delta_forward_one(
        q: Any,
        k: Any,
        v: Any,
        b: Any,
        feedback: Any,
        S_0: Any,
        y: Any,
        trace: Any,
        states: Any,
        keep: bool,
    ) -> None:
        S, A = matrix(S_0), matrix(feedback)
        r, q_t, k_t, o = rows(), rows(), rows(), np.zeros(M, f32)
        v_bar, Delta, u = columns(), columns(), columns()
        for t in range(len(q)):
            # 1
            if t > 0:
                for i in range(D):
                    r[i] = np.tanh(y[t - 1, i])
            # 2
            read(A, r, o)
            for i in range(D):
                o[i] += q[t, i]
                o[D + i] += k[t, i]
            softmax(o, 0, q_t)
            softmax(o[D:], 0, k_t)
            beta = f32(1) / (f32(1) + np.exp(-(o[3 * D] + b[t])))
            # 3
            read(S, k_t, v_bar)
            for j in range(D):
                Delta[j] = v[t, j] + o[2 * D + j] - v_bar[j]
                u[j] = beta * Delta[j]
            # 4, 5
            write(S, k_t, u, q_t, y[t])
            if keep:
                for i in range(D):
                    trace[t, i] = q_t[i]
                    trace[t, D + i] = k_t[i]
                    trace[t, 2 * D + i] = Delta[i]
                    trace[t, 3 * D + i] = r[i]
                trace[t, 4 * D] = beta
                if (t + 1) % SEGMENT == 0 or t + 1 == len(q):
                    states[t // SEGMENT] = S[:D]

    @jit
    def recurrent_delta_backward_one(
        feedback: Any,
        trace: Any,
        states: Any,
        grad_y: Any,
        gq: Any,
        gk: Any,
        gv: Any,
        gb: Any,
        g_feedback: Any,
        gS: Any,
    ) -> None:
        S, G = np.zeros((R, D), f32), np.zeros((R, D), f32)
        A, gA = matrix(feedback), np.zeros((R, M), f32)
        q_t, k_t, r, k_later = rows(), rows(), rows(), rows()
        g_q, g_k, g_r = rows(), rows(), rows()
        u, g_u, g_v, g, e, g_o = columns(), columns(), columns(), columns(), columns(), np.zeros(M, f32)
        for t in range(len(grad_y) - 1, -1, -1):
            if (t + 1) % SEGMENT == 0 or t + 1 == len(grad_y):
                S[:D] = states[t // SEGMENT]
            load(trace[t], q_t)
            load(trace[t, D:], k_t)
            load(trace[t, 3 * D :], r)
            Delta, beta = trace[t, 2 * D : 3 * D], trace[t, 4 * D]
            for j in range(D):
                u[j] = beta * Delta[j]
                g[j] = grad_y[t, j] + e[j]
            # 5', 4', and what the later step left
            back_through_write(G, k_later, g_v, q_t, g, k_t, u, g_u, g_k)
            # 3'
            g_beta = f32(0)
            for j in range(D):
                g_beta += g_u[j] * Delta[j]
                g_v[j] = beta * g_u[j]
                g_o[2 * D + j] = g_v[j]
            undo(S, g, g_q, k_t, u, g_v, g_k)
            # 2'
            softmax_gradient(q_t, g_q, g_o)
            softmax_gradient(k_t, g_k, g_o[D:])
            g_o[3 * D] = g_beta * beta * (f32(1) - beta)
            back_through_feedback(A, gA, r, g_o, g_r)
            # 1'
            for j in range(D):
                e[j] = g_r[j] * (f32(1) - r[j] * r[j])
            load(g_o, gq[t])
            load(g_o[D:], gk[t])
            load(g_v, gv[t])
            gb[t] = g_o[3 * D]
            k_later[:] = k_t
        g_feedback += gA[:D]
        for i in range(D):
            for j in range(D):
                gS[i, j] += G[i, j] - k_later[i] * g_v[j]

    # ---- all sequences: `of` is one, [1] its head, whose S it begins with

    @jit
    def sum_forward(operands: Any, y: Any, trace: Any, states: Any, keep: bool) -> None:
        q, k, v, S = operands
        for of in np.ndindex(y.shape[:2]):
            sum_forward_one(q[of], k[of], v[of], S[of[1]], y[of], states[of], keep)

    @jit
    def sum_backward(operands: Any, trace: Any, states: Any, g: Any, gradients: Any) -> None:
        (q, k, v, _), (gq, gk, gv, gS) = operands, gradients
        for of in np.ndindex(g.shape[:2]):
            sum_backward_one(q[of], k[of], v[of], states[of], g[of], gq[of], gk[of], gv[of], gS[of[1]])

    @jit
    def delta_forward(operands: Any, y: Any, trace: Any, states: Any, keep: bool) -> None:
        q, k, v, beta, S = operands
        for of in np.ndindex(y.shape[:2]):
            data = q[of], k[of], v[of], beta[of]
            delta_forward_one(*data, S[of[1]], y[of], trace[of], states[of], keep)

    @jit
    def delta_backward(operands: Any, trace: Any, states: Any, g: Any, gradients: Any) -> None:
        (q, k, _, beta, _), (gq, gk, gv, gbeta, gS) = operands, gradients
        for of in np.ndindex(g.shape[:2]):
            data, of_data = (q[of], k[of], beta[of]), (gq[of], gk[of], gv[of], gbeta[of])
            delta_backward_one(*data, trace[of], states[of], g[of], *of_data, gS[of[1]])

    @jit
    def delta_rnn_forward(operands: Any, y: Any, trace: Any, states: Any, keep: bool) -> None:
        z, k, v, beta, S = operands
        for of in np.ndindex(y.shape[:2]):
            data = z[of], k[of], v[of], beta[of]
            delta_rnn_forward_one(*data, S[of[1]], y[of], trace[of], states[of], keep)

    @jit
    def delta_rnn_backward(operands: Any, trace: Any, states: Any, g: Any, gradients: Any) -> None:
        (_, k, _, beta, _), (gz, gk, gv, gbeta, gS) = operands, gradients
        for of in np.ndindex(g.shape[:2]):
            of_data = gz[of], gk[of], gv[of], gbeta[of]
            delta_rnn_backward_one(k[of], beta[of], trace[of], states[of], g[of], *of_data, gS[of[1]])

    @jit
    def recurrent_delta_forward(operands: Any, y: Any, trace: Any, states: Any, keep: bool) -> None:
        q, k, v, b, feedback, S = operands
        for of in np.ndindex(y.shape[:2]):
            data, head = (q[of], k[of], v[of], b[of]), of[1]
            recurrent_delta_forward_one(*data, feedback[head], S[head], y[of], trace[of], states[of], keep)

    @jit
    def recurrent_delta_backward(operands: Any, trace: Any, states: Any, g: Any, gradients: Any) -> None:
        feedback = operands[4]
        gq, gk, gv, gb, g_feedback, gS = gradients
        for of in np.ndindex(g.shape[:2]):
            of_data, head = (gq[of], gk[of], gv[of], gb[of]), of[1]
            recurrent_delta_backward_one(
                feedback[head], trace[of], states[of], g[of], *of_data, g_feedback[head], gS[head]
            )

    return {
        "sum rule": (sum_forward, sum_backward),
        "delta rule": (delta_forward, delta_backward),
        "Delta RNN": (delta_rnn_forward, delta_rnn_backward),
        "Recurrent Delta Net": (recurrent_delta_forward, recurrent_delta_backward),
    }


_KEPT = {"sum rule": lambda D: 0, "delta rule": lambda D: D}
_KEPT |= {"Delta RNN": lambda D: 2 * D, "Recurrent Delta Net": lambda D: 4 * D + 1}
"""Entries that forward keeps of each step, besides the operands."""


def _packed(member: str, operands: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    """The operands, for the Recurrent Delta Net with all that the last output is multiplied by as one."""
    if member != "Recurrent Delta Net":
        return operands
    *data, R_q, R_k, R_v, r_b, S = operands
    return *data, np.concatenate([R_q, R_k, R_v, r_b[..., None]], -1), S


def _unpacked(member: str, gradients: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    """The gradients of the operands from those of the packed ones."""
    if member != "Recurrent Delta Net":
        return gradients
    *data, feedback, gS = gradients
    D = feedback.shape[-2]
    *R, r_b = np.split(feedback, (D, 2 * D, 3 * D), -1)
    return *data, *R, r_b[..., 0], gS


def _forward(member: str, case: Case) -> Ready:
    B, H, _, D = case.grad_y.shape
    kernel, _ = _kernels(D)[member]
    trace, states = np.empty((B, H, 0, 0), np.float32), np.empty((B, H, 0, D, D), np.float32)

    def run() -> tuple[np.ndarray, ...]:
        y = np.empty_like(case.grad_y)
        kernel(_packed(member, case.operands), y, trace, states, False)
        return (y,)

    return Ready(run, tuple)


def _training(member: str, case: Case) -> Ready:
    B, H, L, D = case.grad_y.shape
    forward, backward = _kernels(D)[member]

    def run() -> tuple[np.ndarray, ...]:
        operands, y = _packed(member, case.operands), np.empty_like(case.grad_y)
        trace = np.empty((B, H, L, _KEPT[member](D)), np.float32)
        states = np.empty((B, H, -(-L // SEGMENT), D, D), np.float32)
        gradients = tuple(np.zeros_like(a) for a in operands)
        forward(operands, y, trace, states, True)
        backward(operands, trace, states, case.grad_y, gradients)
        return y, *_unpacked(member, gradients)

    return Ready(run, tuple)


def _ours_forward(member: str, case: Case) -> Ready:
    return Ready(lambda: (FAMILY[member].call("forward", case.operands),), tuple)


def _ours_training(member: str, case: Case) -> Ready:
    def run() -> tuple[np.ndarray, ...]:
        (y, _), pullback = FAMILY[member].call("vjp", case.operands)
        return y, *(g for g in pullback(case.grad_y) if g is not None)

    return Ready(run, tuple)


PEERS = tuple(
    peer
    for member in table.WITH_NUMBA
    for peer in (
        Peer(f"srwm, NumPy, {member}", partial(_ours_forward, member), partial(_ours_training, member)),
        Peer(f"numba by hand, {member}", partial(_forward, member), partial(_training, member)),
    )
)
