"""The state of the CUDA kernels: where sequences start, where a reset leads, whose gradient is whose."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from srwm._cy import launch
from tests.cases import TOLERANCE, assert_close, random_case, random_delta_case
from tests.cuda_host import backend

torch = pytest.importorskip("torch")  # missing where the installed wheel is tested
eager_forward = pytest.importorskip("benchmarks.peers").eager_forward

# Without a C++ compiler no kernel can be built; in CI tests/operators.py fails for that.
pytestmark = pytest.mark.skipif(backend.unusable() is not None, reason=str(backend.unusable()))


def delta_step(q, k, v, beta, S):
    """One step of the delta rule, in torch operations."""
    u = beta[..., None] * (v - k @ S)
    S = S + k.mT @ u
    return q @ S, S


# By operator: a random case, one step in torch operations on operands of one step, the passes, and the
# names of its operands, the last of which is the initial matrix.
OPERATORS = {
    "srwm": (random_case, eager_forward, backend.forward, backend.backward, ("x", "W")),
    "delta": (
        *(random_delta_case, delta_step, backend.delta_forward, backend.delta_backward),
        ("q", "k", "v", "beta", "S"),
    ),
}
each_operator = pytest.mark.parametrize("operator", OPERATORS)

# A size for each way in which the kernels are laid out, and the architecture whose limits they have.
VARIANTS = {
    "groups of one warp": (((9,), (), 7, 16, 16), 90),
    "a head of odd size": (((2, 3), (3,), 6, 5, 3), 90),
    "several warps": (((5,), (2, 1), 5, 32, 32), 90),
    "two warps for the softmax": (((2,), (1,), 5, 70, 3), 90),
    "a state partly in working memory": (((2,), (1,), 4, 100, 3), 75),
    "sums in working memory": (((1,), (1,), 4, 160, 1), 60),
    "several segments": (((2,), (1,), 70, 4, 4), 90),
    "no steps": (((2,), (1,), 0, 4, 4), 90),
}
each_variant = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)


def cases(operator: str, size: Any, state_lead: tuple[int, ...], *, with_initial: bool = True) -> Any:
    """(operands with state and reset, by name; gradients of the results), random."""
    make, *_, names = OPERATORS[operator]
    case = make(size, with_reset=True)._asdict()
    rng = np.random.default_rng(1)
    lead = case["grad_y"].shape[:-2]
    reset = case["reset"]
    if reset.size > 1:
        # Sequences that begin with a reset and some that do not, some with resets, one without any.
        reset = rng.random(reset.shape) < 0.2
        reset.reshape(-1, reset.shape[-1])[0, 0], reset.reshape(-1, reset.shape[-1])[-1] = True, False
    matrix = case[names[-1]].shape[-2:]
    state = rng.standard_normal((*state_lead, *matrix)) / np.sqrt(matrix[0])
    operands = {n: case[n] if with_initial or n != names[-1] else None for n in names}
    upstream = case["grad_y"], rng.standard_normal((*lead, *matrix))
    return operands | {"state": state, "reset": reset}, upstream, lead


def by_a_loop(
    operator: str, operands: dict[str, Any], upstream: Any, lead: tuple[int, ...]
) -> dict[str, Any]:
    """All results by name, from torch's autograd of a plain loop in float64."""
    _, step, _, _, names = OPERATORS[operator]
    leaves = {
        n: torch.tensor(a, dtype=torch.float64, requires_grad=True)
        for n, a in operands.items()
        if a is not None and n != "reset"
    }
    *of_steps, initial_name = names
    matrix = leaves["state"].shape[-2:]
    initial = leaves.get(initial_name, torch.zeros(matrix, dtype=torch.float64)).expand(*lead, *matrix)
    current, outputs = leaves["state"].expand(*lead, *matrix), []
    reset = torch.tensor(operands["reset"])
    for t in range(reset.shape[-1]):
        current = torch.where(reset[..., t, None, None], initial, current)
        now = (leaves[n][..., t : t + 1] if n == "beta" else leaves[n][..., t : t + 1, :] for n in of_steps)
        y, current = step(*now, current)
        outputs.append(y.expand(*lead, *y.shape[-2:]))
    y = torch.cat(outputs, -2) if outputs else torch.zeros(upstream[0].shape, dtype=torch.float64)
    gradients = torch.autograd.grad(
        (y * torch.tensor(upstream[0])).sum() + (current * torch.tensor(upstream[1])).sum(),
        tuple(leaves.values()),
        allow_unused=True,
        materialize_grads=True,
    )
    named = {"y": y, "last": current} | {f"g{n}": g for n, g in zip(leaves, gradients, strict=True)}
    return {n: a.detach().numpy() for n, a in named.items()}


def by_the_kernels(operator: str, operands: dict[str, Any], upstream: Any, lead: Any) -> dict[str, Any]:
    """All results by name, from the kernels."""
    _, _, forward, backward, names = OPERATORS[operator]
    given = (*(operands[n] for n in names), operands["reset"], lead)
    y, last, saved = forward(*given, keep=True, state=operands["state"])
    gradients = backward(*given, saved, *upstream, state=operands["state"])
    given = names if operands["state"] is None else (*names, "state")
    named = {f"g{n}": g for n, g in zip(given, gradients, strict=True) if g is not None}
    return {"y": y, "last": last} | named


def rounded(operands: dict[str, Any], upstream: Any, dtype: str, state_dtype: str) -> Any:
    """The same case in the dtypes of arrays and of states."""
    of = {n: state_dtype if n == "state" else dtype for n in operands}
    operands = {n: a if a is None or a.dtype == bool else a.astype(of[n]) for n, a in operands.items()}
    return operands, (upstream[0].astype(dtype), upstream[1].astype(state_dtype))


def wide(operands: dict[str, Any], upstream: Any) -> Any:
    """A rounded case in float64."""
    return rounded(operands, upstream, "float64", "float64")


def running(architecture: int, **how: Any) -> Any:
    return backend.running(device=launch.ARCHITECTURES[architecture]._replace(multiprocessors=1), **how)


@each_operator
@each_variant
@pytest.mark.parametrize("own", [True, False], ids=["each its own", "one of all"])
def test_sequences_start_from_the_state_unless_the_first_step_is_a_reset(operator, variant, own):
    size, architecture = variant
    each = np.broadcast_shapes(size[0], size[1])
    operands, upstream, lead = cases(operator, size, each if own else ())
    with running(architecture):
        got = by_the_kernels(operator, operands, upstream, lead)
    assert got["gstate"].shape == operands["state"].shape
    assert_close(got, by_a_loop(operator, operands, upstream, lead), TOLERANCE["float64"])


@each_operator
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("own", [True, False], ids=["each its own", "one of all"])
def test_a_state_in_float32_beside_halves(operator, dtype, own):
    operands, upstream, lead = cases(operator, ((3,), (), 20, 16, 16), (3,) if own else ())
    operands, upstream = rounded(operands, upstream, dtype, "float32")
    got = by_the_kernels(operator, operands, upstream, lead)
    truth = by_a_loop(operator, *wide(operands, upstream), lead)
    for name, a in got.items():
        of_state = name in ("last", "gstate")
        assert a.dtype == ("float32" if of_state else dtype), name
        tolerance = TOLERANCE["float32" if of_state else dtype]
        assert_close({name: a}, {name: truth[name]}, tolerance)


@each_operator
def test_single_steps_in_halves_are_as_exact_as_one_call(operator):
    """300 of them, each from the float32 state of the one before."""
    _, _, forward, _, names = OPERATORS[operator]
    operands, upstream, lead = cases(operator, ((2,), (2,), 300, 8, 8), (2,))
    operands, upstream = rounded(operands | {"reset": None}, upstream, "float16", "float32")
    given = [operands[n] for n in names]
    _, whole, _ = forward(*given, None, lead, keep=False, state=operands["state"])
    state = operands["state"]
    for t in range(300):
        now = [
            a[..., t : t + 1] if n == "beta" else a[..., t : t + 1, :]
            for n, a in operands.items()
            if n in names[:-1]
        ]
        _, state, _ = forward(*now, given[-1], None, lead, keep=False, state=state)
    assert_close({"state": state}, {"state": whole}, TOLERANCE["float32"])


@pytest.mark.parametrize("with_state", [False, True])
def test_the_delta_rule_without_an_initial_matrix_resets_to_zero(with_state):
    operands, upstream, lead = cases("delta", ((3,), (3,), 37, 5, 7), (3,), with_initial=False)
    zero = np.zeros((5, 7))
    if not with_state:
        operands["state"] = None
    got = by_the_kernels("delta", operands, upstream, lead)
    truth = by_a_loop(
        "delta",
        operands | {"state": zero if operands["state"] is None else operands["state"]},
        upstream,
        lead,
    )
    assert "gS" not in got
    assert_close(got, {n: truth[n] for n in got}, TOLERANCE["float64"])


@pytest.mark.slow_where(
    lambda variant, mode: (
        variant
        not in (VARIANTS["no steps"], VARIANTS["several warps" if mode == "race" else "several segments"])
    )
)
@each_operator
@each_variant
@pytest.mark.parametrize("mode", ["race", "bounds"])
def test_no_race_and_nothing_out_of_bounds(operator, variant, mode):
    size, architecture = variant
    operands, upstream, lead = cases(operator, size, np.broadcast_shapes(size[0], size[1]))
    with running(architecture, mode=mode):
        got = by_the_kernels(operator, operands, upstream, lead)
    assert_close(got, by_a_loop(operator, operands, upstream, lead), TOLERANCE["float64"])


@pytest.mark.slow_where(lambda D: D in (1, 5, 17, 64))
@each_operator
@pytest.mark.parametrize("D", [1, 3, 5, 16, 17, 33, 64, 70])
def test_nothing_after_a_reset_reaches_what_is_before_it(operator, D):
    """A gradient of step 5 is NaN, step 3 a reset: rows 0 to 2 are those of a sequence cut there."""
    make, *_, names = OPERATORS[operator]
    size = ((3,), (3,), 6, D, 2)
    case = make(size)._asdict()
    reset = np.zeros((3, 6), bool)
    reset[0, 3] = True
    upstream = np.ones((3, 6, 2)), np.full_like(case[f"grad_{names[-1]}_next"], 0.5)
    upstream[0][0, 5] = upstream[1][0] = np.nan
    operands = {n: case[n] for n in names} | {"state": None, "reset": reset}
    got = by_the_kernels(operator, operands, upstream, (3,))
    alone = {n: a if n in (names[-1], "reset", "state") else a[:, :3] for n, a in operands.items()}
    without = by_the_kernels(operator, alone | {"reset": None}, (upstream[0][:, :3], None), (3,))
    for name in (f"g{n}" for n in names[:-1]):
        assert np.isnan(got[name][0, 3:]).any(), name
        np.testing.assert_array_equal(got[name][0, :3], without[name][0], name)
        assert np.isfinite(got[name][1:]).all(), name  # and no other sequence
    assert np.isfinite(got[f"g{names[-1]}"][1:]).all()


@each_operator
@pytest.mark.parametrize("D", [3, 16, 33, 70])
def test_what_is_no_number_in_one_sequence_stays_there(operator, D):
    """Nor anything of the sequence that a thread group has next: more of them than run at a time."""
    make, *_, names = OPERATORS[operator]
    case = make(((15,), (15,), 4, D, 5))._asdict()
    operands = {n: case[n] for n in names} | {"state": None, "reset": None}
    upstream = case["grad_y"], case[f"grad_{names[-1]}_next"]
    clean = by_the_kernels(operator, operands, upstream, (15,))
    for a in (*(operands[n] for n in names), *upstream):
        a[::2] = np.nan
    with np.errstate(invalid="ignore"):
        got = by_the_kernels(operator, operands, upstream, (15,))
    for name, a in clean.items():
        np.testing.assert_array_equal(got[name][1::2], a[1::2], name)
