"""The operators on tensors: the plain road, which calls take it, what it saves, and what it refuses.

Every transform and tool of torch: tests/test_transforms.py.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import srwm
from srwm import _torch, _torch_kernels, _torch_private
from srwm._torch_operator import torch_operator
from tests.operators import (
    CYTHON,
    EVERYTHING,
    TOLERANCE,
    assert_close,
    by_autograd,
    each_operator,
    each_operator_and_start,
    random_case,
    run,
    starts_of,
    truth_of,
)

ROOT = Path(__file__).parents[1]


def tensors_of(row, *, requires_grad=False, dtype=None, **options):
    case = random_case(row, **options)
    if dtype is not None:
        case = case.map(lambda a: a)
    case = case.map(torch.tensor)
    if dtype is not None:
        case = case.map(lambda t: t if t.dtype == torch.bool else t.to(dtype))
    if requires_grad:
        for t in case.given:
            t.requires_grad_()
    return case


def numbers(results):
    return {name: t.detach().double().numpy() for name, t in results.items()}


def trained(case, **options):
    """All results by name, gradients by torch's autograd."""
    results = case.row.forward(case.flat, **options)
    gradients = torch.autograd.grad(results, case.given, case.incoming, materialize_grads=True)
    named = {f"g{case.row.op.flat[i].name}": g for i, g in zip(case.places, gradients, strict=True)}
    return numbers(dict(zip(case.row.result_names, results, strict=True)) | named)


# ---- values


@pytest.mark.parametrize("backend", [None, "reference"])
@each_operator_and_start
def test_equals_the_operator_on_arrays_and_autograd_of_a_loop(row, start, backend):
    plain = random_case(row, ((2, 1), (3,), 37, 4, 5), **start)
    case = plain.map(torch.tensor)
    for t in case.given:
        t.requires_grad_()
    got = trained(case, backend=backend)
    assert_close(got, by_autograd(plain), TOLERANCE["float64"])
    assert_close(got, run(plain, backend=backend), 1e-13)
    assert_close(numbers(run(case, backend=backend)), got, 1e-14)
    gradients = row.backward(case.flat, *case.incoming, backend=backend)
    results = [got[name] for name in row.result_names]
    assert_close(numbers(case.named(map(torch.tensor, results), gradients)), got, 1e-14)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("backend", [None, "reference"])
@each_operator_and_start
def test_other_dtypes(row, start, dtype, backend):
    case = tensors_of(row, size=((2,), (), 20, 8, 5), **start, dtype=dtype, requires_grad=True)
    got = trained(case, backend=backend)
    wide = case.map(lambda t: t.detach().numpy() if t.dtype == torch.bool else t.detach().double().numpy())
    assert_close(got, truth_of(wide), TOLERANCE[str(dtype).removeprefix("torch.")])
    for t in (*row.forward(case.flat), *run(case).values()):
        assert t.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@each_operator
def test_a_float32_state_beside_halves(row, dtype):
    case = tensors_of(row, **EVERYTHING, dtype=dtype)
    case = case.with_states([t.float() for t in case.states])
    for t in case.given:
        t.requires_grad_()
    results = row.forward(case.flat)
    assert [t.dtype for t in results] == [dtype, *(torch.float32 for _ in case.states)]
    gradients = torch.autograd.grad(results, case.given, results)
    assert [g.dtype for g in gradients] == [t.dtype for t in case.given]


@each_operator_and_start
def test_gradcheck(row, start):
    case = tensors_of(row, size=((2, 1), (3,), 5, 3, 2), **start, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *a: row.forward(case.of_given(a)), case.given)


@pytest.mark.parametrize("which", ["output", "states", "last", "all"])
@each_operator
def test_gradients_of_some_results(row, which):
    case = tensors_of(row, **EVERYTHING, requires_grad=True)
    places = range(len(case.incoming))
    which = {"output": [0], "states": places[1:], "last": [places[-1]], "all": places}[which]

    def gradients(results):
        return torch.autograd.grad(
            [results[i] for i in which],
            case.given,
            [case.incoming[i] for i in which],
            materialize_grads=True,
        )

    incoming = [g if i in which else torch.zeros_like(g) for i, g in enumerate(case.incoming)]
    expected = row.backward(case.flat, *incoming)
    for a, b in zip(gradients(row.forward(case.flat)), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)


@each_operator
def test_gradients_of_some_operands(row):
    case = tensors_of(row, **EVERYTHING)
    expected = dict(zip(case.places, row.backward(case.flat, *case.incoming), strict=True))
    for i in case.places:
        only = case.flat[i].requires_grad_()
        (got,) = torch.autograd.grad(row.forward(case.flat), [only], case.incoming)
        torch.testing.assert_close(got, expected[i], rtol=1e-13, atol=1e-13)
        only.requires_grad_(False)


@each_operator
def test_awkward_gradients_and_retained_graphs(row):
    case = tensors_of(row, **EVERYTHING, requires_grad=True)
    y, matrix, *_ = row.forward(case.flat)
    # an expanded gradient of y (all strides 0) and a transposed one of the matrix, twice
    total = y.sum() + (matrix.mT * case.incoming[1].mT).sum()
    once = torch.autograd.grad(total, case.given, retain_graph=True)
    twice = torch.autograd.grad(total, case.given)
    rest = map(torch.zeros_like, case.incoming[2:])
    expected = row.backward(case.flat, torch.ones_like(y), case.incoming[1], *rest)
    for a, b, c in zip(once, twice, expected, strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, c, rtol=1e-13, atol=1e-13)


@each_operator
def test_a_missing_initial_matrix_has_no_gradient(row):
    case = tensors_of(row, initial=False)
    found = dict(zip(row.op.names, row.backward(case.flat, case.incoming[0]), strict=False))
    for operand in row.op.initials:
        assert (found[operand.name] is None) == operand.optional


@each_operator
def test_threads_may_differ_between_forward_and_backward(row):
    """What forward saves says how it is laid out: backward obeys it, whatever the threads are then."""
    case = tensors_of(row, size=((12,), (), 40, 33, 16), **EVERYTHING, requires_grad=True)
    expected, before = trained(case), torch.get_num_threads()
    try:
        for first, second in ((1, 64), (64, 1)):
            torch.set_num_threads(first)
            results = row.forward(case.flat)
            torch.set_num_threads(second)
            gradients = torch.autograd.grad(results, case.given, case.incoming)
            named = {f"g{row.op.flat[i].name}": g for i, g in zip(case.places, gradients, strict=True)}
            got = numbers(named)
            assert_close(got, {name: expected[name] for name in got}, TOLERANCE["float64"])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("L", [0, 1])
@each_operator_and_start
def test_short_sequences(row, start, L):
    case = tensors_of(row, size=((2,), (3, 1), L, 4, 5), **start, requires_grad=True)
    plain = case.map(lambda t: t.detach().numpy())
    assert_close(trained(case), run(plain), 1e-13)


# ---- purity


@each_operator_and_start
def test_storages_stay_as_they_were(row, start):
    """Tensors that were operands, or results, can be resized afterwards: FSDP does so."""
    case = tensors_of(row, size=((2,), (2,), 40, 8, 8), **start, requires_grad=True)
    results = row.forward(case.flat)
    gradients = torch.autograd.grad(results, case.given, case.incoming, materialize_grads=True)
    vjp_results, pullback = row.vjp(case.flat)
    for t in (*case.flat, *case.incoming, *results, *gradients, *vjp_results, *pullback(*case.incoming)):
        if t is not None:
            assert t.untyped_storage().resizable()
            t.untyped_storage().resize_(0)


@each_operator
def test_results_are_nobody_elses(row):
    for L in (0, 5):
        for start in starts_of(row).values():
            case = tensors_of(row, size=((2,), (2,), L, 4, 3), **start)
            own = {t.untyped_storage().data_ptr() for t in (*case.flat, *case.incoming) if t is not None}
            results, pullback = row.vjp(case.flat)
            all_of_them = [*results, *row.forward(case.flat), *pullback(*case.incoming)]
            found = [t.untyped_storage().data_ptr() for t in all_of_them if t is not None and t.numel()]
            assert not own & set(found)
            assert len(set(found)) == len(found)


@each_operator
def test_inputs_are_not_modified(row):
    case = tensors_of(row, **EVERYTHING, requires_grad=True)
    before = case.map(lambda t: t.detach().clone())
    versions = [t._version for t in case.flat]
    trained(case)
    run(case)
    for a, b in zip((*case.flat, *case.incoming), (*before.flat, *before.incoming), strict=True):
        assert torch.equal(a, b)
    assert [t._version for t in case.flat] == versions


@each_operator
def test_a_result_changed_in_place_does_not_matter_and_an_operand_is_noticed(row):
    case = tensors_of(row, requires_grad=True)
    y, *matrices = row.forward(case.flat)
    with torch.no_grad():
        for matrix in matrices:
            matrix.zero_()
    got = torch.autograd.grad(y, case.given, case.incoming[0], retain_graph=True)
    for a, b in zip(got, row.backward(case.flat, case.incoming[0]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)
    with torch.no_grad():
        case.given[0].zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(y, case.given, case.incoming[0])


@each_operator
def test_the_pullback_does_not_see_what_becomes_of_arguments(row):
    case = tensors_of(row, **EVERYTHING)
    expected = run(case)
    results, pullback = row.vjp(case.flat)
    for t in (*case.flat, *results):
        t.fill_(1)
    for g, name in zip(pullback(*case.incoming), [n for n in expected if n.startswith("g")], strict=True):
        assert torch.equal(g, expected[name])
        assert not g.requires_grad


# ---- what is saved


@each_operator_and_start
def test_hooks_of_saved_tensors_are_called(row, start):
    case = tensors_of(row, **start, requires_grad=True)
    packed, unpacked = [], []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: packed.append(t) or t, lambda t: unpacked.append(t) or t
    ):
        y = row.forward(case.flat)[0]
    torch.autograd.grad(y, case.given, case.incoming[0], materialize_grads=True)
    assert len(packed) == len(unpacked) == sum(t is not None for t in case.flat) + 1


@each_operator
def test_saved_tensors_may_lie_on_disk_or_be_copies(row):
    case = tensors_of(row, **EVERYTHING, requires_grad=True)
    expected = trained(case)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.numpy().copy(), torch.from_numpy):
        assert_close(trained(case), expected, 0.0)
    with torch.autograd.graph.save_on_cpu():
        assert_close(trained(case), expected, 0.0)


def at_odd_address(a):
    """The same entries, one byte behind where they would be aligned."""
    moved = np.zeros(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    moved[...] = a
    return moved


BAD_SAVED = {
    "in halves": (lambda t: t.half(), TypeError, "saved: expected what forward saved, of dtype"),
    "of another shape": (lambda t: t[..., :-1], ValueError, "saved: expected what forward saved for these"),
    "without entries": (lambda t: t.new_empty(0, 0), ValueError, "saved: expected what forward saved for"),
    "not contiguous": (
        lambda t: torch.stack([t, t], -1)[..., 0],
        ValueError,
        "saved: expected what forward saved for these operands, contiguous",
    ),
    "not aligned": (
        lambda t: torch.from_numpy(at_odd_address(t.numpy())),
        ValueError,
        "saved: expected what forward saved for these operands, contiguous and aligned",
    ),
}


@pytest.mark.parametrize("bad", BAD_SAVED)
@each_operator
def test_a_hook_that_changes_what_was_saved_is_noticed(row, bad):
    change, error, message = BAD_SAVED[bad]
    case = tensors_of(row, requires_grad=True)
    packed = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: packed.append(t) or (len(packed), t), lambda p: p[1]
    ):
        y = row.forward(case.flat)[0]
    last = len(packed)
    packed.clear()
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: packed.append(t) or (len(packed), t), lambda p: change(p[1]) if p[0] == last else p[1]
    ):
        y = row.forward(case.flat)[0]
    with pytest.raises(error, match=rf"^{row.op.verb('backward')}: {message}"):
        torch.autograd.grad(y, case.given, case.incoming[0])


@each_operator
def test_nothing_is_saved_without_a_gradient(row, monkeypatch):
    case = tensors_of(row)
    seen = []
    original = _torch_kernels.forward

    def spy(op, save, *rest):
        seen.append(save)
        return original(op, save, *rest)

    monkeypatch.setattr(_torch_kernels, "forward", spy)
    monkeypatch.setattr(_torch, "_functions", {})  # which hold the original
    row.forward(case.flat)
    for t in case.given:
        t.requires_grad_()
    with torch.no_grad():
        row.forward(case.flat)
    assert seen == [False, False]
    row.forward(case.flat)
    assert seen == [False, False, True]


@each_operator
def test_absent_gradients_stay_absent(row, monkeypatch):
    case = tensors_of(row, requires_grad=True)
    seen = []
    original = _torch_kernels.backward

    def spy(op, flat, saved, incoming, *rest):
        seen.append([g is None for g in incoming])
        return original(op, flat, saved, incoming, *rest)

    monkeypatch.setattr(_torch_kernels, "backward", spy)
    results = row.forward(case.flat)
    places = range(len(results))
    for i in places:  # those after the output may depend on fewer operands
        torch.autograd.grad(
            results[i], case.given, case.incoming[i], materialize_grads=True, retain_graph=True
        )
    assert seen == [[i != j for j in places] for i in places]  # and no result full of zeros


# ---- past the dispatcher, or through it


@pytest.fixture
def through(monkeypatch):
    """The names of the operators that were called: as often as a call goes through torch's dispatcher."""
    taken = []
    original = torch_operator

    def spy(op):
        taken.append(op.name)
        return original(op)

    monkeypatch.setattr(_torch, "torch_operator", spy)
    return taken


def transposed(t):
    return t.mT.contiguous().mT if t.ndim > 2 else t


def negated_lazily(t):
    return torch.complex(torch.zeros_like(t), -t).conj().imag


PLAIN = {
    "tensors": (nullcontext, lambda t: t),
    "parameters under no_grad": (torch.no_grad, lambda t: torch.nn.Parameter(t, t.is_floating_point())),
    "inference mode": (torch.inference_mode, lambda t: t),
    "tensors made in inference mode": (torch.inference_mode, torch.clone),
    "autocast": (lambda: torch.autocast("cpu", torch.bfloat16), lambda t: t),
    "other strides": (nullcontext, transposed),
}


@pytest.mark.parametrize("situation", PLAIN)
@each_operator
def test_ordinary_tensors_go_past_the_dispatcher(row, situation, through):
    context, change = PLAIN[situation]
    case = tensors_of(row, **EVERYTHING)
    expected = row.forward(case.flat)
    with context():
        changed = case.map(change)
        results = row.forward(changed.flat)
        alone = row.forward(changed.flat, return_state=False)
    assert through == []
    for a, b in zip((*results, alone), (*expected, expected[0]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)
        assert not a.requires_grad
        assert a.is_inference() == ("inference" in situation)


@each_operator
def test_training_goes_past_the_dispatcher(row, through):
    case = tensors_of(row, **EVERYTHING, requires_grad=True)
    trained(case)
    run(case)
    row.backward(case.flat, *case.incoming)
    assert through == []


class Sees(TorchDispatchMode):
    """A dispatch mode that notes the operators it sees."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


class SeesFunctions(TorchFunctionMode):
    """The same for functions."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


def profiled():
    return torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])


MODES = {
    "dispatch mode": Sees,
    "function mode": SeesFunctions,
    "counting flops": lambda: FlopCounterMode(display=False),
    "default device": lambda: torch.device("cpu"),
    "profiler": profiled,
    "forward-mode differentiation": forward_ad.dual_level,
}


@pytest.mark.parametrize("with_gradient", [False, True])
@pytest.mark.parametrize("mode", MODES)
@each_operator
def test_where_something_looks_on_the_operator_is_called(row, mode, with_gradient, through):
    case = tensors_of(row, **EVERYTHING, requires_grad=with_gradient)
    expected = row.forward(case.flat)
    with MODES[mode]() as active:
        results = row.forward(case.flat)
        assert through
        if with_gradient:
            gradients = torch.autograd.grad(results, case.given, case.incoming)
    for a, b in zip(results, expected, strict=True):
        assert torch.equal(a, b)
    if with_gradient:
        for a, b in zip(gradients, torch.autograd.grad(expected, case.given, case.incoming), strict=True):
            assert torch.equal(a, b)
    names = ["forward", *["backward"] * with_gradient]
    for name in (row.op.prefix + name for name in names):
        if isinstance(active, Sees):
            assert f"srwm.{name}.default" in active.seen
        if mode == "profiler":
            assert f"srwm::{name}" in {event.key for event in active.key_averages()}


@each_operator
def test_a_profiler_that_starts_before_backward_sees_it(row):
    case = tensors_of(row, requires_grad=True)
    results = row.forward(case.flat)
    with profiled() as profile:
        torch.autograd.grad(results, case.given, case.incoming)
    assert f"srwm::{row.op.prefix}backward" in {event.key for event in profile.key_averages()}


class Subclass(torch.Tensor):
    """A tensor that lives by __torch_function__."""


UNUSUAL = {
    "subclass": lambda t: t.as_subclass(Subclass),
    "lazily negated": lambda t: negated_lazily(t) if t.is_floating_point() else t,
    "on no device": lambda t: t.to("meta"),
    "fake": None,
}


@pytest.mark.parametrize("kind", UNUSUAL)
@each_operator
def test_unusual_tensors_go_through(row, kind, through):
    case = tensors_of(row, **EVERYTHING)
    change = UNUSUAL[kind] or FakeTensorMode().from_tensor  # all of one mode
    expected = row.forward(case.flat)
    assert through == []
    results = row.forward(case.map(change).flat)
    assert through
    for a, b in zip(results, expected, strict=True):
        assert a.shape == b.shape
        assert kind == "lazily negated" or type(a) is type(change(b))
        if kind in ("subclass", "lazily negated"):
            torch.testing.assert_close(torch.Tensor(a), b, rtol=1e-13, atol=1e-13)


@each_operator
def test_one_unusual_operand_is_enough(row, through):
    case = tensors_of(row, **EVERYTHING)
    for i, t in enumerate(case.flat):
        through.clear()
        flat = (*case.flat[:i], t.as_subclass(Subclass), *case.flat[i + 1 :])
        assert isinstance(row.forward(flat)[0], Subclass)
        assert through


@each_operator
def test_wrappers_that_outlived_their_transform_go_through(row, through):
    case = tensors_of(row)
    leaked = []
    torch.func.vmap(lambda a: leaked.append(a) or a)(case.flat[0])
    with pytest.raises(AssertionError, match=r"interpreter must not be None|^$"):
        row.forward((leaked[0], *case.flat[1:]))
    assert through


# ---- layouts that are refused


def sparse(t):
    return t.to_sparse()


def nested(t):
    return torch.nested.nested_tensor([t[0], t[0]])


def quantized(t):
    return torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8)


REFUSED = {"sparse": sparse, "nested": nested, "quantized": quantized}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype:UserWarning")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor, .* are deprecated:UserWarning")
@pytest.mark.parametrize("verb", ["forward", "vjp", "backward"])
@pytest.mark.parametrize("kind", REFUSED)
@each_operator
def test_tensors_that_are_not_dense_are_refused(row, kind, verb):
    case = tensors_of(row, size=((2,), (2,), 5, 4, 3), dtype=torch.float32)
    for i in case.places:
        flat = (*case.flat[:i], REFUSED[kind](case.flat[i]), *case.flat[i + 1 :])
        message = (
            rf"^{row.op.verb(verb)}: {row.op.flat[i].name}: expected a dense tensor, got a .*{kind}.*; make"
        )
        with pytest.raises(TypeError, match=message):
            row.backward(flat, case.incoming[0]) if verb == "backward" else getattr(row, verb)(flat)


# ---- the operators called by themselves


def arguments_of(row, start):
    """Those of torch.ops.srwm.*backward, all right, by name."""
    case = tensors_of(row, size=((2,), (3, 1), 5, 4, 6), **start)
    operator = torch_operator(row.op)
    *results, saved = operator.forward(*case.flat, "it", True, *row.op.values, None, None)
    named = dict(zip(row.op.names, case.flat, strict=True))
    grads = dict(zip(row.op.gradient_names, results, strict=True))
    return operator, named | {"saved": saved} | grads


def called(row, operator, named):
    return operator.backward(*named.values(), *row.op.values, None, None)


def one_less(axis):
    """Without the last entry along one of its own axes."""
    return lambda t, core: t.narrow(axis - core, 0, t.shape[axis - core] - 1) if axis < core else None


# (a right tensor, the number of its own axes) -> a wrong one, or None where there is no such
WRONG = {
    "scalar": lambda t, core: t.new_zeros(()),
    "no entries": lambda t, core: t.new_zeros(0, 0),
    "one less of the first axis": one_less(0),
    "one less of the second axis": one_less(1),
    "one sequence more": lambda t, core: torch.cat([t, t[:1]]),
    "in halves": lambda t, core: t.half(),
    "in integers": lambda t, core: t.int(),
    "on no device": lambda t, core: t.to("meta"),
}


@pytest.mark.parametrize("what", WRONG)
@each_operator_and_start
def test_backward_called_by_itself_checks_what_it_is_given(row, start, what):
    """It never reads foreign memory: whatever does not fit the rest raises."""
    operator, named = arguments_of(row, start)
    called(row, operator, named)
    cores = {o.name: o.core for o in row.op.flat} | {"saved": 1}
    cores |= {name: r.core for name, r in zip(row.op.gradient_names, row.op.results, strict=True)}
    for name, t in named.items():
        wrong = None if t is None else WRONG[what](t, cores[name])
        if wrong is None:
            continue
        message = rf"^({row.op.verb('backward')}|{row.op.verb('forward')}): "
        with pytest.raises((TypeError, ValueError), match=message):
            called(row, operator, named | {name: wrong})


@each_operator
def test_what_was_saved_for_other_operands_is_refused(row):
    operator, named = arguments_of(row, {})
    for start in ({"reset": True}, {"state": True}, {"mask": True}):
        other_operator, other = arguments_of(row, start)
        assert other_operator is operator
        if other["saved"].shape != named["saved"].shape:
            with pytest.raises(ValueError, match="saved: expected what forward saved"):
                called(row, operator, named | {"saved": other["saved"]})


@each_operator
def test_backward_called_by_itself_wants_what_forward_saved_contiguous(row):
    operator, named = arguments_of(row, {})
    saved = torch.stack([named["saved"]] * 2, -1)[..., 0]
    assert not saved.is_contiguous()
    with pytest.raises(
        ValueError, match="saved: expected what forward saved for these operands, contiguous"
    ):
        called(row, operator, named | {"saved": saved})


@pytest.mark.parametrize("what", [what for what in WRONG if "one" not in what])
@each_operator_and_start
def test_forward_called_by_itself_checks_what_it_is_given(row, start, what):
    case = tensors_of(row, size=((2,), (3, 1), 5, 4, 6), **start)
    operator = torch_operator(row.op)
    for i, (operand, t) in enumerate(zip(row.op.flat, case.flat, strict=True)):
        if t is None:
            continue
        flat = (*case.flat[:i], WRONG[what](t, operand.core), *case.flat[i + 1 :])
        with pytest.raises((TypeError, ValueError), match=rf"^{row.op.verb('forward')}: "):
            operator.forward(*flat, "it", True, *row.op.values, None, None)


@each_operator
def test_what_is_not_wanted_is_empty(row):
    case = tensors_of(row)
    results = torch_operator(row.op).forward(*case.flat, None, False, *row.op.values, None, None)
    assert [t.numel() > 0 for t in results] == [True, *(False for _ in results[1:])]


def freed(t):
    """A tensor whose storage was given back, as sharded modules do between their steps."""
    t = t.clone()
    t.untyped_storage().resize_(0)
    return t


@each_operator
def test_tensors_whose_storage_was_freed_are_refused(row):
    """No address stands for an operand that is not given: these would be read as zeros."""
    case = tensors_of(row, **EVERYTHING)
    for i, (operand, t) in enumerate(zip(row.op.flat, case.flat, strict=True)):
        if t is not None:
            flat = (*case.flat[:i], freed(t), *case.flat[i + 1 :])
            with pytest.raises(ValueError, match=rf"forward: {re.escape(operand.name)}: expected memory"):
                row.forward(flat)
    for i, name in enumerate(row.op.gradient_arguments):
        incoming = [freed(g) if i == j else g for j, g in enumerate(case.incoming)]
        with pytest.raises(ValueError, match=rf"backward: {re.escape(name)}: expected memory"):
            row.backward(case.flat, *incoming)
    operator = torch_operator(row.op)
    *results, saved = operator.forward(*case.flat, "it", True, *row.op.values, None, None)
    with pytest.raises(ValueError, match="backward: saved: expected"):
        operator.backward(*case.flat, freed(saved), *results, *row.op.values, None, None)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # its own
@each_operator
def test_compiled_autograd_takes_what_was_not_compiled(row):
    case = tensors_of(row, **EVERYTHING)

    def gradients(context):
        given = [t.requires_grad_(t.is_floating_point()) if t is not None else t for t in case.flat]
        for t in given:
            if t is not None:
                t.grad = None
        with context:
            row.forward(tuple(given))[0].square().sum().backward()
        return [t.grad.clone() for t in given if t is not None and t.grad is not None]

    compiled = torch._dynamo.compiled_autograd._enable(torch.compile(backend="aot_eager"))
    expected = gradients(contextlib.nullcontext())
    assert len(expected) > 1
    for got, g in zip(gradients(compiled), expected, strict=True):
        torch.testing.assert_close(got, g)


NOT_DENSE = {
    "sparse": lambda t: t.to_sparse(),
    "compressed": lambda t: t.reshape(-1, t.shape[-1]).to_sparse_csr(),
    "nested": lambda t: torch.nested.nested_tensor([t], layout=torch.jagged),
}
each_that_is_not_dense = pytest.mark.parametrize("kind", NOT_DENSE)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@each_that_is_not_dense
@each_operator
def test_gradients_that_are_not_dense_are_refused(row, kind):
    case = tensors_of(row, **EVERYTHING)
    incoming = [NOT_DENSE[kind](case.incoming[0])]
    message = rf"^{re.escape(row.op.verb('backward'))}: grad_y: expected a dense tensor, got "
    with pytest.raises(TypeError, match=message):
        row.backward(case.flat, *incoming)
    pullback = row.vjp(case.flat)[1]
    with pytest.raises(TypeError, match=r"grad_y: expected a dense tensor, got "):
        pullback(*incoming)


@each_operator
def test_a_sparse_gradient_from_autograd_is_refused(row):
    case = tensors_of(row)
    y = row.forward(tuple(t.requires_grad_() if t is not None else t for t in case.flat))[0]
    with pytest.raises(TypeError, match=r"grad_y: expected a dense tensor, got a torch\.sparse_coo one"):
        y.backward(torch.ones_like(y).to_sparse())


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@each_that_is_not_dense
def test_blocks_that_are_not_dense_are_refused(kind):
    W = torch.randn(4, 13)
    blocks = srwm.unpack(W)
    for i, name in enumerate(("W_y", "W_q", "W_k", "w_beta")):
        several = [NOT_DENSE[kind](b) if i == j else b for j, b in enumerate(blocks)]
        with pytest.raises(TypeError, match=rf"^srwm\.pack: {name}: expected a dense tensor, got a "):
            srwm.pack(*several)
    with pytest.raises(TypeError, match=r"^srwm\.unpack: W: expected a dense tensor, got a "):
        srwm.unpack(NOT_DENSE[kind](W))


def test_blocks_on_two_devices_are_refused():
    blocks = srwm.unpack(torch.randn(4, 13))
    with pytest.raises(ValueError, match=r"^srwm\.pack: W_k: expected on the device of W_y, cpu, got meta"):
        srwm.pack(*blocks[:2], blocks[2].to("meta"), blocks[3])


@pytest.mark.parametrize("n", [0, -3])
@each_operator
def test_a_number_of_threads_is_checked_in_the_torch_operators_too(row, n):
    case, operator = tensors_of(row), torch_operator(row.op)
    message = rf"^{re.escape(row.op.verb('forward'))}: num_threads: expected an int >= 1, got {n}"
    with pytest.raises(ValueError, match=message):
        operator.forward(*case.flat, "it", True, *row.op.values, None, n)
    *results, saved = operator.forward(*case.flat, "it", True, *row.op.values, None, None)
    with pytest.raises(ValueError, match=message.replace("forward", "backward")):
        operator.backward(*case.flat, saved, *results, *row.op.values, None, n)


@each_operator
def test_what_forward_of_other_operands_saved_is_refused(row):
    """Of those without a reset, a state: backward would read another walk through time."""
    CYTHON.require(row.op)  # the reference saves the same for all
    case, operator = tensors_of(row, **EVERYTHING), torch_operator(row.op)
    *results, saved = operator.forward(*case.flat, "it", True, *row.op.values, None, None)
    optional = [i for i, operand in enumerate(row.op.flat) if operand.optional and case.flat[i] is not None]
    for i in optional:
        flat = tuple(None if i == j else t for j, t in enumerate(case.flat))
        with pytest.raises(
            ValueError, match=r"backward: saved: expected what forward saved for backward, "
        ):
            operator.backward(*flat, saved, *results, *row.op.values, None, None)


FIRST_IN_THREADS = """
import sys, threading, torch, srwm
sys.setswitchinterval(1e-6)
x, W, failures = torch.randn(2, 3, 4), torch.randn(4, 13), []
together = threading.Barrier(6)
def work():
    together.wait()
    try:
        torch.func.vmap(lambda a: srwm.forward(a, W))(x)
    except Exception as error:
        failures.append(error)
threads = [threading.Thread(target=work) for _ in range(6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert failures == [], failures
"""


def test_threads_that_come_first_register_once():
    for _ in range(4):
        subprocess.run([sys.executable, "-c", FIRST_IN_THREADS], cwd=ROOT, check=True)


def test_importing_the_module_registers_all_operators():
    """What a program that loads an exported one has to do, and all it has to do."""
    program = (
        "import torch, srwm.torch_operators; print(torch.ops.srwm.forward, torch.ops.srwm.delta_backward)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert run.stdout.split() == ["srwm.forward", "srwm.delta_backward"]


# ---- bridges and private names


@each_operator
def test_without_the_exchange_api_tensors_are_described(row, monkeypatch):
    """Older versions of torch have none: keys and addresses are the same."""
    case = tensors_of(row, **EVERYTHING)
    tensors = (*case.flat, None, case.flat[0].half(), case.flat[0].bfloat16(), case.flat[1].mT)
    library = _torch_kernels._TENSORS
    of_this_version = library.read(tensors)
    monkeypatch.setattr(_torch_kernels, "_HAS_API", False)
    assert library.read(tensors) == of_this_version
    assert library.read((torch.ones(2, dtype=torch.int32),)) is None
    monkeypatch.undo()
    assert library.read((torch.ones(2, dtype=torch.int32),)) is None


WITHOUT_A_NAME = """
import importlib.util, sys
import torch
torch.set_num_threads(1)
missing = sys.argv[1]
spec = importlib.util.find_spec("srwm._torch_private")
source = open(spec.origin).read()
wanted = f'_private("{missing}")'
assert wanted in source
module = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = module
source = source.replace(wanted, f'_private("{missing}_of_another_version")')
exec(compile(source, spec.origin, "exec"), vars(module))

import tests.test_transforms as t
from tests.operators import EVERYTHING, ROWS
for row in ROWS:
    p = t.Problem(row, EVERYTHING)
    for name in ("forward", "autograd", "autograd of each alone", "checkpoint"):
        t.assert_agree(t.EAGER[name](p, p.ours), t.EAGER[name](p, p.plain))  # slower, and right
    for name in (
        *("batched gradients", "func.grad", "vmap(grad)", "vmap", "autograd of vmap", "jvp", "hessian"),
        "create_graph",
    ):
        try:
            got = t.EAGER[name](p, p.ours)
        except NotImplementedError as error:
            assert "expected a version of torch that srwm knows" in str(error), error
        else:
            t.assert_agree(got, t.EAGER[name](p, p.plain))
    def value(*a):
        return t.loss(p.ours)(*a)
    a, b = t.free(p.args), t.free(p.args)
    torch.compiler.reset()  # what it compiled for other rows counts towards its limit
    try:
        got = torch.compile(value, fullgraph=True, backend="aot_eager")(*a)
    except Exception as error:
        assert "expected a version of torch that srwm knows" in str(error), error
    else:
        t.assert_agree(t.gradient(got, a), t.gradient(t.loss(p.plain)(*b), b))
"""


def private_names():
    source = Path(_torch_private.__file__).read_text(encoding="utf-8")
    return [part.split('"')[0] for part in source.split('_private("')[1:]]


def test_all_private_names_are_found_here():
    assert len(private_names()) >= 13
    assert _torch_private.plain_is_known
    assert _torch_private.autograd_kernel_is_known


# One of those that `is_plain` asks for and one of those that gradients under transforms need run always.
ALWAYS = ("_C._dispatch_keys", "_C._AutoDispatchBelowAutograd")


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n in ALWAYS else pytest.mark.slow) for n in private_names()],
)
def test_without_a_private_name_of_torch_calls_are_right_or_raise(name):
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WITHOUT_A_NAME, name],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-3000:]


# ---- the rest


def test_pack_of_tensors_is_differentiable():
    blocks = [torch.randn(2, 3, n, requires_grad=True) for n in (5, 3, 3, 4)]
    srwm.pack(*blocks).square().sum().backward()
    for block in blocks:
        torch.testing.assert_close(block.grad, 2 * block.detach())


@each_operator
def test_tensors_and_arrays_are_one_thing_to_a_plan(row):
    """A tensor that shares an array's memory gives the array's results."""
    plain = random_case(row, **EVERYTHING)
    shared = plain.map(torch.from_numpy)
    for name, a in run(plain).items():
        np.testing.assert_allclose(run(shared)[name].numpy(), a, rtol=1e-13, atol=1e-13)
