"""The self-referential weight matrix's passes on a GPU: configure, allocate, launch.

Letters and shapes: `srwm._reference`. What a platform is: `srwm._raw_kernels.launching`.
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
_FORWARD = sizes_dtype(("sequences", *STEPS), ("x", "W", "state", "reset"))
_BACKWARD = sizes_dtype(
    (*PIECES, *STEPS), ("x", "W", "state", "reset", "kept", "grad_y", "grad_W_next", "gx", "gstate")
)


def kept_shape(dtype: Any, lead: tuple[int, ...], L: int, D: int, Do: int) -> tuple[int, ...]:
    """Shape of what forward keeps for backward: for each sequence its trace, then a W per segment."""
    del dtype
    M = Do + 2 * D + 4
    return (*lead, L * (2 * D + 4 + M) + segments(L) * D * M)


def forward(
    platform: Any,
    x: Any,
    W: Any,
    state: Any,
    reset: Any,
    lead: tuple[int, ...],
    *,
    keep: bool,
    return_state: bool,
) -> tuple[Any, Any, Any]:
    """y (*lead, L, Do); W_next (*lead, D, M) and what backward wants, where asked for, or None.

    W_next has the dtype of `state`, or of x without one.
    """
    (L, D), M = x.shape[-2:], W.shape[-1]
    Do = M - 2 * D - 4
    of_state = x.dtype if state is None else state.dtype
    plan = launch.forward(D, Do, storage_of(x.dtype), platform.limits(), storage_of(of_state))
    x, W, state = whole(x), whole(W), whole(state)
    cached = cached_bytes(plan, W, state, lead)
    y = platform.empty((*lead, L, Do), x.dtype)
    W_next = platform.empty((*lead, D, M), of_state) if return_state else None
    kept = platform.empty(kept_shape(x.dtype, lead, L, D, Do), real_of(x.dtype)) if keep else None
    numbers = sizes(
        "srwm.forward",
        _FORWARD,
        lead,
        tuple(range(len(lead))),
        (prod(lead), L, segments(L), cached > 0),
        (*(strides_of(a, lead, 2) for a in (x, W, state)), strides_of(reset, lead, 1)),
    )
    arrays = (x, W, state, reset, y, W_next, kept)
    run(platform, plan, cached, real_of(x.dtype), prod(lead), numbers, *arrays)
    return y, W_next, kept


def backward(
    platform: Any,
    x: Any,
    W: Any,
    state: Any,
    reset: Any,
    lead: tuple[int, ...],
    kept: Any,
    grad_y: Any,
    grad_W_next: Any,
) -> tuple[Any, Any, Any]:
    """gx, gW and, where there is a state, its gradient: of exactly their shapes."""
    (L, D), M = x.shape[-2:], W.shape[-1]
    Do = M - 2 * D - 4
    of_state = x.dtype if state is None else state.dtype
    x, W, state, grad_y, grad_W_next = map(whole, (x, W, state, grad_y, grad_W_next))
    order, sharing = order_by_sharing(lead, W.shape[:-2])
    wide = needs_sums(x.shape, lead, 2) or (state is not None and needs_sums(state.shape, lead, 2))
    plan = launch.backward(D, Do, storage_of(x.dtype), platform.limits(), wide, storage_of(of_state))
    gx = of_each_sequence(platform, x.shape, x.dtype, lead, 2, wide)
    gstate = None if state is None else of_each_sequence(platform, state.shape, of_state, lead, 2, wide)
    gW, run_length = of_each_chunk(platform, W.shape, W.dtype, sharing)
    pieces, cached = gW.outer * gW.parts, cached_bytes(plan, W, state, lead)
    numbers = sizes(
        "srwm.backward",
        _BACKWARD,
        lead,
        order,
        (pieces, gW.parts, run_length, sharing, L, segments(L), cached > 0),
        (
            strides_of(x, lead, 2),
            strides_of(W, lead, 2),
            strides_of(state, lead, 2),
            strides_of(reset, lead, 1),
            strides_of(kept, lead, 1),
            strides_of(grad_y, lead, 2),
            strides_of(grad_W_next, lead, 2),
            Strides(gx.along),
            Strides((0,) * len(lead) if gstate is None else gstate.along),
        ),
    )
    arrays = (x, W, state, reset, kept, grad_y, grad_W_next, gx.pieces, gW.pieces, gstate and gstate.pieces)
    run(platform, plan, cached, real_of(x.dtype), pieces, numbers, *arrays)
    return total_of(platform, gx), total_of(platform, gW), gstate and total_of(platform, gstate)
