"""Every transform of torch through every layer, with state, reset and mask."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.func import functional_call, grad, jacrev, stack_module_state, vjp, vmap
from torch.utils.checkpoint import checkpoint

from tests.nn.layers import MAKERS, B, L, arguments, d_model, made
from tests.nn.loops import by_loop, flat

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


@each_layer
def test_compiled_as_one_graph_for_several_sizes(name):
    torch.compiler.reset()
    layer = made(name)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=True)
    for count in (B, 2 * B):
        given = arguments(layer, count)
        results = compiled(*given)
        torch.testing.assert_close(flat(results), flat(by_loop(layer, *given)))
        parameters = dict(layer.named_parameters())
        got = torch.autograd.grad(
            loss(results), list(parameters.values()), allow_unused=True, materialize_grads=True
        )
        torch.testing.assert_close(
            dict(zip(parameters, got, strict=True)), expected_gradients(layer, given)
        )


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


@each_layer
def test_exported(name):
    layer = made(name).eval()
    given = arguments(layer)
    count = torch.export.Dim("count", min=2, max=64)
    states = given[1]
    of_state = {0: count} if isinstance(states, torch.Tensor) else None
    if isinstance(states, tuple):
        of_state = tuple(None if s is None else {0: count} for s in states)
    shapes = ({0: count}, of_state, {0: count}, {0: count})
    program = torch.export.export(layer, given, dynamic_shapes=shapes)
    for n in (B, 2 * B):
        given = arguments(layer, n)
        torch.testing.assert_close(flat(program.module()(*given)), flat(layer(*given)))
