"""What the operator's tests share: one table of tolerances, the awkward sizes, random cases."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

# Greatest difference from the float64 truth, relative to the truth's greatest entry. Of halves only
# the rounding of the result is allowed for: they are computed in float32.
TOLERANCE = {"float64": 1e-11, "float32": 1e-4, "float16": 1e-3, "bfloat16": 8e-3}

# (leading axes of x, of W, L, D, Do): every size at which a loop, a vector or a segment can end.
SIZES = [
    ((), (), 1, 1, 1),
    ((2,), (2,), 2, 2, 3),
    ((2, 3), (3,), 63, 3, 5),
    ((3,), (1,), 33, 8, 8),
    ((1, 2), (4, 1), 65, 16, 16),
    ((2,), (), 31, 27, 16),
    ((2,), (2,), 100, 28, 28),
    ((2,), (2,), 200, 32, 32),
    ((1,), (2,), 40, 40, 7),
    ((2,), (), 64, 48, 49),
    ((1, 2), (2,), 70, 64, 64),
    ((), (), 17, 100, 1),
    ((1,), (1,), 34, 128, 64),
]
each_size = pytest.mark.parametrize("size", SIZES, ids=lambda s: "-".join(map(str, s)))
each_reset = pytest.mark.parametrize("with_reset", [False, True], ids=["", "reset"])


class Case(NamedTuple):
    """Arguments and gradients of one call, in float64."""

    x: np.ndarray
    W: np.ndarray
    reset: np.ndarray | None
    grad_y: np.ndarray
    grad_W_next: np.ndarray

    def astype(self, dtype: Any) -> Case:
        """The case rounded to `dtype`."""
        return Case(*(a if a is None or a.dtype == bool else a.astype(dtype) for a in self))


def random_case(size: tuple[Any, ...], *, with_reset: bool = False, seed: int = 0) -> Case:
    """A random case of a size of the table; with resets at a tenth of the steps."""
    rng = np.random.default_rng(seed)
    x_lead, W_lead, L, D, Do = size
    lead = np.broadcast_shapes(x_lead, W_lead)
    M = Do + 2 * D + 4
    return Case(
        x=rng.standard_normal((*x_lead, L, D)),
        W=rng.standard_normal((*W_lead, D, M)) / np.sqrt(D),
        reset=rng.random((*lead, L)) < 0.1 if with_reset else None,
        grad_y=rng.standard_normal((*lead, L, Do)),
        grad_W_next=rng.standard_normal((*lead, D, M)),
    )


class DeltaCase(NamedTuple):
    """Arguments and gradients of one call of the delta rule, in float64."""

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    beta: np.ndarray
    S: np.ndarray | None
    reset: np.ndarray | None
    grad_y: np.ndarray
    grad_S_next: np.ndarray

    def astype(self, dtype: Any) -> DeltaCase:
        """The case rounded to `dtype`."""
        return DeltaCase(*(a if a is None or a.dtype == bool else a.astype(dtype) for a in self))


def random_delta_case(size: tuple[Any, ...], *, with_reset: bool = False, seed: int = 0) -> DeltaCase:
    """A random case of a size of the table, the second leading axes those of S; keys about as long as 1."""
    rng = np.random.default_rng(seed)
    q_lead, S_lead, L, D, Do = size
    lead = np.broadcast_shapes(q_lead, S_lead)
    return DeltaCase(
        q=rng.standard_normal((*q_lead, L, D)),
        k=rng.standard_normal((*q_lead, L, D)) / np.sqrt(D),
        v=rng.standard_normal((*lead, L, Do)),
        beta=rng.random((*q_lead, L)),
        S=rng.standard_normal((*S_lead, D, Do)),
        reset=rng.random((*lead, L)) < 0.1 if with_reset else None,
        grad_y=rng.standard_normal((*lead, L, Do)),
        grad_S_next=rng.standard_normal((*lead, D, Do)),
    )


def growth_case(steps: int = 512, growth: float = 1e6) -> Case:
    """Steps in which W_y grows a million-fold: what comes back by undoing updates is hardest here.

    x stays on entry 0, and only W_y is written: q is all on entry 0, k half there and half on the
    rest, so that every step multiplies (q - k) W_y by 1 + beta_0 (q - k) . k.
    """
    D, L, never = 16, steps, -60.0
    rng = np.random.default_rng(0)
    along = 1 / 4 - 1 / (4 * (D - 1))  # (q - k) . k
    beta_0 = (growth ** (1 / L) - 1) / along
    W_y = rng.standard_normal((D, D))
    W_q, W_k, w_beta = np.zeros((D, D)), np.zeros((D, D)), np.zeros((D, 4))
    W_q[0] = [0.0] + [never] * (D - 1)
    W_k[0] = [np.log(D - 1)] + [0.0] * (D - 1)
    w_beta[0] = [np.log(beta_0 / (1 - beta_0)), never, never, never]
    x = np.zeros((L, D))
    x[:, 0] = 1
    return Case(
        x=x,
        W=np.concatenate([W_y, W_q, W_k, w_beta], axis=-1),
        reset=None,
        grad_y=rng.standard_normal((L, D)),
        grad_W_next=rng.standard_normal((D, 3 * D + 4)),
    )


def relative_error(a: Any, truth: Any) -> float:
    """Greatest difference relative to the truth's greatest entry; inf where shapes or NaNs differ."""
    a, truth = np.asarray(a, np.float64), np.asarray(truth, np.float64)
    if a.shape != truth.shape or np.isnan(a).any():
        return np.inf
    if truth.size == 0:
        return 0.0
    return float(np.abs(a - truth).max() / max(np.abs(truth).max(), np.finfo(np.float64).tiny))


def assert_close(got: dict[str, Any], truth: dict[str, Any], tolerance: float, where: object = "") -> None:
    """Every named result within the tolerance of the truth; all of those that are not are named."""
    assert got.keys() == truth.keys()
    errors = {name: relative_error(got[name], truth[name]) for name in truth}
    worst = {name: error for name, error in errors.items() if not error <= tolerance}
    assert not worst, f"{where}: relative errors {worst} above {tolerance}"


def run(srwm: Any, case: Case, **options: Any) -> dict[str, Any]:
    """All results of a case by name, from `srwm.vjp`."""
    (y, W_next), pullback = srwm.vjp(case.x, case.W, reset=case.reset, **options)
    gx, gW = pullback(case.grad_y, case.grad_W_next)
    return {"y": y, "W_next": W_next, "gx": gx, "gW": gW}


def run_delta(srwm: Any, case: DeltaCase, **options: Any) -> dict[str, Any]:
    """All results of a case of the delta rule by name, from `srwm.delta.vjp`."""
    operands = (case.q, case.k, case.v, case.beta, case.S)
    (y, S_next), pullback = srwm.delta.vjp(*operands, reset=case.reset, **options)
    names = ("gq", "gk", "gv", "gbeta", "gS")
    gradients = dict(zip(names, pullback(case.grad_y, case.grad_S_next), strict=True))
    return {"y": y, "S_next": S_next} | {name: g for name, g in gradients.items() if g is not None}
