"""Acting a step at a time, learning an unroll at a time: the same agent, and what of it learns."""

from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

import srwm
from examples.rl.agent import Agent
from examples.rl.settings import Settings
from examples.rl.train import make_agent

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


def made(**options) -> Agent:
    return make_agent(Settings(**options), SimpleNamespace(frame_shape=FRAME, n_actions=ACTIONS))


def small(core: str, **options) -> Agent:
    torch.manual_seed(0)
    return made(core=core, **{**SMALL, **options})


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
@pytest.mark.parametrize("size", ["small", "published"])
def test_an_unroll_at_once_is_step_by_step(core, size):
    """Where an episode begins, what is carried is forgotten; and no gradient passes its end."""
    if size == "small":
        agent, seen = small(core, input_gain=1.0 if core == "feedforward" else 5.0).double(), unroll()
    else:  # in single precision, as it is trained
        torch.manual_seed(0)
        agent, seen = made(core=core, channels=(4, 4)), unroll(length=51)
    seen = seen._replace(rewards=seen.rewards.requires_grad_())
    states = [state.requires_grad_() for state in in_the_middle_of_an_episode(agent)]
    whole, final = agent(*seen, states)
    assert len(final) == agent.core.n_states
    outputs, carried = [], states
    for t in range(seen.dones.shape[1]):
        step = seen[t : t + 1]
        kept = (~step.dones[:, 0]).to(carried[0].dtype) if carried else None
        carried = [torch.einsum("b,b...->b...", kept, state) for state in carried]
        output, carried = agent(*step._replace(dones=step.dones & False), carried)
        outputs.append(output)
    stepped = [torch.cat(parts, 1) for parts in zip(*outputs, strict=True)]
    found, expected = [*whole, *final], [*stepped, *carried]
    torch.testing.assert_close(found, expected, **({} if size == "small" else {"rtol": 1e-5, "atol": 1e-5}))
    if size == "small":
        wanted = [seen.rewards, *states, *agent.parameters()]
        cotangents = [torch.randn_like(result) for result in found]
        torch.testing.assert_close(
            *(torch.autograd.grad(results, wanted, cotangents) for results in (found, expected))
        )


@torch.no_grad()
def test_rewards_are_clamped():
    agent, seen = small("srwm"), unroll(False)
    one, large, minus, smaller = (
        agent(seen.frames, torch.full((B, L), reward), seen.dones)[0].logits
        for reward in (1.0, 30.0, -1.0, -30.0)
    )
    assert torch.equal(one, large)
    assert torch.equal(minus, smaller)
    assert (one - minus).abs().amax((-1, -2)).min() > 1e-4


@pytest.mark.parametrize(
    ("core", "bptt", "learns"),
    [
        *((core, bptt, bptt != 1) for core in ("srwm", "sr_delta") for bptt in (None, 2, L, 1)),
        *(("srwm_no_carry", bptt, False) for bptt in (None, 1)),
    ],
)
def test_queries_keys_and_rates_learn_only_through_later_steps(core, bptt, learns):
    """Of a loss on logits and values, after an unroll that begins within an episode."""
    agent = small(core, input_gain=5.0)
    output, _ = agent(*unroll(), in_the_middle_of_an_episode(agent), bptt=bptt, return_states=False)
    (output.logits.square().sum() + output.values.sum()).backward()
    for name, parameter in agent.named_parameters():
        if name.endswith(".W"):
            g_y, g_q, g_k, g_beta = srwm.unpack(parameter.grad)
            assert g_y.abs().amax((-1, -2)).min() > 1e-6
            for block in (g_q, g_k, g_beta):
                assert block.abs().amax((-1, -2)).min() > 1e-9 if learns else not block.any(), name
        else:
            assert parameter.grad.abs().max() > 1e-7, name


@each_core
@pytest.mark.parametrize("bptt", [1, 5, L, 100])
def test_truncation_is_a_chain_of_detached_segments(core, bptt):
    agent = small(core).double()
    seen = unroll()
    seen = seen._replace(rewards=seen.rewards.double().requires_grad_())
    states = [state.requires_grad_() for state in in_the_middle_of_an_episode(agent)]
    output, last = agent(*seen, states, bptt=bptt)
    alone, none = agent(*seen, states, bptt=bptt, return_states=False)
    assert none == [], "states are returned only where they are wanted"
    torch.testing.assert_close(tuple(alone), tuple(output))
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f, r, d: (f[:, 0], r, d), r"\(4, 2, 5, 4\), got \(4, 12\) and \(4, 12\)"),
        (lambda f, r, d: (f, r[:, 1:], d), r"\(4, 12, 2, 5, 4\), got \(4, 11\) and \(4, 12\)"),
        (lambda f, r, d: (f, r, d.T), r"\(4, 12, 2, 5, 4\), got \(4, 12\) and \(12, 4\)"),
    ],
)
def test_agents_refuse_what_does_not_fit(change, message):
    with pytest.raises(ValueError, match=message):
        small("srwm")(*change(*unroll()))
