"""`Stack`: called like a layer, its state a tuple."""

from __future__ import annotations

import torch

from srwm.nn import SRWM, DeltaNet, FeedForward, Stack
from tests.nn.loops import assert_same, by_loop, random_state, randomised

d_model, H = 6, 2


def test_a_stack_is_its_layers_one_after_the_other():
    torch.manual_seed(0)
    first, block, last = SRWM(d_model, H), FeedForward(d_model, 5), DeltaNet(d_model, H)
    stack = Stack([first, block, last])
    h, reset, mask = torch.randn(3, 5, d_model), torch.rand(3, 5) < 0.3, torch.rand(3, 5) < 0.7
    states = stack.initial_state(3)
    a, of_first = first(h, states[0], reset, mask)
    b, _ = block(a, None, reset, mask)
    c, of_last = last(b, states[2], reset, mask)
    out, state = stack(h, states, reset, mask)
    assert isinstance(state, tuple)
    torch.testing.assert_close((out, state[0], state[2]), (c, of_first, of_last))
    assert state[1] is None
    assert stack(h, list(states))[1][1] is None
    assert next(iter(stack.state_dict())) == "layers.0.W"


def test_stacks_of_stacks():
    torch.manual_seed(0)
    inner = Stack([DeltaNet(d_model, H), FeedForward(d_model, 5)])
    stack = randomised(Stack([SRWM(d_model, H, residual="none", d_out=d_model), inner]))
    h = torch.randn(2, 4, d_model, dtype=torch.double, requires_grad=True)
    mask = torch.tensor([[False, True, True, True], [True, True, False, True]])
    state, reset = random_state(stack, 2), torch.rand(2, 4) < 0.3
    assert [type(own) for own in state] == [torch.Tensor, tuple]
    results = stack(h, state, reset, mask)
    wanted = [h, state[0], state[1][0], *stack.parameters()]
    assert_same(results, by_loop(stack, h, state, reset, mask), wanted)


def test_a_state_of_some_layers_alone_lets_the_others_begin():
    torch.manual_seed(0)
    stack = Stack([SRWM(d_model, H), DeltaNet(d_model, H)])
    h = torch.randn(2, 4, d_model)
    _, (own, _) = stack(h)
    torch.testing.assert_close(stack(h, (own, None)), stack(h, (own, stack.initial_state(2)[1])))


def test_parameters_are_drawn_anew_in_every_layer():
    torch.manual_seed(0)
    stack = Stack([SRWM(d_model, H), FeedForward(d_model, 5), DeltaNet(d_model, H)])
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter.fill_(7)
    stack.reset_parameters()
    assert not any((parameter == 7).any() for parameter in stack.parameters())
