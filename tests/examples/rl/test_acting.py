import numpy as np
import torch

from examples.rl.acting import act, gumbel_noise
from tests.examples.rl.fakes import FakeEnvironment, fake_agent


def test_acting_is_a_call_of_one_step():
    agent, environment = fake_agent(), FakeEnvironment(3)
    step = environment.reset()
    states = [torch.randn(3, 8, dtype=torch.float64)]
    step = environment.step(np.zeros(3, np.int64))
    acted = act(agent, step.frame, step.reward, step.done, states)
    frames, rewards, dones = (
        torch.from_numpy(part)[:, None] for part in (step.frame, step.reward, step.done)
    )
    output, after = agent(frames, rewards, dones, states)
    torch.testing.assert_close(acted.logits, output.logits[:, 0].detach().float())
    torch.testing.assert_close(acted.values, output.values[:, 0].detach().float())
    torch.testing.assert_close(acted.states, [state.detach() for state in after])
    assert torch.equal(acted.actions, acted.logits.argmax(-1))
    assert acted.actions.dtype == torch.int64
    assert not any(part.requires_grad for part in (acted.logits, acted.values, *acted.states))


def test_noise_turns_the_most_probable_action_into_a_drawn_one():
    agent, step = fake_agent(), FakeEnvironment(3).reset()
    noise = torch.zeros(3, 4)
    noise[:, 2] = 100
    acted = act(agent, step.frame, step.reward, step.done, agent.initial_state(3), noise)
    assert acted.actions.tolist() == [2, 2, 2]
    assert not (acted.logits > 50).any(), "the noise is no part of the policy"


def test_the_largest_of_noisy_logits_is_a_sample_of_their_softmax():
    count = 20_000
    logits = torch.tensor([0.0, 1.5, -1.0, float("-inf")], dtype=torch.float64)
    drawn = (logits + gumbel_noise((count, 4), 1, 2)).argmax(-1)
    expected = logits.softmax(-1)
    shares = drawn.bincount(minlength=4) / count
    assert ((shares - expected).abs() <= 4 * (expected * (1 - expected) / count).sqrt()).all()


def test_noise_is_a_function_of_its_key():
    one = gumbel_noise((3, 4), 5, 6)
    assert one.dtype == torch.float64
    assert torch.equal(one, gumbel_noise((3, 4), 5, 6))
    assert not torch.equal(one, gumbel_noise((3, 4), 6, 5))
    assert not torch.equal(one, gumbel_noise((3, 4), 5, 7))
