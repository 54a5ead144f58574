"""Acting a step at a time, learning an unroll at a time: the same agent, and what of it learns."""

from itertools import pairwise
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

import srwm
from examples.rl.agent import Agent, build_agent
from examples.rl.cores import build_core
from examples.rl.encoder import ImpalaEncoder

B, L, ACTIONS = 4, 12, 3
FRAME = (2, 5, 4)
PROGRAMMED = ("deltanet", "linear", "recurrent_delta", "delta_rnn", "delta_delta", "delta_cde")
CORES = ("feedforward", "lstm", "deeper", "srwm", "srwm_no_carry", "fake_sr", "sr_delta", *PROGRAMMED)
CARRYING = ("lstm", "srwm", "sr_delta", *PROGRAMMED)
each_core = pytest.mark.parametrize("core", CORES)
SMALL = {"channels": (4, 4), "n_features": 16, "n_heads": 2, "d_model": 16, "d_ff": 24, "lstm_size": 16}


class Unroll(NamedTuple):
    frames: Tensor
    rewards: Tensor
    dones: Tensor

    def __getitem__(self, steps):  # of a slice of steps
        return Unroll(*(field[:, steps] for field in (self.frames, self.rewards, self.dones)))


def small(core: str, **options) -> Agent:
    torch.manual_seed(0)
    return build_agent(core=core, frame_shape=FRAME, n_actions=ACTIONS, **{**SMALL, **options})


def unroll(ends: bool = True, length: int = L, seed: int = 1) -> Unroll:
    """Of sequences that begin an episode at once, within, twice in a row and at the end; and never."""
    generator = torch.Generator().manual_seed(seed)
    dones = torch.zeros(B, length, dtype=torch.bool)
    if ends:
        dones[0, [0, 5]] = dones[1, [3, 4]] = dones[2, [2, length - 1]] = True
    return Unroll(
        torch.randint(0, 256, (B, length, *FRAME), dtype=torch.uint8, generator=generator),
        2 * torch.rand(B, length, generator=generator) - 1,
        dones,
    )


def in_the_middle_of_an_episode(agent: Agent) -> list[Tensor]:
    """States after some steps."""
    with torch.no_grad():
        return agent(*unroll(False, 7, seed=2))[1]


@each_core
@pytest.mark.parametrize("case", ["fresh", "in the middle", "at the published size"])
@torch.no_grad()
def test_one_call_per_unroll_equals_one_call_per_step(core, case):
    """In single precision, as it is trained."""
    torch.manual_seed(0)
    if case == "at the published size":
        agent = build_agent(core=core, frame_shape=FRAME, channels=(4, 4))
        seen = unroll(length=51)
    else:
        agent, seen = small(core, input_gain=1.0 if core == "feedforward" else 5.0), unroll()
    states = in_the_middle_of_an_episode(agent) if case == "in the middle" else agent.initial_state(B)
    whole, final = agent(*seen, states if case == "in the middle" else None)
    outputs = []
    for t in range(seen.dones.shape[1]):
        output, states = agent(*seen[t : t + 1], states)
        outputs.append(output)
    assert whole.values.shape == seen.dones.shape
    stepped = tuple(torch.cat(parts, 1) for parts in zip(*outputs, strict=True))
    torch.testing.assert_close(tuple(whole), stepped, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(final, states, rtol=1e-5, atol=1e-5)
    assert len(final) == agent.core.n_states


@each_core
def test_an_episode_is_the_same_alone_and_after_another(core):
    agent = small(core).double()
    seen = unroll()
    seen = seen._replace(rewards=seen.rewards.double().requires_grad_())
    states = [state.requires_grad_() for state in in_the_middle_of_an_episode(agent)]
    whole, final = agent(*seen, states)
    for b in range(B):
        begins = [0, *(t for t in range(1, L) if seen.dones[b, t]), L]
        for first, end in pairwise(begins):
            own = states if first == 0 else agent.initial_state(B)
            alone, last = agent(*seen[first:end], own)
            torch.testing.assert_close(whole.logits[b, first:end], alone.logits[b])
            torch.testing.assert_close(whole.values[b, first:end], alone.values[b])
        for state, of_last in zip(final, last, strict=True):
            torch.testing.assert_close(state[b], of_last[b])
    for b in range(B * (core in CARRYING)):  # and no gradient passes an episode's end
        wanted = [seen.rewards, *states]
        g_rewards, *g_states = torch.autograd.grad(whole.logits[b, -1].sum(), wanted, retain_graph=True)
        ends = seen.dones[b].nonzero()
        first = int(ends[-1]) if len(ends) else 0
        assert not g_rewards[b, :first].any()
        assert (g_rewards[b, first:] != 0).all()
        for state in g_states:
            assert not state[torch.arange(B) != b].any()
            assert state[b].any() == (not len(ends))


@each_core
@torch.no_grad()
def test_what_matters_to_it(core):
    """What is carried, to those that carry; the reward, clamped."""
    agent, seen = small(core), unroll(False)
    fresh, _ = agent(*seen)
    carried, _ = agent(*seen, in_the_middle_of_an_episode(agent))
    differs = (fresh.logits - carried.logits).abs().amax((-1, 1))
    assert (differs > 1e-7).all() if core in CARRYING else not differs.any()
    one, large, minus, smaller = (
        agent(seen.frames, torch.full((B, L), reward), seen.dones)[0].logits
        for reward in (1.0, 30.0, -1.0, -30.0)
    )
    assert torch.equal(one, large)
    assert torch.equal(minus, smaller)
    assert (one - minus).abs().amax((-1, -2)).min() > 1e-4


def gradients(agent: Agent, **options) -> dict[str, Tensor]:
    """Of a loss on logits and values after an unroll that begins within an episode."""
    agent.zero_grad(set_to_none=True)
    output, _ = agent(*unroll(), in_the_middle_of_an_episode(agent), return_states=False, **options)
    (output.logits.square().sum() + output.values.sum()).backward()
    return {name: parameter.grad for name, parameter in agent.named_parameters()}


@pytest.mark.parametrize("core", ["srwm", "sr_delta"])
@pytest.mark.parametrize(("bptt", "learns"), [(None, True), (2, True), (L, True), (1, False)])
def test_queries_keys_and_rates_learn_only_through_later_steps(core, bptt, learns):
    agent = small(core, input_gain=5.0)
    for name, gradient in gradients(agent, bptt=bptt).items():
        if name.endswith(".W"):
            g_y, g_q, g_k, g_beta = srwm.unpack(gradient)
            assert g_y.abs().amax((-1, -2)).min() > 1e-6
            for block in (g_q, g_k, g_beta):
                assert block.abs().amax((-1, -2)).min() > 1e-9 if learns else not block.any(), name
        else:
            assert gradient.abs().max() > 1e-7, name


@pytest.mark.parametrize("bptt", [None, 1])
def test_without_carry_queries_keys_and_rates_never_learn(bptt):
    for name, gradient in gradients(small("srwm_no_carry"), bptt=bptt).items():
        if name.endswith(".W"):
            g_y, *rest = srwm.unpack(gradient)
            assert g_y.abs().max() > 1e-6
            assert not any(block.any() for block in rest)


@each_core
@pytest.mark.parametrize("bptt", [1, 5, L, 100])
def test_truncation_is_a_chain_of_detached_segments(core, bptt):
    agent = small(core).double()
    seen = unroll()
    seen = seen._replace(rewards=seen.rewards.double().requires_grad_())
    states = [state.requires_grad_() for state in in_the_middle_of_an_episode(agent)]
    output, last = agent(*seen, states, bptt=bptt)
    parts, carried = [], states
    for first in range(0, L, bptt):
        part, carried = agent(*seen[first : first + bptt], carried)
        parts.append(part)
        by_hand_last, carried = carried, [state.detach() for state in carried]
    by_hand = [torch.cat(pieces, 1) for pieces in zip(*parts, strict=True)]
    torch.testing.assert_close([*output, *last], [*by_hand, *by_hand_last])
    wanted = [seen.rewards, *states, *agent.parameters()]
    cotangents = [torch.randn_like(result) for result in (*output, *last)]
    whole, final = agent(*seen, states)
    cut, chain, full = (
        torch.autograd.grad(results, wanted, cotangents, allow_unused=True, materialize_grads=True)
        for results in ([*output, *last], [*by_hand, *by_hand_last], [*whole, *final])
    )
    torch.testing.assert_close(cut, chain)
    differs = any((one - other).abs().max() > 1e-9 for one, other in zip(cut, full, strict=True))
    assert differs == (core in CARRYING and bptt < L)


@each_core
@pytest.mark.parametrize("bptt", [None, 5])
def test_states_are_returned_only_where_wanted(core, bptt):
    agent, seen = small(core), unroll()
    whole, _ = agent(*seen, bptt=bptt)
    alone, none = agent(*seen, bptt=bptt, return_states=False)
    assert none == []
    torch.testing.assert_close(tuple(alone), tuple(whole))


def test_the_heads_are_linear_maps_of_the_cores_outputs():
    agent, seen = small("feedforward"), unroll()
    frames = seen.frames.reshape(B * L, *FRAME)
    inputs = torch.cat([agent.encoder(frames), seen.rewards.reshape(-1, 1)], 1)
    output, _ = agent(*seen)
    by_hand = agent.policy(inputs).reshape(B, L, ACTIONS), agent.value(inputs).reshape(B, L)
    torch.testing.assert_close(tuple(output), by_hand)
    wanted = list(agent.encoder.parameters())
    for head, expected in zip(output, by_hand, strict=True):  # each teaches the encoder
        cotangent = torch.randn_like(head)
        found = torch.autograd.grad(head, wanted, cotangent, retain_graph=True)
        torch.testing.assert_close(
            found, torch.autograd.grad(expected, wanted, cotangent, retain_graph=True)
        )


def test_initial_weights_are_the_defaults_of_torch():
    """Uniform below 1 / sqrt(fan_in), as published; W from N(0, 1 / D) is tested with its layer."""
    agent = build_agent(core="lstm")
    for module in agent.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            bound = module.weight[0].numel() ** -0.5
            assert 0.9 * bound < module.weight.abs().max() <= bound
            assert module.bias.abs().max() <= bound
    assert 0.99 / 16 < agent.core.lstm.weight_hh_l0.abs().max() <= 1 / 16


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda f, r, d: (f[:, 0], r, d), ValueError, r"frames must be \(B, L, .*got \(4, 2, 5, 4\)"),
        (lambda f, r, d: (f[:, :0], r, d), ValueError, r"frames must be .*L >= 1, got \(4, 0, 2, 5, 4\)"),
        (lambda f, r, d: (f.float(), r, d), TypeError, "frames must be uint8"),
        (lambda f, r, d: (f, r[:, 1:], d), ValueError, r"rewards must be .* \(4, 12\).*got \(4, 11\)"),
        (lambda f, r, d: (f, r, d.T), ValueError, r"dones must be \(B, L\) = \(4, 12\).*got \(12, 4\)"),
        (lambda f, r, d: (f, r, d.float()), TypeError, "dones must be bool, got torch.float32"),
        (lambda *seen: (*seen, []), ValueError, r"states must be 2 tensors \(B = 4, ...\), got \[\]; pass"),
        (lambda *seen: (*seen, [torch.zeros(3, 1)] * 2), ValueError, r"states must be 2 .*got \[\(3, "),
    ],
)  # fmt: skip
def test_agents_refuse_what_does_not_fit(change, error, message):
    with pytest.raises(error, match=message):
        small("srwm")(*change(*unroll()))


def test_agents_refuse_numbers_that_do_not_fit():
    with pytest.raises(ValueError, match=r"Agent: bptt must be at least 1, or None .*, got 0"):
        small("srwm")(*unroll(), bptt=0)
    with pytest.raises(ValueError, match=r"Agent: core must read .* 17 entries, got one that reads 16"):
        Agent(ImpalaEncoder(FRAME, n_features=16), build_core("lstm", 16), ACTIONS)
