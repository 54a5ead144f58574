"""Past torch's dispatcher or through it: which calls go where, and that both ways give the same."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import srwm
from srwm import autograd, delta_autograd
from srwm._cy import backend as cython_backend
from tests.cases import random_case, random_delta_case

FORWARD = {"forward": 2, "delta_forward": 5}  # and how many operands have gradients
each_forward = pytest.mark.parametrize("name", FORWARD)


@pytest.fixture
def through(monkeypatch):
    """The operators that were taken for a call: it goes through torch's dispatcher."""
    taken = []

    def spy_on(module, chooser):
        choose = getattr(module, chooser)

        def spy(*arguments):
            what = choose(*arguments)
            if isinstance(what, torch._ops.OpOverloadPacket):
                taken.append(what.__name__)
            return what

        monkeypatch.setattr(module, chooser, spy)

    for module in (autograd, delta_autograd):
        spy_on(module, "_forward_of")
        spy_on(module, "_backward_of")
    return taken


def operands_of(name, dtype=torch.float64):
    """Operands, a reset, and gradients of both results."""
    make = random_case if name == "forward" else random_delta_case
    case = make(((2, 1), (3,), 7, 4, 5), with_reset=True)
    operands = [torch.tensor(a, dtype=dtype) for a in case[: FORWARD[name]]]
    upstream = [torch.tensor(a, dtype=dtype) for a in case[-2:]]
    return operands, torch.tensor(case.reset), upstream


def call(name, operands, **options):
    return getattr(srwm, name)(*operands, **options)


def operator(name, operands, reset, keep):
    return getattr(torch.ops.srwm, name)(*operands, reset, keep, True, None, None)[:2]


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


class Subclass(torch.Tensor):
    """A tensor that lives by __torch_function__."""


def transposed(t):
    return t.mT.contiguous().mT


def negated_lazily(t):
    return torch.complex(torch.zeros_like(t), -t).conj().imag


PLAIN = {
    "tensors": (nullcontext, lambda t: t),
    "parameters under no_grad": (torch.no_grad, torch.nn.Parameter),
    "inference mode": (torch.inference_mode, lambda t: t),
    "tensors made in inference mode": (torch.inference_mode, torch.clone),
    "autocast": (lambda: torch.autocast("cpu", torch.bfloat16), lambda t: t),
    "other strides": (nullcontext, lambda t: transposed(t) if t.ndim > 2 else t),
}


@each_forward
@pytest.mark.parametrize("situation", PLAIN)
def test_ordinary_tensors_go_past_the_dispatcher(name, situation, through):
    context, change = PLAIN[situation]
    operands, reset, _ = operands_of(name)
    expected = operator(name, operands, reset, False)
    through.clear()
    with context():
        results = call(name, [change(t) for t in operands], reset=reset, return_state=True)
        alone = call(name, [change(t) for t in operands], reset=reset)
    assert through == []
    for a, b in zip((*results, alone), (*expected, expected[0]), strict=True):
        assert torch.equal(a, b)
        assert not a.requires_grad
        assert a.is_inference() == ("inference" in situation)


@each_forward
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_other_dtypes_go_past_the_dispatcher(name, dtype, through):
    operands, reset, _ = operands_of(name, dtype)
    expected = operator(name, operands, reset, False)
    through.clear()
    results = call(name, operands, reset=reset, return_state=True)
    assert through == []
    for a, b in zip(results, expected, strict=True):
        assert a.dtype == dtype
        assert torch.equal(a, b)


def gradients_of(results, operands, upstream, **options):
    return torch.autograd.grad(results, operands, upstream, **options)


@each_forward
@pytest.mark.parametrize("which", [[0], [1], [0, 1]], ids=["y", "state", "both"])
def test_gradients_go_past_the_dispatcher(name, which, through):
    operands, reset, upstream = operands_of(name)
    operands = [t.requires_grad_() for t in operands]
    upstream = [upstream[i] for i in which]

    def of(results):
        return gradients_of([results[i] for i in which], operands, upstream)

    expected = of(operator(name, operands, reset, True))
    through.clear()
    got = of(call(name, operands, reset=reset, return_state=True))
    assert through == []
    for a, b in zip(got, expected, strict=True):
        assert torch.equal(a, b)


@each_forward
def test_absent_gradients_stay_absent(name, monkeypatch):
    operands, _, upstream = operands_of(name)
    operands = [t.requires_grad_() for t in operands]
    backward = name.replace("forward", "backward")
    original, seen = getattr(cython_backend, backward), []

    def spy(*arguments, **options):
        seen.append(arguments[-1])
        return original(*arguments, **options)

    monkeypatch.setattr(cython_backend, backward, spy)
    y, _ = call(name, operands, return_state=True)
    gradients_of([y], operands, upstream[:1])
    assert seen == [None]  # and not a state full of zeros


@each_forward
def test_gradients_of_some_operands(name, through):
    operands, reset, upstream = operands_of(name)
    for only in operands:
        only.requires_grad_()
        y = call(name, operands, reset=reset)
        expected = operator(name, operands, reset, True)[0]
        through.clear()
        (got,) = gradients_of([y], [only], upstream[:1])
        assert through == []
        assert torch.equal(got, gradients_of([expected], [only], upstream[:1])[0])
        only.requires_grad_(False)


@each_forward
def test_a_gradient_that_is_differentiated_or_batched_goes_through(name, through):
    operands, reset, upstream = operands_of(name)
    operands = [t.requires_grad_() for t in operands]
    backward = name.replace("forward", "backward")
    y = call(name, operands, reset=reset)
    (once,) = gradients_of([y], operands[:1], upstream[:1], retain_graph=True)
    assert through == []
    (twice,) = gradients_of([y], operands[:1], upstream[:1], retain_graph=True, create_graph=True)
    assert through == [backward]
    assert torch.equal(once, twice)
    with pytest.raises(RuntimeError, match="a second derivative is wanted"):
        twice.sum().backward()
    through.clear()
    many = torch.stack([upstream[0], -upstream[0]])
    (batched,) = gradients_of([y], operands[:1], [many], is_grads_batched=True)
    assert through[0] == backward
    torch.testing.assert_close(batched, torch.stack([once, -once]))


@each_forward
def test_vjp_and_backward_go_past_the_dispatcher(name, through):
    operands, reset, upstream = operands_of(name)
    short = name.removesuffix("forward")
    _, pullback = getattr(srwm, f"{short}vjp")(*operands, reset=reset)
    gradients = pullback(*upstream)
    again = getattr(srwm, f"{short}backward")(*operands, *upstream, reset=reset)
    assert through == []
    with Sees() as mode:
        _, pullback = getattr(srwm, f"{short}vjp")(*operands, reset=reset)
        expected = pullback(*upstream)
        getattr(srwm, f"{short}backward")(*operands, *upstream, reset=reset)
    assert through == [f"{short}forward", f"{short}backward"] * 2
    assert [f"srwm.{n}.default" for n in through] == [n for n in mode.seen if n.startswith("srwm")]
    for a, b, c in zip(gradients, again, expected, strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, c)


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


@each_forward
@pytest.mark.parametrize("with_gradient", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_where_something_looks_on_the_operator_is_called(name, mode, with_gradient, through):
    operands, reset, upstream = operands_of(name)
    operands = [t.requires_grad_(with_gradient) for t in operands]
    expected = call(name, operands, reset=reset, return_state=True)
    backward = name.replace("forward", "backward")
    with MODES[mode]() as active:
        results = call(name, operands, reset=reset, return_state=True)
        assert through == [name]
        if with_gradient:
            gradients = gradients_of(results, operands, upstream)
            # torch itself suspends modes of __torch_function__ while it computes gradients
            is_seen = mode not in ("function mode", "default device")
            assert through == [name, *[backward] * is_seen]
    for a, b in zip(results, expected, strict=True):
        assert torch.equal(a, b)
    if with_gradient:
        for a, b in zip(gradients, gradients_of(expected, operands, upstream), strict=True):
            assert torch.equal(a, b)
    if isinstance(active, Sees):
        assert f"srwm.{name}.default" in active.seen
    if isinstance(active, SeesFunctions):
        assert f"srwm.{name}" in active.seen
    if mode == "profiler":
        assert f"srwm::{name}" in {event.key for event in active.key_averages()}


@each_forward
def test_a_profiler_that_starts_before_backward_sees_it(name):
    operands, reset, upstream = operands_of(name)
    operands = [t.requires_grad_() for t in operands]
    y = call(name, operands, reset=reset)
    with profiled() as profile:
        gradients_of([y], operands, upstream[:1])
    backward = name.replace("forward", "backward")
    assert f"srwm::{backward}" in {event.key for event in profile.key_averages()}


UNUSUAL = {
    "subclass": lambda t: t.as_subclass(Subclass),
    "lazily negated": negated_lazily,
    "on no device": lambda t: t.to("meta"),
    "fake": lambda t: FakeTensorMode().from_tensor(t),
}


@each_forward
@pytest.mark.parametrize("kind", UNUSUAL)
def test_unusual_tensors_go_through(name, kind, through):
    operands, _, _ = operands_of(name)
    change = UNUSUAL[kind]
    if kind == "fake":
        change = FakeTensorMode().from_tensor  # all of one mode
    expected = call(name, operands, backend="reference", return_state=True)
    assert through == []
    results = call(name, [change(t) for t in operands], backend="reference", return_state=True)
    assert through == [name]
    for a, b in zip(results, expected, strict=True):
        assert a.shape == b.shape
        assert type(a) is type(change(b)) or kind == "lazily negated"
        if kind in ("subclass", "lazily negated"):
            assert torch.equal(torch.Tensor(a), b)


@each_forward
@pytest.mark.parametrize("place", [0, 1])
def test_one_unusual_operand_is_enough(name, place, through):
    operands, _, _ = operands_of(name)
    operands[place] = operands[place].as_subclass(Subclass)
    assert isinstance(call(name, operands), Subclass)
    operands[place] = negated_lazily(operands[place].as_subclass(torch.Tensor))
    call(name, operands)
    assert through == [name] * 2


def test_an_unusual_reset_is_enough(through):
    operands, reset, _ = operands_of("forward")
    assert isinstance(srwm.forward(*operands, reset=reset.as_subclass(Subclass)), Subclass)
    assert through == ["forward"]


@each_forward
def test_transformed_and_traced_calls_go_through(name, through):
    operands, _, _ = operands_of(name)
    first, *rest = operands
    expected = call(name, operands)

    def of_first(first):
        return call(name, [first, *rest])

    vmapped = torch.func.vmap(of_first)(torch.stack([first, first]))
    torch.testing.assert_close(vmapped, torch.stack([expected, expected]))
    assert through[0] == name
    through.clear()
    assert torch.equal(torch.func.functionalize(of_first)(first), expected)
    assert through[0] == name
    through.clear()
    for options in ({}, {"pre_dispatch": True}):
        graph = make_fx(of_first, **options)(first).graph
        assert f"srwm.{name}.default" in {str(node.target) for node in graph.nodes}
    with pytest.warns(DeprecationWarning, match="torch.jit.trace"):
        traced = torch.jit.trace(of_first, (first,))
    assert f"srwm::{name}" in str(traced.graph)
    assert torch.equal(traced(2 * first), of_first(2 * first))


def test_wrappers_that_outlived_their_transform_go_through(through):
    (x, W), _, _ = operands_of("forward")
    leaked = []
    torch.func.vmap(lambda x: leaked.append(x) or x)(x)
    with pytest.raises(AssertionError, match="interpreter must not be None"):
        srwm.forward(leaked[0], W)
    assert through == ["forward"]


@each_forward
def test_compiled_calls_are_the_operator(name):
    operands, reset, _ = operands_of(name)
    targets = set()

    def remember(graph_module, _):
        targets.update(str(node.target) for node in graph_module.graph.nodes)
        return graph_module

    def f(*operands):
        return call(name, operands, reset=reset)

    y = torch.compile(f, fullgraph=True, backend=remember)(*operands)
    assert torch.equal(y, f(*operands))
    assert f"srwm.{name}" in targets


@each_forward
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # torch's own
@pytest.mark.parametrize("requires_grad", [False, True])
def test_forward_mode_is_refused_not_dropped(name, requires_grad):
    operands, _, _ = operands_of(name)
    first, *rest = operands
    refused = pytest.raises(NotImplementedError, match=rf"^srwm\.{name}: .* without a forward-mode deriv")
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(first.requires_grad_(requires_grad), torch.ones_like(first))
        with refused:
            call(name, [dual, *rest])
        with refused:
            call(name, [first, forward_ad.make_dual(rest[0], torch.ones_like(rest[0])), *rest[1:]])
    with refused:
        torch.func.jvp(lambda t: call(name, [t, *rest]), (first,), (first,))
    with refused:
        torch.func.vmap(lambda t: torch.func.jvp(lambda t: call(name, [t, *rest]), (t,), (t,)))(first)


@each_forward
def test_hooks_of_saved_tensors_are_called(name, through):
    operands, reset, upstream = operands_of(name)
    operands = [t.requires_grad_() for t in operands]
    packed, unpacked = [], []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: packed.append(t) or t, lambda t: unpacked.append(t) or t
    ):
        y = call(name, operands, reset=reset)
    got = gradients_of([y], operands, upstream[:1])
    assert len(packed) == len(unpacked) == len(operands) + 2  # the reset, and what backward wants
    assert through == []
    for a, b in zip(
        got, gradients_of([call(name, operands, reset=reset)], operands, upstream[:1]), strict=True
    ):
        assert torch.equal(a, b)


@each_forward
def test_an_operand_changed_in_place_before_backward_is_noticed(name):
    operands, _, upstream = operands_of(name)
    operands = [t.requires_grad_() for t in operands]
    y = call(name, operands)
    with torch.no_grad():
        operands[0].zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        gradients_of([y], operands, upstream[:1])


def test_a_checkpointed_call_is_run_again(through):
    operands, reset, upstream = operands_of("forward")
    operands = [t.requires_grad_() for t in operands]

    def f(*operands):
        return srwm.forward(*operands, reset=reset)

    y = torch.utils.checkpoint.checkpoint(f, *operands, use_reentrant=False)
    got = gradients_of([y], operands, upstream[:1])
    assert through == []
    for a, b in zip(got, gradients_of([f(*operands)], operands, upstream[:1]), strict=True):
        assert torch.equal(a, b)


@each_forward
def test_results_are_no_ones_but_the_callers(name):
    operands, reset, _ = operands_of(name)
    first = call(name, operands, reset=reset, return_state=True)
    copies = [t.clone() for t in first]
    for t in call(name, operands, reset=reset, return_state=True):
        t.fill_(np.nan)
    for a, b in zip(first, copies, strict=True):
        assert torch.equal(a, b)
