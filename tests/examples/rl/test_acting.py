import itertools

import numpy as np
import pytest
import torch

from examples.rl.acting import RandomPolicy, act, gumbel_noise, play_episodes
from tests.examples.rl.fakes import FakeEnvironment, decided_agent


@pytest.mark.parametrize("logits", [[0.0, 1.5, -1.0, float("-inf")], None])
def test_the_largest_of_noisy_logits_is_a_sample_of_their_softmax(logits):
    """Those of a policy that acts at random are all the same."""
    count = 20_000
    noise = gumbel_noise((count, 4), 1, 2)
    assert not torch.equal(noise, gumbel_noise((count, 4), 2, 1)), "another key, the same noise"
    if logits is None:
        frame, zeros = torch.zeros(count, 1, 4, 4, dtype=torch.uint8), torch.zeros(count)
        acted = act(RandomPolicy(4), frame, zeros + 1, zeros > 0, [], noise)
        assert not acted.values.any()
        drawn, expected = acted.actions, torch.ones(4) / 4
    else:
        drawn, expected = (torch.tensor(logits) + noise).argmax(-1), torch.tensor(logits).softmax(-1)
    shares = drawn.bincount(minlength=4) / count
    assert ((shares - expected).abs() <= 4 * (expected * (1 - expected) / count).sqrt()).all()


def by_hand(count: int, environment: int, *, greedy: bool, seed: int, rows: int) -> list:
    """Returns and lengths of an environment's first episodes, by an agent that plays them alone."""
    agent, alone = decided_agent(), FakeEnvironment(1, environment)
    found, states = [], agent.initial_state(1)
    step, t = alone.reset(), 0
    while len(found) < count:
        if step.done[0]:
            total, length = 0.0, 0
        seen = (torch.from_numpy(part)[None] for part in (step.frame, step.reward, step.done))
        output, states = agent(*seen, states)
        scores = output.logits[0].float().double()
        if not greedy:
            scores = scores + gumbel_noise((rows, 4), seed, t)[environment]
        step = alone.step(scores.argmax(-1).numpy())
        total, length, t = total + float(step.reward[0]), length + 1, t + 1
        if step.done[0]:
            found.append((total, length))
    return found


@pytest.mark.parametrize(("greedy", "seed"), [(True, 3), (False, 3), (False, 4)])
def test_each_environment_plays_its_first_episodes_as_if_alone(greedy, seed):
    """14 episodes in 4 environments: 4, 4, 3 and 3, with states that are carried within each alone."""
    agent, environment, told = decided_agent().train(), FakeEnvironment(4), []
    episodes = play_episodes(agent, environment, 14, greedy=greedy, seed=seed, tell=told.append)
    assert not agent.training
    with torch.no_grad():
        each = [by_hand(n, row, greedy=greedy, seed=seed, rows=4) for row, n in enumerate((4, 4, 3, 3))]
    expected = [*itertools.chain(*each)]
    assert list(zip(*episodes, strict=True)) == expected
    assert sum(told) == 14
    longest = max(sum(length for _, length in of_row) for of_row in each)
    assert environment.steps == len(told) == longest, "not a step more than there must be"
    assert (episodes.returns.dtype, episodes.lengths.dtype) == (np.float64, np.int64)
    assert len(set(expected)) > 4, "all episodes are alike: the test would show little"
