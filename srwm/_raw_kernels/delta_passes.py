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
_FORWARD = sizes_dtype(("sequences", *STEPS), ("q", "k", "v", "beta", "S", "state", "reset"))
_BACKWARD = sizes_dtype(
    (*PIECES, *STEPS),
    (
        *("q", "k", "beta", "S", "state", "reset", "kept", "grad_y", "grad_S_next"),
        *("gq", "gk", "gv", "gbeta", "gstate"),
    ),
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
    state: Any,
    reset: Any,
    lead: tuple[int, ...],
    *,
    keep: bool,
    return_state: bool,
) -> tuple[Any, Any, Any]:
    """y (*lead, L, Do); S_next (*lead, D, Do) and what backward wants, where asked for, or None.

    S may be None: zeros. S_next has the dtype of `state`, or of q without one.
    """
    (L, D), Do = q.shape[-2:], v.shape[-1]
    of_state = q.dtype if state is None else state.dtype
    plan = launch.delta_forward(D, Do, storage_of(q.dtype), platform.limits(), storage_of(of_state))
    q, k, v, beta, S, state = map(whole, (q, k, v, beta, S, state))
    cached = cached_bytes(plan, S, state, lead)
    y = platform.empty((*lead, L, Do), q.dtype)
    S_next = platform.empty((*lead, D, Do), of_state) if return_state else None
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
            strides_of(state, lead, 2),
            strides_of(reset, lead, 1),
        ),
    )
    arrays = (q, k, v, beta, S, state, reset, y, S_next, kept)
    run(platform, plan, cached, real_of(q.dtype), N * plan.tiles, numbers, *arrays)
    return y, S_next, kept


def delta_backward(
    platform: Any,
    q: Any,
    k: Any,
    v: Any,
    beta: Any,
    S: Any,
    state: Any,
    reset: Any,
    lead: tuple[int, ...],
    kept: Any,
    grad_y: Any,
    grad_S_next: Any,
) -> tuple[Any, ...]:
    """gq, gk, gv, gbeta and, where they are given, gS and gstate: of exactly their shapes."""
    (L, D), Do, dtype = q.shape[-2:], v.shape[-1], q.dtype
    of_state = dtype if state is None else state.dtype
    q, k, beta, S, state, grad_y, grad_S_next = map(whole, (q, k, beta, S, state, grad_y, grad_S_next))
    order, sharing = order_by_sharing(lead, lead if S is None else S.shape[:-2])
    cores = ((q, 2), (k, 2), (v, 2), (beta, 1), *(() if state is None else ((state, 2),)))
    wide = any(needs_sums(a.shape, lead, core) for a, core in cores)
    plan = launch.delta_backward(D, Do, storage_of(dtype), platform.limits(), wide, storage_of(of_state))
    gradients = [of_each_sequence(platform, a.shape, a.dtype, lead, core, wide) for a, core in cores]
    if S is None:
        gS, run_length, pieces, chunks = None, 1, prod(lead), 1
    else:
        gS, run_length = of_each_chunk(platform, S.shape, dtype, sharing)
        pieces, chunks = gS.outer * gS.parts, gS.parts
    cached = cached_bytes(plan, S, state, lead)
    numbers = sizes(
        "srwm.delta_backward",
        _BACKWARD,
        lead,
        order,
        (pieces, chunks, run_length, sharing, L, segments(L), cached > 0),
        (
            strides_of(q, lead, 2),
            strides_of(k, lead, 2),
            strides_of(beta, lead, 1),
            strides_of(S, lead, 2),
            strides_of(state, lead, 2),
            strides_of(reset, lead, 1),
            strides_of(kept, lead, 1),
            strides_of(grad_y, lead, 2),
            strides_of(grad_S_next, lead, 2),
            *(Strides(gradient.along) for gradient in gradients),
            *((Strides((0,) * len(lead)),) if state is None else ()),
        ),
    )
    of_steps, gstate = gradients[:4], None if state is None else gradients[4]
    operands = (q, k, beta, S, state, reset, kept, grad_y, grad_S_next)
    arrays = (*operands, *(g and g.pieces for g in (*of_steps, gS, gstate)))
    run(platform, plan, cached, real_of(dtype), pieces, numbers, *arrays)
    return tuple(g and total_of(platform, g) for g in (*of_steps, gS, gstate))
