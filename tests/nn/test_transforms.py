"""Every transform of torch through every layer, with state, reset and mask."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.func import functional_call, grad, jacrev, stack_module_state, vjp, vmap
from torch.utils.checkpoint import checkpoint

from tests.nn.layers import MAKERS, B, L, arguments, d_model, made
from tests.nn.loops import by_loop, flat
from tests.programs import by_another_process, compiled_ahead

ROOT = Path(__file__).parents[2]

each_layer = pytest.mark.parametrize("name", MAKERS)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def loss(results):
    return sum(result.square().sum() for result in flat(results))


def expected_gradients(layer, given):
    """Those of the loop, by the names of the parameters."""
    parameters = dict(layer.named_parameters())
    value = loss(by_loop(layer, *given))
    found = torch.autograd.grad(value, list(parameters.values()), materialize_grads=True, allow_unused=True)
    return dict(zip(parameters, found, strict=True))


def pure(layer, given):
    """The loss as a function of the parameters."""
    return lambda parameters: loss(functional_call(layer, parameters, given))


def detached(layer):
    return {name: p.detach() for name, p in layer.named_parameters()}


@each_layer
def test_grad_vjp_and_jacrev_of_functional_call(name):
    layer = made(name)
    given = arguments(layer)
    expected = expected_gradients(layer, given)
    torch.testing.assert_close(grad(pure(layer, given))(detached(layer)), expected)
    value, pull = vjp(pure(layer, given), detached(layer))
    torch.testing.assert_close(pull(torch.ones_like(value))[0], expected)
    torch.testing.assert_close(jacrev(pure(layer, given))(detached(layer)), expected)


@each_layer
def test_per_sample_gradients(name):
    layer = made(name)
    given = arguments(layer)

    def of_one(parameters, h, state, reset, mask):
        return loss(functional_call(layer, parameters, (h, state, reset, mask)))

    in_dims = (None, 0, given[1] if given[1] is None else tree(given[1]), 0, 0)
    got = vmap(grad(of_one), in_dims=in_dims)(detached(layer), *given)
    for i in range(B):
        own = tuple(pick(argument, i) for argument in given)
        alone = expected_gradients(layer, tuple(pick(argument, slice(i, i + 1)) for argument in given))
        torch.testing.assert_close({n: g[i] for n, g in got.items()}, alone)
        torch.testing.assert_close(grad(pure(layer, own))(detached(layer)), alone)


def tree(state):
    """The mapped axes of a state."""
    return tuple(None if s is None else 0 for s in state) if isinstance(state, tuple) else 0


def pick(argument, i):
    if isinstance(argument, tuple):
        return tuple(pick(part, i) for part in argument)
    return None if argument is None else argument[i]


@each_layer
def test_ensembles(name):
    layers = [made(name) for _ in range(3)]
    given = arguments(layers[0])
    parameters, buffers = stack_module_state(layers)
    base = copy.deepcopy(layers[0]).to("meta")

    def results(parameters, buffers):
        return tuple(flat(functional_call(base, (parameters, buffers), given)))

    torch.testing.assert_close(
        vmap(results)(parameters, buffers),
        tuple(torch.stack(parts) for parts in zip(*(flat(layer(*given)) for layer in layers), strict=True)),
    )

    def value(parameters, buffers):
        return sum(result.square().sum() for result in results(parameters, buffers))

    got = vmap(grad(value))({n: p.detach() for n, p in parameters.items()}, buffers)
    for i, layer in enumerate(layers):
        torch.testing.assert_close({n: g[i] for n, g in got.items()}, expected_gradients(layer, given))


@each_layer
def test_meta_device(name):
    layer = MAKERS[name](device="meta")
    h = torch.empty(B, L, d_model, device="meta", requires_grad=True)
    flags = torch.empty(B, L, dtype=torch.bool, device="meta")
    results = flat(layer(h, layer.initial_state(B), flags, flags))
    assert all(result.is_meta for result in results)
    assert results[0].shape == h.shape
    sum(result.sum() for result in results).backward()
    assert h.grad.is_meta
    assert all(p.grad.is_meta for p in layer.parameters())


@each_layer
def test_copies_and_pickles(name):
    layer = made(name)
    given = arguments(layer)
    expected = flat(layer(*given))
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert all(torch.equal(a, b) for a, b in zip(flat(other(*given)), expected, strict=True))


@each_layer
def test_checkpointing(name):
    layer = made(name)
    given = arguments(layer)
    for use_reentrant in (False, True):
        h = given[0].clone().requires_grad_()
        results = checkpoint(layer, h, *given[1:], use_reentrant=use_reentrant)
        value = results[0].square().sum() if use_reentrant else loss(results)
        wanted = [h, *layer.parameters()]
        got = torch.autograd.grad(value, wanted) if not use_reentrant else None
        if got is None:
            layer.zero_grad()
            value.backward()
            got = tuple(tensor.grad for tensor in wanted)
        own = given[0].clone().requires_grad_()
        by_hand = by_loop(layer, own, *given[1:])
        value = by_hand[0].square().sum() if use_reentrant else loss(by_hand)
        torch.testing.assert_close(got, torch.autograd.grad(value, [own, *layer.parameters()]))


# One of the two in the short run: what inductor takes two minutes for, because of many small operations, is
# compiled without it.
SHORT = dict.fromkeys(MAKERS, "inductor") | {"DeltaCDE": "aot_eager"}
COMPILED = [
    pytest.param(name, backend, marks=[] if SHORT[name] == backend else pytest.mark.slow)
    for name in MAKERS
    for backend in ("inductor", "aot_eager")
]


@pytest.mark.parametrize(("name", "backend"), COMPILED)
def test_one_compilation_trains_with_all_batches_and_lengths(name, backend):
    torch.compiler.reset()
    layer = made(name)
    counter = CompileCounterWithBackend(backend)
    compiled = torch.compile(layer, fullgraph=True, backend=counter)
    for count, steps in ((3, 4), (6, 7), (2, 9)):
        h, state, reset, mask = arguments(layer, count, steps)
        wanted = [h.requires_grad_(), *(t.requires_grad_() for t in flat(state)), *layer.parameters()]
        for tensor in (h, reset, mask, *flat(state)):
            torch._dynamo.mark_dynamic(tensor, 0)
        for tensor in (h, reset, mask):
            torch._dynamo.mark_dynamic(tensor, 1)
        results, expected = compiled(h, state, reset, mask), layer(h, state, reset, mask)
        torch.testing.assert_close(flat(results), flat(expected))
        torch.testing.assert_close(
            *(
                torch.autograd.grad(loss(of), wanted, allow_unused=True, materialize_grads=True)
                for of in (results, expected)
            )
        )
    assert counter.frame_count == 1


def test_two_operators_are_compiled_as_one_graph_where_none_was_called_before():
    """The torch operators of both are registered while the compiler traces the first."""
    program = """
import torch
from srwm.nn import SRWM, DeltaNet, Stack
stack, h = Stack([SRWM(6, 2), DeltaNet(6, 2)]), torch.randn(2, 3, 6)
compiled = torch.compile(stack, fullgraph=True, backend="eager")
torch.testing.assert_close(compiled(h), stack(h))
"""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-3000:]


def exported(layer):
    """As a program of any batch and length."""
    given = arguments(layer)
    count, steps = torch.export.Dim("count", min=2, max=64), torch.export.Dim("steps", min=2, max=64)

    def of_state(state):
        if isinstance(state, tuple):
            return tuple(of_state(own) for own in state)
        return None if state is None else {0: count}

    of_steps = {0: count, 1: steps}
    return torch.export.export(
        layer, given, dynamic_shapes=(of_steps, of_state(given[1]), of_steps, of_steps)
    )


@each_layer
def test_exported(name):
    layer = made(name).eval()
    module = exported(layer).module()
    for n, steps in ((B, L), (2 * B, 7), (2, 3)):
        given = arguments(layer, n, steps)
        torch.testing.assert_close(flat(module(*given)), flat(layer(*given)))


class OutputAlone(torch.nn.Module):
    """A layer, for tools that take no None as a result."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, h):
        return self.layer(h)[0]


@pytest.mark.filterwarnings("ignore:`torch.jit.trace:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@each_layer
def test_the_output_is_traced(name):
    layer = made(name).eval()
    traced = torch.jit.trace(OutputAlone(layer), torch.randn(B, L, d_model, dtype=torch.double))
    for n, steps in ((B, L), (2, 7)):
        h = torch.randn(n, steps, d_model, dtype=torch.double)
        torch.testing.assert_close(traced(h), layer(h)[0])


@pytest.fixture(scope="module")
def all_layers():
    """Every layer of the table and its arguments, by name."""
    torch.manual_seed(0)
    layers = {name: made(name).eval() for name in MAKERS}
    return {name: (layer, arguments(layer)) for name, layer in layers.items()}


@pytest.fixture(scope="module")
def loaded_elsewhere(all_layers, tmp_path_factory):
    """What another process finds that loads the programs of all layers, by name."""
    programs = [exported(layer) for layer, _ in all_layers.values()]
    given = [given for _, given in all_layers.values()]
    results = by_another_process(programs, given, tmp_path_factory.mktemp("programs"))
    return dict(zip(all_layers, results, strict=True))


@pytest.fixture(scope="module")
def packaged(all_layers, tmp_path_factory):
    """The results of all layers as one package, by name."""
    results = compiled_ahead(*zip(*all_layers.values(), strict=True), tmp_path_factory.mktemp("package"))
    return dict(zip(all_layers, results, strict=True))


@each_layer
def test_an_exported_program_is_saved_and_loaded_by_another_process(name, all_layers, loaded_elsewhere):
    layer, given = all_layers[name]
    torch.testing.assert_close(flat(loaded_elsewhere[name]), flat(layer(*given)))


@pytest.mark.filterwarnings(
    "ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"
)  # torch's own
@each_layer
def test_compiled_ahead_by_inductor_packaged_and_loaded(name, all_layers, packaged):
    layer, given = all_layers[name]
    torch.testing.assert_close(flat(packaged[name]), flat(layer(*given)))
