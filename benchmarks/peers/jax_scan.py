"""JAX: lax.scan over the steps, compiled by XLA, differentiated by jax.vjp.

Scan keeps for backward what its step computed. Three other forms are tried beside the plain one: four
steps unrolled into each turn; rematerialisation of the step, which keeps the carried W alone and computes
the rest again; and of segments of steps, which keeps W once in a segment. Products as einsum: written as a
multiplication and a sum they were slower at three of the four sizes, as was lax.map over single sequences.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import isqrt
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.cases import Case
from benchmarks.peers.interface import Peer, Ready

Scan = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


def step(W: jax.Array, x_t: jax.Array) -> tuple[jax.Array, jax.Array]:
    """W (..., D, M), x_t (..., D) -> W after the step, y_t (..., Do)."""
    D, M = x_t.shape[-1], W.shape[-1]
    Do = M - 2 * D - 4
    o = jnp.einsum("...d,...dm->...m", x_t, W)
    q, k = jax.nn.softmax(o[..., Do : Do + D]), jax.nn.softmax(o[..., Do + D : -4])
    rates = jnp.repeat(jax.nn.sigmoid(o[..., -4:]), np.array([Do, D, D, 4]), -1, total_repeat_length=M)
    u = rates * jnp.einsum("...d,...dm->...m", q - k, W)
    return W + k[..., :, None] * u[..., None, :], o[..., :Do]


def plain(W: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """W (B, H, D, M), x (L, B, H, D) -> W after the last step, y (L, B, H, Do)."""
    return jax.lax.scan(step, W, x)


def unrolled(W: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """As `plain`, four steps in each turn of the loop."""
    return jax.lax.scan(step, W, x, unroll=4)


def remat(W: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """As `plain`, of each step only W kept."""
    return jax.lax.scan(jax.checkpoint(step), W, x)


def remat_segments(W: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """As `plain`, W kept once in a segment of about sqrt(L) steps."""
    L = x.shape[0]
    length = next(n for n in range(isqrt(L), L + 1) if L % n == 0)
    W, y = jax.lax.scan(jax.checkpoint(plain), W, x.reshape(L // length, length, *x.shape[1:]))
    return W, y.reshape(L, *y.shape[2:])


def _over(scan: Scan, x: jax.Array, W: jax.Array) -> jax.Array:
    """x (B, H, L, D), W (H, D, M) -> y (B, H, L, Do)."""
    W = jnp.broadcast_to(W, (x.shape[0], *W.shape))
    return jnp.moveaxis(scan(W, jnp.moveaxis(x, -2, 0))[1], 0, -2)


def _with_gradients(
    f: Callable[..., jax.Array], x: jax.Array, W: jax.Array, grad_y: jax.Array
) -> tuple[jax.Array, ...]:
    y, pullback = jax.vjp(f, x, W)
    return (y, *pullback(grad_y))


def _arrays(results: Any) -> tuple[np.ndarray, ...]:
    return tuple(np.asarray(result) for result in results)


def _ready(f: Callable[..., Any], arguments: tuple[np.ndarray, ...]) -> Ready:
    """Compiled for the arguments' shapes ahead of the first call."""
    on_device = [jnp.asarray(a) for a in arguments]
    compiled = jax.jit(f).lower(*on_device).compile()
    return Ready(lambda: jax.block_until_ready(compiled(*on_device)), _arrays)


def _forward(scan: Scan, case: Case) -> Ready:
    return _ready(lambda x, W: (_over(scan, x, W),), case.operands)


def _training(scan: Scan, case: Case) -> Ready:
    return _ready(partial(_with_gradients, partial(_over, scan)), (*case.operands, case.grad_y))


def _peer(name: str, scan: Scan) -> Peer:
    return Peer(name, partial(_forward, scan), partial(_training, scan))


PEERS = (
    _peer("JAX scan", plain),
    _peer("JAX scan, unrolled", unrolled),
    _peer("JAX scan, remat", remat),
    _peer("JAX scan, remat of segments", remat_segments),
)
