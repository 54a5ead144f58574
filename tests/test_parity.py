"""Every backend against the float64 reference, in one suite: the same cases, names and tolerances.

"cuda-on-host" is the CUDA backend with its kernels run on the CPU (tests/cuda_host); "cuda" runs where
there is a device: `pytest -m gpu`, or `make gpu-check` for its owner.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import ml_dtypes
import numpy as np
import pytest

from srwm._cy.host import Host
from tests.cuda_host import backend as on_host
from tests.cuda_host.platform import LIMITS
from tests.devices import require_bfloat16_of_cupy
from tests.operators import (
    CUDA,
    CUDA_ON_HOST,
    DELTA,
    EVERYTHING,
    LONG_OR_WIDE,
    ON_CUDA,
    REFERENCE,
    ROWS,
    SIZES,
    SRWM,
    STARTS,
    THOROUGH,
    TOLERANCE,
    Case,
    assert_close,
    assert_same,
    each_backend,
    each_operator,
    each_operator_and_start,
    each_operator_with_a_mask,
    from_device,
    growth_case,
    long_keys_case,
    placed,
    random_case,
    relative_error,
    run,
    size_id,
    starts_of,
    truth_of,
)


@pytest.fixture(autouse=True)
def memory_full_of_nan(monkeypatch):
    """What a kernel does not write is seen: results, and the room that kernels ask for, begin as NaN."""

    def filled(memory):
        memory.reshape(-1).view(np.uint8)[:] = 0xFF
        return memory

    def empty(*how, original=Host.empty):
        return filled(original(*how))

    def room(like):
        def room(size):
            memory = filled(np.empty(size, np.uint8))
            return memory.ctypes.data, memory

        return room

    monkeypatch.setattr(Host, "empty", staticmethod(empty))
    monkeypatch.setattr(Host, "room", staticmethod(room))


def sizes_and_starts_of(row):
    """All starts at the sizes of the table, none and all at those that take long."""
    starts = list(starts_of(row))
    return [
        *((size, name) for size in SIZES for name in starts),
        *((size, name) for size in LONG_OR_WIDE for name in ("plain", starts[-1])),
    ]


each_row_size_and_start = pytest.mark.parametrize(
    ("row", "size", "start"),
    [
        pytest.param(row, size, name, id=f"{row}-{size_id(size)}-{name}")
        for row in ROWS
        for size, name in sizes_and_starts_of(row)
    ],
)


def is_slow_by_the_reference(backend, row, size):
    """The truth of what is long or wide, for all but some rows; the reference beside it, for two."""
    if backend is REFERENCE:
        return row not in (SRWM, DELTA) and (size in LONG_OR_WIDE or size[2] > 65)
    return row not in THOROUGH and size in LONG_OR_WIDE


# Most of what the emulated CUDA costs is compilation. Two rows run the whole suite there, the others the
# test below; all of it is in `make test-all`.
pytestmark = pytest.mark.slow_where(lambda backend, row: backend is CUDA_ON_HOST and row not in ON_CUDA)


@pytest.mark.parametrize("dtype", ["float64", "float16"])
@pytest.mark.parametrize("row", [row for row in ROWS if row not in ON_CUDA], ids=repr)
def test_the_other_kernels_of_emulated_cuda(row, dtype):
    """Every operand broadcast or not, strided, several segments, a float32 state beside halves.

    Without each of the optional operands; NaN at padding. On a device with shared memory for all of them,
    and for hardly anything: what is of one thread group must not be another's.
    """
    size, state_dtype = ((2, 3), (3,), 21, 5, 7), np.float32 if dtype == "float16" else None
    device = LIMITS if dtype == "float64" else LIMITS._replace(shared_bytes_per_block=1200)
    cases = [random_case(row, size, **start) for start in starts_of(row).values()]
    cases += each_optional_operand_missing(row, size)
    cases = [with_nan_at_padding(case) for case in cases]
    for operand in row.op.flat if dtype == "float64" else ():
        for alone, others in (((), (2, 3)), ((2, 3), ())):
            leads = {o.name: others for o in row.op.flat} | {operand.name: alone}
            cases.append(random_case(row, ((), (), 11, 5, 7), **EVERYTHING, leads=leads))
    for case in cases:
        case = case.astype(np.dtype(dtype), state_dtype)
        truth = truth_of(case)
        with on_host.running(device=device):
            assert_close(CUDA_ON_HOST.run(case.map(strided)), truth, TOLERANCE[dtype])


def each_optional_operand_missing(row, size):
    """Cases with all operands but one."""
    case, optional = random_case(row, size, **EVERYTHING), [o.name for o in row.op.flat if o.optional]
    return [case.with_(**{name: None}) for name in optional if case[name] is not None]


def with_nan_at_padding(case):
    """The case with other padding, which changes nothing. The data have the leading axes of the mask."""
    if not case.row.has_mask or case["mask"] is None:
        return case
    mask, op = case["mask"], case.row.op

    def padded(a):
        return np.where(mask.reshape(mask.shape + (1,) * (a.ndim - mask.ndim)), a, np.nan)

    data = {op.flat[i].name: padded(case.flat[i]) for i in op.places("data")}
    return replace(case.with_(**data), incoming=(padded(case.incoming[0]), *case.incoming[1:]))


@cache
def case_and_truth(row, size, start, dtype):
    """A case of the table, and its truth, which several backends are held against."""
    case = random_case(row, size, **STARTS[start]).astype(dtype)
    return case, truth_of(case)


# Most of what the emulated CUDA costs is the compilation of a kernel for each size and dtype. Each size
# runs in one of the two, those that take long in float32, and some in both.
IN_BOTH = [((2, 3), (3,), 63, 3, 5), ((2,), (2,), 200, 32, 32)]


@pytest.mark.slow_where(
    lambda backend, row, size: (
        (backend is CUDA_ON_HOST and size in SIZES and size not in IN_BOTH)
        or is_slow_by_the_reference(backend, row, size)
    )
)
@each_backend
@each_row_size_and_start
def test_float32_equals_the_float64_reference(backend, row, size, start):
    backend.require(row.op)
    case, truth = case_and_truth(row, size, start, "float32")
    assert_close(backend.run(case), truth, TOLERANCE["float32"])


@pytest.mark.slow_where(
    lambda backend, row, size: (
        (backend is CUDA_ON_HOST and size in LONG_OR_WIDE) or is_slow_by_the_reference(backend, row, size)
    )
)
@each_backend
@each_row_size_and_start
def test_float64_equals_the_reference(backend, row, size, start):
    backend.require(row.op)
    case, truth = case_and_truth(row, size, start, "float64")
    assert_close(backend.run(case), truth, TOLERANCE["float64"])


HALVES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
STATES_BESIDE_HALVES = {"no state": None, "half state": "half", "float32 state": np.float32}


@pytest.mark.slow_where(
    lambda backend, size, dtype: backend is CUDA_ON_HOST and dtype is ml_dtypes.bfloat16 and size[2] != 34
)
@each_backend
@pytest.mark.parametrize("state_dtype", STATES_BESIDE_HALVES.values(), ids=STATES_BESIDE_HALVES)
@pytest.mark.parametrize("dtype", HALVES.values(), ids=HALVES)
@pytest.mark.parametrize(
    "size",
    [((2, 3), (3,), 34, 16, 16), ((3,), (), 20, 33, 5), ((), (2,), 9, 64, 64)],
    ids=["own", "shared initial", "shared data"],
)
@each_operator
def test_halves_are_stored_so_and_computed_in_float32(backend, row, size, dtype, state_dtype):
    if backend is CUDA and dtype is ml_dtypes.bfloat16:
        require_bfloat16_of_cupy()
    state_dtype = dtype if state_dtype == "half" else state_dtype
    starts = EVERYTHING | {"state": state_dtype is not None}
    case = random_case(row, size, **starts).astype(dtype, state_dtype)
    got = backend.run(case)
    of_state = {*row.next_states, *(f"g{name}" for name in row.states)}
    of_state = of_state if state_dtype is np.float32 else set()
    for name, a in got.items():
        assert a.dtype == (np.float32 if name in of_state else dtype), name
    truth = truth_of(case)
    wide = {name: got[name] for name in of_state & got.keys()}
    assert_close(wide, {name: truth[name] for name in wide}, TOLERANCE["float32"])
    assert_close(got, truth, TOLERANCE[np.dtype(dtype).name])


@each_backend
@pytest.mark.parametrize("start", ["plain", "state-reset-mask"])
@each_operator
def test_many_single_steps_in_halves_with_a_float32_state(backend, row, start):
    """300 calls, each from the state of the one before, are one call within what a half can hold."""
    if backend is CUDA:
        require_bfloat16_of_cupy()
    case = random_case(row, ((2,), (2,), 300, 8, 8), **STARTS[start]).astype(ml_dtypes.bfloat16, np.float32)
    backend.require(row.op)
    states = case.states
    if states[0] is None:
        states = [a.astype(np.float32) for a in case.initials]
    outputs = []
    for t in range(300):
        step = case.steps(t, t + 1).with_states(states)
        (y, *states), _ = backend.vjp(step)
        outputs.append(y)
    truth = truth_of(case)
    got = {"y": np.concatenate(outputs, -2), **dict(zip(row.next_states, states, strict=True))}
    assert {a.dtype for a in states} == {np.dtype(np.float32)}
    assert_close(got, {name: truth[name] for name in got}, TOLERANCE["bfloat16"])


@each_backend
def test_a_growing_state_costs_no_accuracy(backend):
    case = growth_case().astype(np.float32)
    assert_close(backend.run(case), truth_of(case), TOLERANCE["float32"])


@each_backend
@pytest.mark.parametrize("length", [1.4, 2, 2.5, 3])
def test_long_keys_cost_no_accuracy(backend, length):
    case = long_keys_case(length)
    assert_close(backend.run(case), truth_of(case), 1e-9)
    case = case.astype(np.float32)
    assert_close(backend.run(case), truth_of(case), TOLERANCE["float32"])


@each_backend
@pytest.mark.parametrize("where", ["output", "state"])
@pytest.mark.parametrize("D", [3, 4, 8, 17, 32])
@each_operator
def test_no_gradient_passes_a_reset(backend, row, D, where):
    """A reset cuts the sequence, also for NaN; and what comes before it has no part in what comes after."""
    case = random_case(row, ((3,), (), 6, D, D), state=True)
    reset = np.zeros((3, 6), bool)
    reset[:, 3] = True
    case = case.with_(reset=reset)
    finite = backend.run(case)
    incoming = [g.copy() for g in case.incoming]
    if where == "output":
        incoming[0][:, 5] = np.nan
    else:
        for g in incoming[1:]:
            g[:] = np.nan
    got = backend.run(Case(row, case.flat, tuple(incoming)))
    for i in row.op.places("data"):
        operand = row.op.flat[i]
        steps = (..., slice(0, 3), *(slice(None),) * (operand.core - 1))
        a, b = (results[f"g{operand.name}"][steps] for results in (got, finite))
        assert np.isfinite(a).all(), operand.name
        assert relative_error(a, b) <= TOLERANCE["float64"]
    for name in (f"g{name}" for name in row.states):
        assert relative_error(got[name], finite[name]) <= TOLERANCE["float64"]
    assert any(np.isnan(got[f"g{name}"]).any() for name in row.initials)


@each_backend
@each_operator
def test_nan_and_inf_stay_in_their_sequence_and_behind_their_step(backend, row):
    case = random_case(row, ((4,), (), 20, 6, 5))
    clean = backend.run(case)
    first = row.op.flat[0].name
    a = case[first].copy()
    a[1, 7, 2], a[2, 7, 2], a[3, 7, 2] = np.nan, np.inf, -np.inf
    case = case.with_(**{first: a})
    with np.errstate(invalid="ignore", over="ignore"):
        got, truth = backend.run(case), truth_of(case)
    y, y_clean = got["y"], clean["y"]
    assert relative_error(y[0], y_clean[0]) <= TOLERANCE["float64"]
    assert relative_error(y[:, :7], y_clean[:, :7]) <= TOLERANCE["float64"]
    np.testing.assert_array_equal(np.isfinite(y[:, 7]), np.isfinite(truth["y"][:, 7]))
    assert not np.isfinite(y[1, 7:]).all()  # at that step, or behind it
    assert relative_error(got[f"g{first}"][0], clean[f"g{first}"][0]) <= TOLERANCE["float64"]


@each_backend
@pytest.mark.parametrize("lead", [((0,), ()), ((), (0,)), ((0, 2), (1, 2)), ((2,), (2,))], ids=size_id)
@pytest.mark.parametrize("L", [0, 3])
@each_operator_and_start
def test_empty_axes(backend, row, start, L, lead):
    case = random_case(row, (*lead, L, 4, 3), **start)
    got = backend.run(case)
    assert_close(got, truth_of(case), TOLERANCE["float64"])
    if L == 0:  # nothing happens: the matrices are those at the start, and so are their gradients
        start_with = row.states if case.states[0] is not None else row.initials
        for name, next_name, g in zip(start_with, row.next_states, case.incoming[1:], strict=True):
            assert_same({"": got[next_name]}, {"": np.broadcast_to(case[name], got[next_name].shape)})
            assert np.sum(got[f"g{name}"]) == pytest.approx(np.sum(g))


@each_backend
@pytest.mark.parametrize("with_state", [False, True], ids=["", "state"])
@pytest.mark.parametrize("steps", [31, 32, 33, 36, 37, 64, 65])
@each_operator
def test_resets_beside_the_ends_of_segments(backend, row, steps, with_state):
    reset = np.zeros((4, steps), bool)
    reset[0, 0] = reset[1, -1] = reset[2, steps // 2] = reset[3, 31 % steps] = reset[3, 32 % steps] = True
    case = random_case(row, ((4,), (4,), steps, 16, 16), state=with_state).with_(reset=reset)
    assert_close(backend.run(case), truth_of(case), TOLERANCE["float64"])


def strided(a):
    """The same array behind other strides: its last axis first in memory, and every second entry of it."""
    if a.ndim < 2:
        return np.repeat(a, 2)[::2]
    return np.repeat(np.moveaxis(a, -1, 0), 2, axis=0).copy()[::2].transpose(*range(1, a.ndim), 0)


@each_backend
@each_operator
def test_any_strides(backend, row):
    case = random_case(row, ((3, 2), (2,), 12, 5, 7), **EVERYTHING)
    truth = truth_of(case)
    assert_close(backend.run(case.map(strided)), truth, TOLERANCE["float64"])
    assert_close(backend.run(case.map(np.asfortranarray)), truth, TOLERANCE["float64"])
    if backend.name != "cuda-on-host":  # which knows memory by where arrays begin
        turned = case.map(lambda a: a[..., ::-1].copy()[..., ::-1])
        assert_close(backend.run(turned), truth, TOLERANCE["float64"])
    # One step and one matrix with stride 0. With equal entries too, gradients of some rows would be zero.
    own = [o.core - ("L" in o.letters) for o in row.op.flat]
    repeated = {
        o.name: np.broadcast_to(a[(0,) * (a.ndim - n)], a.shape)
        for o, a, n in zip(row.op.flat, case.flat, own, strict=True)
        if a is not None
    }
    assert_close(
        backend.run(case.with_(**repeated)), truth_of(case.with_(**repeated)), TOLERANCE["float64"]
    )
    if row in ON_CUDA:
        same_everywhere = case.map(lambda a: np.broadcast_to(a[(0,) * a.ndim], a.shape))
        assert_close(backend.run(same_everywhere), truth_of(same_everywhere), TOLERANCE["float64"])


@each_backend
@each_operator
def test_leading_axes_that_do_not_merge(backend, row):
    leads = {"state": (2, 1, 3, 3, 1), "reset": (2, 1, 1, 3, 1), "mask": (2, 3, 1, 2)}
    leads |= {"parameter": (1, 3, 1, 2)}
    size = ((2, 1, 3, 1, 2), (1, 2, 1, 3, 1), 4, 5, 2)
    case = random_case(row, size, **EVERYTHING, leads=leads)
    assert_close(backend.run(case), truth_of(case), TOLERANCE["float64"])


@each_backend
@pytest.mark.parametrize("which", ["alone", "not"])
@each_operator
def test_every_operand_broadcasts(backend, row, which):
    """One has no leading axes and the others have, or the reverse: its gradient is a sum, or theirs are."""
    for operand in row.op.flat:
        if which == "alone":
            leads = {o.name: (2, 3) for o in row.op.flat} | {operand.name: ()}
        else:
            leads = {o.name: () for o in row.op.flat} | {operand.name: (2, 3)}
        case = random_case(row, ((), (), 37, 5, 7), **EVERYTHING, leads=leads)
        assert_close(backend.run(case), truth_of(case), TOLERANCE["float64"], operand.name)


@each_backend
@pytest.mark.parametrize("start", [STARTS["state"], EVERYTHING], ids=["", "reset"])
@each_operator
def test_two_parts_with_carried_state_are_the_whole(backend, row, start):
    """A reset in the second part leads to the matrix with which the whole began, and not to the state."""
    case = random_case(row, ((2, 3), (3,), 50, 16, 5), **start)
    whole = backend.run(case)
    first, second = case.steps(0, 23), case.steps(23, None)
    (y_1, *states), pull_1 = backend.vjp(first)
    (y_2, *last), pull_2 = backend.vjp(second.with_states(states))
    names = names_of_gradients(row)
    g_2 = dict(zip(names, pull_2(*second.incoming), strict=True))
    g_1 = dict(zip(names, pull_1(first.incoming[0], *(g_2[name] for name in row.states)), strict=True))
    got = {"y": np.concatenate([y_1, y_2], -2), **dict(zip(row.next_states, last, strict=True))}
    got |= {f"g{name}": g_1[name] for name in row.states}
    for i in row.op.places("data"):
        operand = row.op.flat[i]
        got[f"g{operand.name}"] = np.concatenate([g_1[operand.name], g_2[operand.name]], -operand.core)
    for i in row.op.places("parameter", "initial"):
        name = row.op.flat[i].name
        got[f"g{name}"] = g_1[name] + g_2[name]
    assert_close(got, whole, TOLERANCE["float64"])


def names_of_gradients(row):
    """The operands that have a gradient, in the order in which those are returned, a state's last."""
    return [row.op.flat[i].name for i in row.op.differentiable]


@each_backend
@each_operator
def test_no_gradient_of_the_state_is_a_zero_one(backend, row):
    case = random_case(row, ((2,), (2,), 9, 8, 8))
    _, pullback = backend.vjp(case)
    grad_y, *of_states = case.incoming
    without, zero = pullback(grad_y), pullback(grad_y, *map(np.zeros_like, of_states))
    for a, b in zip(without, zero, strict=True):
        assert relative_error(a, b) < 1e-14


@each_backend
@each_operator
def test_a_state_equal_to_the_initial_matrix_changes_nothing_but_whose_gradient_is_whose(backend, row):
    case = random_case(row, ((2,), (2,), 37, 8, 5), reset=True)
    without = backend.run(case)
    starts = zip(case.initials, case.incoming[1:], strict=True)
    beside = backend.run(case.with_states([np.broadcast_to(a, g.shape).copy() for a, g in starts]))
    for initial, state in zip(row.initials, row.states, strict=True):
        beside[f"g{initial}"] = beside[f"g{initial}"] + beside.pop(f"g{state}")
    assert_close(beside, without, 1e-13)


@each_backend
@each_operator_and_start
def test_without_an_optional_initial_matrix_sequences_begin_at_zero(backend, row, start):
    if not row.op.initials[0].optional:
        return
    case = random_case(row, ((2,), (2,), 37, 8, 5), **start)
    for name in row.initials:
        zero = backend.run(case.with_(**{name: np.zeros_like(case[name])}))
        del zero[f"g{name}"]
        assert_close(backend.run(case.with_(**{name: None})), zero, 1e-14)


@each_backend
@each_operator
def test_any_of_the_optional_operands_may_be_missing(backend, row):
    for case in each_optional_operand_missing(row, ((2, 3), (3,), 21, 5, 7)):
        assert_close(backend.run(case), truth_of(case), TOLERANCE["float64"])


@each_backend
@each_operator
def test_bitwise_the_same_from_run_to_run(backend, row):
    case = random_case(row, ((40,), (), 20, 16, 16), **EVERYTHING).astype(np.float32)
    assert_same(backend.run(case), backend.run(case))


@each_backend
@each_operator
def test_forward_alone_gives_the_results_of_vjp(backend, row):
    for start in starts_of(row).values():
        case = random_case(row, ((5,), (), 40, 9, 7), **start)
        expected = backend.run(case)
        flat = placed(case, backend.name).flat
        results = from_device(row.forward(flat, backend=backend.name))
        got = dict(zip(row.result_names, results, strict=True))
        # Not the same bits: where a matrix is saved, deferred updates are added to it earlier.
        assert_close(got, {name: expected[name] for name in got}, 1e-13)
        (alone,) = from_device([row.forward(flat, return_state=False, backend=backend.name)])
        assert_same({"y": alone}, {"y": results[0]})


@each_backend
@each_operator
def test_backward_gives_the_gradients_of_vjp(backend, row):
    for start in starts_of(row).values():
        case = random_case(row, ((5,), (), 40, 9, 7), **start)
        expected = {name: a for name, a in backend.run(case).items() if name.startswith("g")}
        there = placed(case, backend.name)
        gradients = row.backward(there.flat, *there.incoming, backend=backend.name)
        got = dict(zip(names_of_gradients(row), from_device(gradients), strict=False))
        assert_close({f"g{n}": a for n, a in got.items()}, expected, 1e-14)


def sequence_without_padding(case, i):
    """The i-th sequence of a case, of one leading axis, without its padding."""
    real = case["mask"][i]

    def part(operand, a):
        if a is None or operand.role == "parameter":
            return a
        return a[i][real] if operand.letters[0] == "L" else a[i]

    op = case.row.op
    flat = tuple(part(operand, a) for operand, a in zip(op.flat, case.flat, strict=True))
    incoming = tuple(part(result, g) for result, g in zip(op.results, case.incoming, strict=True))
    return Case(case.row, flat, incoming).with_(mask=None)


@each_backend
@pytest.mark.parametrize("L", [1, 9, 70])
@pytest.mark.parametrize("start", ["mask", "state-reset-mask"])
@each_operator_with_a_mask
def test_padding_is_as_if_it_were_not_there(backend, row, start, L):
    """Whatever it holds: outputs and gradients are zero there, all others those of shorter sequences."""
    case = random_case(row, ((4,), (4,), L, 5, 3), **STARTS[start])
    mask = case["mask"]
    mask[1], mask[2] = True, False  # no padding, and nothing else
    mask[3, -1] = False
    alone = [backend.run(sequence_without_padding(case, i)) for i in range(4)]
    got = backend.run(with_nan_at_padding(case))
    of_steps = {"y", *(f"g{row.op.flat[i].name}" for i in row.op.places("data"))}
    of_all = {f"g{row.op.flat[i].name}" for i in row.op.places("parameter")}
    for name in of_all:
        assert relative_error(got.pop(name), sum(one.pop(name) for one in alone)) <= TOLERANCE["float64"]
    for name in of_steps:
        assert not got[name][~mask].any(), name
    for i, one in enumerate(alone):
        of_one = {name: a[i][mask[i]] if name in of_steps else a[i] for name, a in got.items()}
        assert_close(of_one, one, TOLERANCE["float64"], i)


def test_a_gradient_of_every_operand_comes_back():
    """No row forgets an operand, and states have gradients only where they are given."""
    case = random_case(DELTA, state=True)
    assert set(run(case, backend="reference")) == {"y", "S_next", "gq", "gk", "gv", "gbeta", "gS", "gstate"}
    case = random_case(DELTA, initial=False)
    assert set(run(case, backend="reference")) == {"y", "S_next", "gq", "gk", "gv", "gbeta"}
