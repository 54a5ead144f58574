"""The built-in task of memory."""

import itertools

import numpy as np
import pytest

from examples.rl.environments.cue import CueEnvironment
from examples.rl.environments.vector import Step
from tests.examples.rl.test_environments import assert_same, drawing, play

RGB = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)]  # by number


def kind_of(frame: np.ndarray) -> str:
    corner, middle = tuple(frame[:, 0, 0].tolist()), tuple(frame[:, 4, 4].tolist())
    kinds = {(255, 255, 255): "cue", (0, 0, 0): "distractor", (128, 128, 128): "question"}
    assert kinds[corner] != "question" or middle == corner
    return kinds[corner]


def remembering(count: int):
    """Acts by the frames alone: what is shown in a white border is named until there is another."""
    cues = np.zeros(count, np.int64)

    def act(step: Step) -> np.ndarray:
        for row, frame in enumerate(step.frame):
            if kind_of(frame) == "cue":
                cues[row] = RGB.index(tuple(frame[:, 4, 4]))
        return cues.copy()

    return act


def returns_of(steps: list[Step]) -> np.ndarray:
    return np.concatenate([step.episode_return[step.done] for step in steps[1:]])


def test_an_episode_is_a_cue_distractors_and_a_question_and_the_next_follows_at_once():
    """At the end nothing tells the cue; distractors show any colour; and episodes differ."""
    environment = CueEnvironment(50, 3)
    steps = play(environment, drawing(environment), 100)
    numbers, questions, pairs, before, cues = set(), set(), set(), [], set()
    for row in range(50):
        firsts = [t for t, step in enumerate(steps) if step.done[row]]
        for first, end in itertools.pairwise(firsts):
            frames = [step.frame[row] for step in steps[first:end]]
            cue, *shown, question = frames
            assert [*map(kind_of, frames)] == ["cue", *["distractor"] * len(shown), "question"]
            assert not any(step.reward[row] for step in steps[first + 1 : end]), "before the end"
            numbers.add(len(shown))
            questions.add(question.tobytes())
            cue, *colours = (tuple(frame[:, 4, 4].tolist()) for frame in (cue, *shown))
            pairs |= {(cue, colour) for colour in colours}
            before.append(colours[-1] == cue)
            cues.add((row, cue))
    assert numbers == set(range(2, 9))
    assert len(questions) == 1
    assert pairs == set(itertools.product(RGB, repeat=2))
    assert len(cues) > 150, "an environment's episodes have all the same cue"
    assert set(returns_of(steps)) == {0, 1}
    assert abs(np.mean(before) - 1 / 4) < 4 * np.sqrt(3 / 16 / len(before)), "the last distractor tells it"


def test_who_remembers_always_succeeds():
    returns = returns_of(play(CueEnvironment(10, 4), remembering(10), 200))
    assert len(returns) > 200
    assert (returns == 1).all()


@pytest.mark.parametrize("policy", ["always the same", "what is seen", "anything"])
def test_who_remembers_nothing_succeeds_by_chance(policy):
    environment = CueEnvironment(50, 5)
    act = {
        "always the same": lambda step: np.ones(50, np.int64),
        "what is seen": lambda step: step.frame[:, :, 4, 4].astype(np.int64).sum(axis=1) % 4,
        "anything": drawing(environment),
    }[policy]
    returns = returns_of(play(environment, act, 150))
    assert len(returns) > 800
    assert abs(returns.mean() - 1 / 4) < 4 * np.sqrt(3 / 16 / len(returns))


@pytest.mark.parametrize("steps", [0, 1, 13])
def test_another_environment_continues_to_the_bit(steps):
    """Where an episode has just ended with a reward, too."""
    one, other = CueEnvironment(4, 9, first=2), CueEnvironment(4, 1)
    last = play(one, remembering(4), steps)[-1]
    assert steps < 13 or last.reward.any(), "no episode ended"
    state = one.state()
    actions = np.random.default_rng(1).integers(4, size=(40, 4))
    expected = [one.step(action) for action in actions]
    assert_same(other.load_state(state), last)
    for action, step in zip(actions, expected, strict=True):
        assert_same(other.step(action), step)
    assert_same(one.load_state(state), last)  # and the state is as it was
