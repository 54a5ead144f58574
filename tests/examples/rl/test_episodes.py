"""Playing episodes: which ones count, and that each is played as if it were alone."""

import numpy as np
import pytest
import torch

from examples.rl.episodes import Acting, play_episodes
from examples.rl.random_policy import RandomPolicy
from tests.examples.rl.fakes import FakeAgent, FakeEnvironment, fake_agent


def lively_agent() -> FakeAgent:
    """One whose actions change from step to step, and with what it carries."""
    agent = fake_agent(seed=2)
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter *= 4
    return agent


def by_hand(row: int, count: int, greedy: bool, seed: int, most: int = 3) -> list[tuple[float, int]]:
    """Episodes of the environment with a number, one step after the other."""
    agent = lively_agent()
    environment = FakeEnvironment(1, first=row)
    step, states, played = environment.reset(), agent.initial_state(1), []
    call = 0
    while len(played) < count:
        with torch.no_grad():
            output, states = agent(
                *(torch.from_numpy(part[:, None]) for part in (step.frame, step.reward, step.done)), states
            )
        scores = output.logits[0, 0].numpy()
        if not greedy:
            noise = np.random.default_rng((seed, call)).gumbel(size=(most, 4))[row]
            scores = scores + noise
        step = environment.step(np.array([scores.argmax()]))
        call += 1
        if step.done[0]:
            played.append((float(step.episode_return[0]), int(step.episode_length[0])))
    return played


def test_greedy_episodes_are_those_of_each_environment_alone():
    episodes = play_episodes(lively_agent(), FakeEnvironment(3), 8, greedy=True, seed=0)
    expected = [*by_hand(0, 3, True, 0), *by_hand(1, 3, True, 0), *by_hand(2, 2, True, 0)]
    assert list(zip(episodes.returns, episodes.lengths, strict=True)) == expected
    assert episodes.returns.dtype == np.float64
    assert episodes.lengths.dtype == np.int64
    assert len(set(episodes.lengths)) > 1


def test_sampled_actions_do_not_depend_on_who_else_plays():
    episodes = play_episodes(lively_agent(), FakeEnvironment(3), 3, greedy=False, seed=4)
    # All three play from the first call on, so each draws in the same calls as alone.
    expected = [by_hand(row, 1, False, 4)[0] for row in range(3)]
    assert list(zip(episodes.returns, episodes.lengths, strict=True)) == expected


def test_short_episodes_are_not_preferred():
    """Where the first to end would count, an environment of long episodes would hardly be heard."""

    class Uneven(FakeEnvironment):
        def _drawn(self, row: int) -> tuple[int, int]:
            return 0, 2 if row else 20

    episodes = play_episodes(RandomPolicy(4), Uneven(2), 10, greedy=False, seed=0)
    assert episodes.lengths.tolist() == [20] * 5 + [2] * 5


def test_it_tells_of_every_episode_once():
    told = []
    episodes = play_episodes(RandomPolicy(4), FakeEnvironment(4), 9, greedy=False, seed=0, tell=told.append)
    assert sum(told) == len(episodes.returns) == 9


def test_an_environment_whose_episodes_are_played_needs_no_agent():
    asked = []

    class Watched(RandomPolicy):
        def forward(self, frames, rewards, dones, states=None):
            asked.append(len(frames))
            return super().forward(frames, rewards, dones, states)

    class Uneven(FakeEnvironment):
        def _drawn(self, row: int) -> tuple[int, int]:
            return 0, 2 if row else 6

    play_episodes(Watched(4), Uneven(3), 3, greedy=True, seed=0)
    assert asked == [3, 3, 1, 1, 1, 1]


def test_a_drawn_action_is_a_sample_of_the_policy():
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0])

    class Fixed(RandomPolicy):
        def forward(self, frames, rewards, dones, states=None):
            output, states = super().forward(frames, rewards, dones, states)
            return output._replace(logits=output.logits + logits), states

    act = Acting(Fixed(4), 4, greedy=False, seed=3)
    count, calls = 200, 40
    step = FakeEnvironment(count).reset()
    drawn = [act(step.frame, step.reward, step.done, [], np.arange(count))[0].actions for _ in range(calls)]
    shares = np.bincount(np.concatenate(drawn), minlength=4) / (count * calls)
    expected = logits.softmax(-1).numpy()
    assert (abs(shares - expected) < 4 * np.sqrt(expected * (1 - expected) / (count * calls))).all()
    greedy = Acting(Fixed(4), 4, greedy=True, seed=3)
    assert (greedy(step.frame, step.reward, step.done, [], np.arange(count))[0].actions == 2).all()


def test_dropout_is_off():
    agent = fake_agent()
    agent.train()
    play_episodes(agent, FakeEnvironment(1), 1, greedy=True, seed=0)
    assert not agent.training


def test_more_environments_than_episodes_are_refused():
    with pytest.raises(ValueError, match="number of environments, 4, got 3"):
        play_episodes(RandomPolicy(4), FakeEnvironment(4), 3, greedy=True, seed=0)
