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
each_carrying_core = pytest.mark.parametrize("core", CARRYING)


class Unroll(NamedTuple):
    frames: Tensor
    rewards: Tensor
    dones: Tensor

    def __getitem__(self, steps):  # of a slice of steps
        return Unroll(*(field[:, steps] for field in (self.frames, self.rewards, self.dones)))


def small(core: str, **options) -> Agent:
    torch.manual_seed(0)
    sizes = {"channels": (4, 4), "n_features": 16, "n_heads": 2, "d_model": 16, "d_ff": 24, "lstm_size": 16}
    return build_agent(core=core, frame_shape=FRAME, n_actions=ACTIONS, **{**sizes, **options})


def unroll(ends: bool = True, length: int = L, seed: int = 1) -> Unroll:
    """Of sequences that begin an episode at once, within, twice in a row and at the end; and never."""
    generator = torch.Generator().manual_seed(seed)
    dones = torch.zeros(B, length, dtype=torch.bool)
    if ends:
        dones[0, [0, 5]] = True
        dones[1, [3, 4]] = True
        dones[2, [2, length - 1]] = True
    return Unroll(
        torch.randint(0, 256, (B, length, *FRAME), dtype=torch.uint8, generator=generator),
        2 * torch.rand(B, length, generator=generator) - 1,
        dones,
    )


def in_the_middle_of_an_episode(agent: Agent) -> list[Tensor]:
    """States after some steps."""
    with torch.no_grad():
        return agent(*unroll(False, 7, seed=2))[1]


def step_by_step(agent: Agent, seen: Unroll, states: list[Tensor] | None):
    outputs = []
    for t in range(seen.dones.shape[1]):
        output, states = agent(*seen[t : t + 1], states)
        assert output.logits.shape[:2] == (B, 1)
        assert output.values.shape == (B, 1)
        outputs.append(output)
    return tuple(torch.cat(parts, 1) for parts in zip(*outputs, strict=True)), states


@each_core
@pytest.mark.parametrize("begin", ["at once", "initial_state", "in the middle"])
@pytest.mark.parametrize("ends", [False, True])
def test_one_call_per_unroll_equals_one_call_per_step(core, begin, ends):
    agent = small(core, input_gain=1.0 if core == "feedforward" else 5.0)
    states = {
        "at once": lambda: None,
        "initial_state": lambda: agent.initial_state(B),
        "in the middle": lambda: in_the_middle_of_an_episode(agent),
    }[begin]()
    seen = unroll(ends)
    with torch.no_grad():
        stepped, last = step_by_step(agent, seen, states)
        whole, final = agent(*seen, states)
    torch.testing.assert_close(tuple(whole), stepped, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(final, last, rtol=1e-5, atol=1e-5)
    assert len(final) == agent.core.n_states


@each_core
def test_so_it_does_at_the_published_size(core):
    """Layers, heads and unroll as published, in single precision."""
    torch.manual_seed(0)
    agent = build_agent(core=core, frame_shape=FRAME, n_actions=15, channels=(4, 4))
    seen = unroll(length=51)
    with torch.no_grad():
        stepped, last = step_by_step(agent, seen, agent.initial_state(B))
        whole, final = agent(*seen, agent.initial_state(B))
    torch.testing.assert_close(tuple(whole), stepped, rtol=0, atol=1e-5)
    torch.testing.assert_close(final, last, rtol=1e-5, atol=1e-5)


@each_core
def test_an_episode_is_the_same_alone_and_after_another(core):
    agent = small(core).double()
    seen = unroll()
    states = [state.double() for state in in_the_middle_of_an_episode(agent)]
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


@each_core
def test_what_is_carried_matters_to_those_that_carry(core):
    agent, seen = small(core), unroll(False)
    with torch.no_grad():
        fresh, _ = agent(*seen)
        carried, _ = agent(*seen, in_the_middle_of_an_episode(agent))
    differs = (fresh.logits - carried.logits).abs().amax((-1, 1))
    assert (differs > 1e-7).all() if core in CARRYING else not differs.any()


@each_core
def test_the_reward_is_an_input_and_clamped(core):
    agent, seen = small(core), unroll(False)
    ones, large, twice = (
        agent(seen.frames, torch.full((B, L), reward), seen.dones)[0].logits
        for reward in (1.0, 30.0, -30.0)
    )
    torch.testing.assert_close(ones, large, rtol=0, atol=0)
    minus, _ = agent(seen.frames, torch.full((B, L), -1.0), seen.dones)
    torch.testing.assert_close(minus.logits, twice, rtol=0, atol=0)
    assert (ones - twice).abs().amax((-1, -2)).min() > 1e-4


@each_carrying_core
def test_no_gradient_passes_an_episodes_end(core):
    agent = small(core).double()
    seen = unroll()
    seen = seen._replace(rewards=seen.rewards.double().requires_grad_())
    states = [state.requires_grad_() for state in in_the_middle_of_an_episode(agent)]
    output, _ = agent(*seen, states)
    for b in range(B):
        for t in (0, 4, L - 1):
            g_rewards, *g_states = torch.autograd.grad(
                output.logits[b, t].sum(), [seen.rewards, *states], retain_graph=True
            )
            ends = [s for s in range(t + 1) if seen.dones[b, s]]
            first = ends[-1] if ends else 0
            assert not g_rewards[b, :first].any()
            assert not g_rewards[b, t + 1 :].any()
            assert (g_rewards[b, first : t + 1] != 0).all()
            for state in g_states:
                assert not state[torch.arange(B) != b].any()
                assert state[b].any() == (not ends)


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
    cut = torch.autograd.grad([*output, *last], wanted, cotangents, allow_unused=True)
    chain = torch.autograd.grad([*by_hand, *by_hand_last], wanted, cotangents, allow_unused=True)
    for gradient, expected in zip(cut, chain, strict=True):
        assert (gradient is None) == (expected is None)
        if gradient is not None:
            torch.testing.assert_close(gradient, expected)


@each_carrying_core
def test_truncation_changes_gradients_and_nothing_else(core):
    agent = small(core).double()
    seen, states = unroll(), in_the_middle_of_an_episode(agent)
    whole, final = agent(*seen, states)
    for bptt in (1, 5):
        cut, last = agent(*seen, states, bptt=bptt)
        torch.testing.assert_close((tuple(cut), last), (tuple(whole), final))
    full, cut = (gradients(agent, bptt=bptt) for bptt in (None, 5))
    assert any((full[name] - cut[name]).abs().max() > 1e-9 for name in full)
    exact = gradients(agent, bptt=L)
    for name, gradient in full.items():
        torch.testing.assert_close(exact[name], gradient)


@each_core
def test_states_are_returned_only_where_wanted(core):
    agent, seen = small(core), unroll()
    for bptt in (None, 5):
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
    for head, expected in zip(output, by_hand, strict=True):  # each teaches the encoder
        cotangent = torch.randn_like(head)
        torch.testing.assert_close(
            torch.autograd.grad(head, list(agent.encoder.parameters()), cotangent, retain_graph=True),
            torch.autograd.grad(expected, list(agent.encoder.parameters()), cotangent, retain_graph=True),
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


def test_agents_refuse_what_does_not_fit():
    agent, seen = small("srwm"), unroll()
    frames, rewards, dones = seen.frames, seen.rewards, seen.dones
    with pytest.raises(ValueError, match=r"Agent: frames must be \(B, L, C, H, W\) .*got \(4, 2, 5, 4\)"):
        agent(frames[:, 0], rewards, dones)
    with pytest.raises(ValueError, match=r"Agent: frames must be .*L >= 1, got \(4, 0, 2, 5, 4\)"):
        agent(*seen[:0])
    with pytest.raises(TypeError, match="ImpalaEncoder: frames must be uint8"):
        agent(frames.float(), rewards, dones)
    with pytest.raises(ValueError, match=r"Agent: rewards must be \(B, L\) = \(4, 12\) .*, got \(4, 11\)"):
        agent(frames, rewards[:, 1:], dones)
    with pytest.raises(ValueError, match=r"Agent: dones must be \(B, L\) = \(4, 12\) .*, got \(12, 4\)"):
        agent(frames, rewards, dones.T)
    with pytest.raises(TypeError, match=r"Agent: dones must be bool, got torch.float32"):
        agent(frames, rewards, dones.float())
    with pytest.raises(ValueError, match=r"Agent: states must be 2 tensors \(B = 4, ...\), got \[\]; pass"):
        agent(frames, rewards, dones, [])
    with pytest.raises(ValueError, match=r"Agent: states must be 2 tensors \(B = 4, ...\), got \[\(3, "):
        agent(frames, rewards, dones, agent.initial_state(3))
    with pytest.raises(ValueError, match=r"Agent: bptt must be at least 1, or None .*, got 0"):
        agent(frames, rewards, dones, bptt=0)
    with pytest.raises(ValueError, match=r"Agent: core must read .* 17 entries, got one that reads 16"):
        Agent(ImpalaEncoder(FRAME, n_features=16), build_core("lstm", 16), ACTIONS)
