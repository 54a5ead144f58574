"""The built-in task of memory, and what every environment owes to the protocol."""

import itertools

import numpy as np
import pytest

from examples.rl.environments.cue import COLOURS, CueEnvironment
from examples.rl.environments.vector import Step

FIELDS = ("frame", "reward", "done", "episode_return", "episode_length")
RGB = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0)}


def play(environment, policy, steps: int) -> list[Step]:
    """The first step and those that follow; a policy says from a step what to do."""
    found = [environment.reset()]
    for _ in range(steps):
        found.append(environment.step(policy(found[-1])))
    return found


def drawing(environment, seed=0):
    rng = np.random.default_rng(seed)
    return lambda step: rng.integers(environment.n_actions, size=environment.count)


class Remembering:
    """Acts by the frames alone: what is shown in a white border is named until there is another."""

    def __init__(self, count: int) -> None:
        self.cues = np.zeros(count, np.int64)

    def __call__(self, step: Step) -> np.ndarray:
        for row, frame in enumerate(step.frame):
            if (frame[:, 0, 0] == 255).all():
                self.cues[row] = [tuple(frame[:, 4, 4]) == rgb for rgb in RGB.values()].index(True)
        return self.cues.copy()


def kind_of(frame: np.ndarray) -> str:
    corner, middle = tuple(frame[:, 0, 0].tolist()), tuple(frame[:, 4, 4].tolist())
    kinds = {(255, 255, 255): "cue", (0, 0, 0): "distractor", (128, 128, 128): "question"}
    assert kinds[corner] != "question" or middle == corner
    return kinds[corner]


def assert_same(one: Step, other: Step, rows=slice(None)) -> None:
    for name in FIELDS:
        np.testing.assert_array_equal(
            getattr(one, name), getattr(other, name)[rows], err_msg=name, strict=True
        )


def episodes_of(steps: list[Step], row: int) -> list[list[np.ndarray]]:
    """The frames of each whole episode of an environment."""
    firsts = [t for t, step in enumerate(steps) if step.done[row]]
    return [[step.frame[row] for step in steps[a:b]] for a, b in itertools.pairwise(firsts)]


def test_every_step_is_of_the_protocols_shapes_and_types():
    environment = CueEnvironment(3, 0)
    assert (environment.count, environment.n_actions) == (3, 4)
    assert environment.names == ("cue",) * 3
    for step in play(environment, drawing(environment), 5):
        assert (step.frame.shape, step.frame.dtype) == ((3, *environment.frame_shape), np.uint8)
        assert (step.reward.shape, step.reward.dtype) == ((3,), np.float32)
        assert (step.done.shape, step.done.dtype) == ((3,), np.bool_)
        assert (step.episode_return.shape, step.episode_return.dtype) == ((3,), np.float64)
        assert (step.episode_length.shape, step.episode_length.dtype) == ((3,), np.int64)


def test_the_very_first_step():
    first = CueEnvironment(3, 0).reset()
    assert first.done.all()
    assert not first.reward.any()
    assert np.isnan(first.episode_return).all()
    assert not first.episode_length.any()


def test_returns_and_lengths_are_sums_and_told_at_the_end_alone():
    environment = CueEnvironment(5, 1)
    steps = play(environment, drawing(environment), 200)
    ended, rewarded = 0, set()
    for row in range(5):
        total, length = 0.0, 0
        for step in steps[1:]:
            total, length = total + step.reward[row], length + 1
            if step.done[row]:
                assert step.episode_return[row] == total
                assert step.episode_length[row] == length
                rewarded.add(total)
                total, length, ended = 0.0, 0, ended + 1
            else:
                assert step.reward[row] == 0
                assert np.isnan(step.episode_return[row])
                assert step.episode_length[row] == 0
    assert ended > 100
    assert rewarded == {0.0, 1.0}


def test_an_episode_is_a_cue_distractors_and_a_question_and_the_next_follows_at_once():
    environment = CueEnvironment(20, 2)
    steps = play(environment, drawing(environment), 100)
    numbers = set()
    for row in range(20):
        for frames in episodes_of(steps, row):
            kinds = [kind_of(frame) for frame in frames]
            assert kinds == ["cue", *["distractor"] * (len(frames) - 2), "question"]
            numbers.add(len(frames) - 2)
    assert numbers == set(range(2, 9))


def test_at_the_end_nothing_tells_the_cue_and_distractors_show_any_colour():
    environment = CueEnvironment(50, 3)
    steps = play(environment, drawing(environment), 100)
    questions, pairs, before = set(), set(), []
    for row in range(50):
        for frames in episodes_of(steps, row):
            cue = tuple(frames[0][:, 4, 4].tolist())
            questions.add(frames[-1].tobytes())
            colours = [tuple(frame[:, 4, 4].tolist()) for frame in frames[1:-1]]
            pairs |= {(cue, colour) for colour in colours}
            before.append(colours[-1] == cue)
    assert len(questions) == 1
    assert pairs == set(itertools.product(RGB.values(), repeat=2))
    assert abs(np.mean(before) - 1 / 4) < 4 * np.sqrt(3 / 16 / len(before)), "the last distractor tells it"


def test_who_remembers_always_succeeds():
    steps = play(CueEnvironment(10, 4), Remembering(10), 200)
    returns = np.concatenate([step.episode_return[step.done] for step in steps[1:]])
    assert len(returns) > 200
    assert (returns == 1).all()


@pytest.mark.parametrize("n_cues", [2, 4, 6])
def test_who_remembers_nothing_succeeds_by_chance(n_cues):
    for policy in ("always the same", "what is seen", "anything"):
        environment = CueEnvironment(50, 5, n_cues=n_cues)

        def seen(step):
            return step.frame[:, :, 4, 4].astype(np.int64).sum(axis=1) % n_cues

        act = {
            "always the same": lambda step: np.ones(50, np.int64),
            "what is seen": seen,
            "anything": drawing(environment),
        }[policy]
        steps = play(environment, act, 150)
        returns = np.concatenate([step.episode_return[step.done] for step in steps[1:]])
        chance = 1 / n_cues
        assert len(returns) > 800
        assert abs(returns.mean() - chance) < 4 * np.sqrt(chance * (1 - chance) / len(returns)), policy


def test_an_episode_is_a_function_of_seed_and_environment_whatever_the_number():
    one, other = CueEnvironment(2, 6), CueEnvironment(7, 6)
    few, many = (play(e, lambda step, e=e: np.zeros(e.count, np.int64), 60) for e in (one, other))
    for mine, theirs in zip(few, many, strict=True):
        assert_same(mine, theirs, rows=slice(2))
    later = play(CueEnvironment(3, 6, first=4), lambda step: np.zeros(3, np.int64), 60)
    for mine, theirs in zip(later, many, strict=True):
        assert_same(mine, theirs, rows=slice(4, 7))
    again = play(CueEnvironment(2, 7), lambda step: np.zeros(2, np.int64), 60)
    assert any((a.frame != b.frame).any() for a, b in zip(few, again, strict=True)), "the seed says nothing"
    assert any((step.frame[0] != step.frame[1]).any() for step in few), "all environments are the same"
    episodes = {tuple(frame.tobytes() for frame in frames) for frames in episodes_of(few, 0)}
    assert len(episodes) > 3, "all episodes are the same"


def test_reset_begins_again():
    environment = CueEnvironment(3, 8)
    first = environment.reset()
    for _ in range(17):
        environment.step(np.zeros(3, np.int64))
    assert_same(environment.reset(), first)


@pytest.mark.parametrize("steps", [0, 1, 13])
def test_another_environment_continues_to_the_bit(steps):
    one, other = CueEnvironment(4, 9, first=2), CueEnvironment(4, 1)
    last = play(one, drawing(one), steps)[-1]
    state = one.state()
    actions = np.random.default_rng(1).integers(4, size=(40, 4))
    expected = [one.step(action) for action in actions]
    assert_same(other.load_state(state), last)
    for action, step in zip(actions, expected, strict=True):
        assert_same(other.step(action), step)
    assert_same(one.load_state(state), last)  # and the state is as it was


def test_a_state_at_an_episodes_end_keeps_its_return():
    one = CueEnvironment(6, 10)
    remembering = Remembering(6)
    step = one.reset()
    while not step.done[2:].any() or step.reward.sum() == 0:
        step = one.step(remembering(step))
    again = CueEnvironment(6, 0).load_state(one.state())
    assert_same(again, step)
    assert np.nansum(again.episode_return) > 0


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"count": 3}, r"state must be of 3 environments with .*, got one of 2 with .*; make as many"),
        ({"n_cues": 5}, r"'n_cues': 5.*, got one of 2 with \{'n_cues': 4"),
        (
            {"distractors": (2, 9)},
            r"'most_distractors': 9\}, got .*8\}; make as many, with the same",
        ),
        ({"distractors": (1, 8)}, r"'least_distractors': 1, .* got .*'least_distractors': 2,"),
    ],
)
def test_a_state_of_other_environments_is_refused(other, message):
    one = CueEnvironment(2, 0)
    one.reset()
    with pytest.raises(ValueError, match=message):
        CueEnvironment(**{"count": 2, "seed": 0, **other}).load_state(one.state())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "count must be at least 1, seed and first at least 0, got 0, 0 and 0"),
        ({"seed": -1}, "count must be at least 1, seed and first at least 0, got 2, -1 and 0"),
        ({"first": -1}, "count must be at least 1, seed and first at least 0, got 2, 0 and -1"),
        ({"n_cues": 1}, "n_cues must be from 2 to 6, got 1"),
        ({"n_cues": len(COLOURS) + 1}, "n_cues must be from 2 to 6, got 7"),
        ({"distractors": (3, 2)}, r"distractors must be .* got \(3, 2\)"),
        ({"distractors": (-1, 2)}, r"distractors must be .* got \(-1, 2\)"),
    ],
)
def test_numbers_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        CueEnvironment(**({"count": 2, "seed": 0} | options))


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (np.zeros(3, np.int64), r"actions must be \(2,\) integers, .* got \(3,\) of int64"),
        (np.zeros(2), r"actions must be \(2,\) integers, .* got \(2,\) of float64"),
        (np.array([0, 4]), "actions must be from 0 to 3, got 0 to 4"),
        (np.array([-1, 3]), "actions must be from 0 to 3, got -1 to 3"),
    ],
)
def test_actions_that_do_not_exist(actions, message):
    environment = CueEnvironment(2, 0)
    environment.reset()
    with pytest.raises(ValueError, match=message):
        environment.step(actions)


def test_nothing_before_the_first_reset():
    with pytest.raises(ValueError, match="step: no episode has begun; call reset first"):
        CueEnvironment(2, 0).step(np.zeros(2, np.int64))
    with pytest.raises(ValueError, match="state: no episode has begun; call reset first"):
        CueEnvironment(2, 0).state()


def test_no_distractors_at_all():
    environment = CueEnvironment(3, 0, distractors=(0, 0))
    steps = play(environment, Remembering(3), 6)
    assert [step.done.all() for step in steps] == [True, False] * 3 + [True]
    assert all((step.episode_return[step.done] == 1).all() for step in steps[2::2])
