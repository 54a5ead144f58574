import numpy as np
import pytest
import torch

from examples.rl.acting import gumbel_noise
from examples.rl.episodes import play_episodes
from tests.examples.rl.fakes import FakeEnvironment, decided_agent, fake_agent


def by_hand(count: int, environment: int, *, greedy: bool, seed: int, rows: int) -> list:
    """Returns and lengths of an environment's first episodes, by an agent that plays them alone."""
    agent, alone = decided_agent(), FakeEnvironment(1, environment)
    found = []
    step, t = alone.reset(), 0
    h = torch.zeros(1, 8, dtype=torch.float64)
    while len(found) < count:
        if step.done[0]:
            total, length = 0.0, 0
            h = torch.zeros_like(h)
        pixels = torch.from_numpy(step.frame).double().flatten(1) / 255
        reward = torch.tensor([[np.clip(step.reward[0], -1, 1)]], dtype=torch.float64)
        h = torch.tanh(agent.inputs(torch.cat([pixels, reward], 1)) + agent.recurrent(h))
        scores = agent.policy(h).float().double()
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
    agent = decided_agent().train()
    episodes = play_episodes(agent, FakeEnvironment(4), 14, greedy=greedy, seed=seed)
    assert not agent.training
    with torch.no_grad():
        expected = [
            episode
            for environment, count in enumerate((4, 4, 3, 3))
            for episode in by_hand(count, environment, greedy=greedy, seed=seed, rows=4)
        ]
    assert list(zip(*episodes, strict=True)) == expected
    assert (episodes.returns.dtype, episodes.lengths.dtype) == (np.float64, np.int64)
    assert len(set(expected)) > 4, "all episodes are alike: the test would show little"


class Uneven(FakeEnvironment):
    """Environment i's episodes take 1 + 10 i steps; all return the same."""

    def _drawn(self, row):
        return 0, 1 + 10 * (self.first + row)


@pytest.mark.parametrize(("count", "shares"), [(3, (1, 1, 1)), (7, (3, 2, 2)), (9, (3, 3, 3))])
def test_short_episodes_are_not_preferred(count, shares):
    told = []
    environment = Uneven(3)
    episodes = play_episodes(fake_agent(), environment, count, greedy=True, seed=0, tell=told.append)
    assert episodes.lengths.tolist() == np.repeat([1, 11, 21], shares).tolist()
    assert sum(told) == count
    assert environment.steps == len(told) == 21 * shares[2], "not a step more than there must be"


def test_fewer_episodes_than_environments():
    with pytest.raises(ValueError, match="count must be at least the number of environments, 3, got 2"):
        play_episodes(fake_agent(), FakeEnvironment(3), 2, greedy=True, seed=0)
