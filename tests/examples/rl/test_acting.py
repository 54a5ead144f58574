import numpy as np
import pytest
import torch

from examples.rl.acting import RandomPolicy, act, gumbel_noise
from tests.examples.rl.fakes import FakeEnvironment, fake_agent


def test_acting_is_a_call_of_one_step():
    agent, environment = fake_agent(), FakeEnvironment(3)
    environment.reset()
    states = [torch.randn_like(state) for state in agent.initial_state(3)]
    step = environment.step(np.zeros(3, np.int64))
    seen = (step.frame, step.reward, step.done)
    acted = act(agent, *seen, states)
    with torch.no_grad():
        output, after = agent(*(torch.from_numpy(part)[:, None] for part in seen), states)
    torch.testing.assert_close(acted.logits, output.logits[:, 0].float())
    torch.testing.assert_close(acted.values, output.values[:, 0].float())
    torch.testing.assert_close(acted.states, after)
    assert torch.equal(acted.actions, acted.logits.argmax(-1))
    assert acted.actions.dtype == torch.int64
    assert not any(part.requires_grad for part in (acted.logits, acted.values, *acted.states))
    noise = 100 * torch.eye(4)[[2, 2, 2]]
    drawn = act(agent, *seen, states, noise)
    assert drawn.actions.tolist() == [2, 2, 2]
    assert torch.equal(drawn.logits, acted.logits), "the noise is no part of the policy"


@pytest.mark.parametrize("logits", [[0.0, 1.5, -1.0, float("-inf")], None])
def test_the_largest_of_noisy_logits_is_a_sample_of_their_softmax(logits):
    """Those of a policy that acts at random are all the same."""
    count = 20_000
    noise = gumbel_noise((count, 4), 1, 2)
    if logits is None:
        frame, zeros = torch.zeros(count, 1, 4, 4, dtype=torch.uint8), torch.zeros(count)
        acted = act(RandomPolicy(4), frame, zeros + 1, zeros > 0, [], noise)
        assert not acted.values.any()
        drawn, expected = acted.actions, torch.ones(4) / 4
    else:
        drawn, expected = (torch.tensor(logits) + noise).argmax(-1), torch.tensor(logits).softmax(-1)
    shares = drawn.bincount(minlength=4) / count
    assert ((shares - expected).abs() <= 4 * (expected * (1 - expected) / count).sqrt()).all()


def test_noise_is_a_function_of_its_key():
    one = gumbel_noise((3, 4), 5, 6)
    assert one.dtype == torch.float64
    assert torch.equal(one, gumbel_noise((3, 4), 5, 6))
    for key in ((6, 5), (5, 7)):
        assert not torch.equal(one, gumbel_noise((3, 4), *key))
