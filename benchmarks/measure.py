"""Takes one measurement of the plan: results compared with the truth first, then time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

import srwm
from benchmarks import oracle
from benchmarks.cases import Case, random_case
from benchmarks.fma_peak import peak
from benchmarks.memory import READABLE, peak_growth
from benchmarks.peers.family import FAMILY
from benchmarks.peers.interface import Peer, Ready
from benchmarks.peers.table import load
from benchmarks.plan import Measurement
from benchmarks.timing import medians, thread_seconds

Row = dict[str, Any]

CALM = 0.1
"""Spread of the weights in sequences of any length. With ordinary ones the recurrence is chaotic: after a
few thousand steps float32 has lost the float64 truth, by whatever code, and nothing could be compared."""


def made_ready(peer: Peer, mode: str, case: Case, truths: list[Any]) -> tuple[Ready, Row]:
    """A peer's call, right and warm; what making it so took, and how far its results are off."""
    start = time.perf_counter()
    ready: Ready = getattr(peer, mode)(case)
    results = ready.run()
    setup = time.perf_counter() - start
    return ready, {
        "setup_seconds": setup,
        "relative_error": oracle.worst_error(peer.name, ready.arrays(results), truths),
    }


def time_peers(measurement: Measurement, rounds: int) -> Row:
    """Every peer at one size, interleaved."""
    torch.compiler.reset()  # else what it compiled for other sizes counts towards its limit
    if measurement.member:
        member = FAMILY[measurement.member]
        case = member.case(measurement.size)
        truths = member.truth(case)
    else:
        case = random_case(measurement.size)
        truths = oracle.truth(case)
    calls: dict[str, Callable[[], Any]] = {}
    peers: dict[str, Row] = {}
    not_run: dict[str, str] = {}
    for name in measurement.peers:
        peer = load(name)
        reason = peer.why_not(measurement.size[2])
        if reason is not None:
            not_run[name] = reason
            continue
        ready, peers[name] = made_ready(peer, measurement.mode, case, truths)
        calls[name] = ready.run
    del truths
    for name, taken in medians(calls, rounds, measurement.key).items():
        peers[name]["seconds"] = taken
    return {"peers": peers, "not_run": not_run}


def time_parts(measurement: Measurement, rounds: int) -> Row:
    """srwm's forward, forward that keeps what backward wants, and backward; between them the FMA peak."""
    case = random_case(measurement.size, CALM if measurement.section == "cost" else 1.0)
    _, H, L, D = measurement.size
    x, W = case.operands
    (y, _), pullback = srwm.vjp(x, W)
    # The truth keeps W of every step: of one head there is room for it at any length.
    truths = oracle.truth(case.first_head())
    gx, gW = pullback(case.grad_y)
    error = oracle.worst_error("srwm", [y[:, :1], gx[:, :1], gW[:1]], truths)
    error = max(error, oracle.worst_error("srwm", [srwm.forward(x, W)[:, :1]], truths))
    del truths
    calls: dict[str, Callable[[], Any]] = {
        "peak": peak().run,
        "forward": lambda: srwm.forward(x, W),
        "forward, kept": lambda: srwm.vjp(x, W),
        "backward": lambda: pullback(case.grad_y),
    }
    seconds = medians(calls, rounds, measurement.key, clock=thread_seconds)
    steps, entries = x.shape[0] * H * L, D * W.shape[-1]
    peak_flops = peak().operations / seconds.pop("peak")
    flops = {"forward": 6 * entries, "forward, kept": 6 * entries, "backward": 14 * entries}  # a step
    return {
        "seconds": seconds,
        "relative_error": error,
        "nanoseconds_a_step": {name: taken / steps * 1e9 for name, taken in seconds.items()},
        "peak_flops": peak_flops,
        "fraction_of_peak": {
            name: steps * flops[name] / taken / peak_flops for name, taken in seconds.items()
        },
    }


def measure_memory(measurement: Measurement) -> Row:
    """One peer's peak."""
    (name,) = measurement.peers
    reason = load(name).why_not(measurement.size[2])
    if not READABLE:
        reason = "it is read from Linux's /proc"
    if reason is not None:
        return {"not_run": {name: reason}}
    return {"bytes": peak_growth(name, measurement.size, measurement.threads)}


def measure(measurement: Measurement, rounds: int) -> Row:
    """The row of a measurement."""
    if measurement.mode == "memory":
        return measure_memory(measurement)
    return (time_parts if measurement.mode == "parts" else time_peers)(measurement, rounds)
