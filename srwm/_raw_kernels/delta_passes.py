"""The delta rule's passes on a GPU: configure, allocate, launch.

Letters and shapes: `srwm._delta_reference`. What a platform is: `srwm._raw_kernels.launching`.
"""

from __future__ import annotations

from math import prod
from typing import Any

from srwm._cy import launch
from srwm._cy.backend import segments
from srwm._raw_kernels.launching import (
    cached_bytes,
    needs_sums,
    of_each_chunk,
    of_each_sequence,
    real_of,
    run,
    storage_of,
    total_of,
    whole,
)
from srwm._raw_kernels.views import PIECES, STEPS, Strides, order_by_sharing, sizes, sizes_dtype, strides_of

# The kernels' last arguments.
_FORWARD = sizes_dtype(("sequences", *STEPS), ("q", "k", "v", "beta", "S", "reset"))
_BACKWARD = sizes_dtype(
    (*PIECES, *STEPS),
    ("q", "k", "beta", "S", "reset", "kept", "grad_y", "grad_S_next", "gq", "gk", "gv", "gbeta"),
)


def delta_kept_shape(dtype: Any, lead: tuple[int, ...], L: int, D: int, Do: int) -> tuple[int, ...]:
    """Shape of what forward keeps for backward: for each sequence every Delta, then an S per segment."""
    del dtype
    return (*lead, L * Do + segments(L) * D * Do)


def delta_forward(
    platform: Any,
    q: Any,
    k: Any,
    v: Any,
    beta: Any,
    S: Any,
    reset: Any,
    lead: tuple[int, ...],
    *,
    keep: bool,
    return_state: bool,
) -> tuple[Any, Any, Any]:
    """y (*lead, L, Do); S_next (*lead, D, Do) and what backward wants, where asked for, or None."""
    (L, D), Do = q.shape[-2:], v.shape[-1]
    plan = launch.delta_forward(D, Do, storage_of(q.dtype), platform.limits())
    q, k, v, beta, S = whole(q), whole(k), whole(v), whole(beta), whole(S)
    cached = cached_bytes(plan, S, lead)
    y = platform.empty((*lead, L, Do), q.dtype)
    S_next = platform.empty((*lead, D, Do), q.dtype) if return_state else None
    kept = platform.empty(delta_kept_shape(q.dtype, lead, L, D, Do), real_of(q.dtype)) if keep else None
    N = prod(lead)
    numbers = sizes(
        "srwm.delta_forward",
        _FORWARD,
        lead,
        tuple(range(len(lead))),
        (N, L, segments(L), cached > 0),
        (
            strides_of(q, lead, 2),
            strides_of(k, lead, 2),
            strides_of(v, lead, 2),
            strides_of(beta, lead, 1),
            strides_of(S, lead, 2),
            strides_of(reset, lead, 1),
        ),
    )
    arrays = (q, k, v, beta, S, reset, y, S_next, kept)
    run(platform, plan, cached, real_of(q.dtype), N * plan.tiles, numbers, *arrays)
    return y, S_next, kept


def delta_backward(
    platform: Any,
    q: Any,
    k: Any,
    v: Any,
    beta: Any,
    S: Any,
    reset: Any,
    lead: tuple[int, ...],
    kept: Any,
    grad_y: Any,
    grad_S_next: Any,
) -> tuple[Any, ...]:
    """gq, gk, gv, gbeta and gS, of exactly the shapes of q, k, v, beta and S."""
    (L, D), Do, dtype = q.shape[-2:], v.shape[-1], q.dtype
    q, k, beta, S = whole(q), whole(k), whole(beta), whole(S)
    grad_y, grad_S_next = whole(grad_y), whole(grad_S_next)
    order, sharing = order_by_sharing(lead, S.shape[:-2])
    cores = ((q, 2), (k, 2), (v, 2), (beta, 1))
    wide = any(needs_sums(a.shape, lead, core) for a, core in cores)
    plan = launch.delta_backward(D, Do, storage_of(dtype), platform.limits(), wide)
    gradients = [of_each_sequence(platform, a.shape, dtype, lead, core, wide) for a, core in cores]
    gS, run_length = of_each_chunk(platform, S.shape, dtype, sharing)
    pieces, cached = gS.outer * gS.parts, cached_bytes(plan, S, lead)
    numbers = sizes(
        "srwm.delta_backward",
        _BACKWARD,
        lead,
        order,
        (pieces, gS.parts, run_length, sharing, L, segments(L), cached > 0),
        (
            strides_of(q, lead, 2),
            strides_of(k, lead, 2),
            strides_of(beta, lead, 1),
            strides_of(S, lead, 2),
            strides_of(reset, lead, 1),
            strides_of(kept, lead, 1),
            strides_of(grad_y, lead, 2),
            strides_of(grad_S_next, lead, 2),
            *(Strides(gradient.along) for gradient in gradients),
        ),
    )
    arrays = (q, k, beta, S, reset, kept, grad_y, grad_S_next, *(g.pieces for g in gradients), gS.pieces)
    run(platform, plan, cached, real_of(dtype), pieces, numbers, *arrays)
    return (*(total_of(platform, gradient) for gradient in gradients), total_of(platform, gS))
