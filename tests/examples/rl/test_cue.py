"""The built-in task of memory: what is seen, what it pays, and that nothing but memory helps."""

from collections.abc import Callable

import numpy as np
import pytest

from examples.rl.environments import make_environment
from examples.rl.environments.cue import COLOURS, CueEnvironment
from examples.rl.environments.vector import Step
from examples.rl.plain_state import to_arrays, to_tensors

PIXELS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "magenta": (255, 0, 255),
    "cyan": (0, 255, 255),
}
GREY = (128, 128, 128)


def centre(frame: np.ndarray) -> tuple[int, ...]:
    return tuple(frame[:, 4, 4].tolist())


def corner(frame: np.ndarray) -> tuple[int, ...]:
    return tuple(frame[:, 0, 0].tolist())


def colour(frame: np.ndarray) -> int:
    """The number of the colour that a frame shows."""
    return [PIXELS[name] for name in COLOURS].index(centre(frame))


def play(
    environment: CueEnvironment, choose: Callable[[Step, np.ndarray], np.ndarray], steps: int
) -> list[tuple[np.ndarray, Step]]:
    """Actions and what they brought; ``choose`` also sees the colours of the episodes' first frames."""
    step, cues, played = environment.reset(), np.zeros(environment.count, np.int64), []
    for _ in range(steps):
        begun = np.flatnonzero(step.done)
        cues[begun] = [colour(step.frame[row]) for row in begun]
        actions = choose(step, cues)
        step = environment.step(actions)
        played.append((actions, step))
    return played


def returns_of(played: list[tuple[np.ndarray, Step]]) -> np.ndarray:
    return np.concatenate([step.episode_return[step.done] for _, step in played])


def test_an_episode_frame_by_frame():
    """Cue in white, two to eight distractors in black, grey, and at once the next cue."""
    environment = CueEnvironment(4, seed=3, n_cues=5)
    first = environment.reset()
    assert first.frame.dtype == np.uint8
    assert first.done.all()
    assert not first.reward.any()
    assert np.isnan(first.episode_return).all()
    assert not first.episode_length.any()
    rng = np.random.default_rng(0)
    shown = [[frame] for frame in first.frame]
    numbers, successes = [], []
    for _ in range(300):
        actions = rng.integers(5, size=4)
        step = environment.step(actions)
        for row in range(4):
            if not step.done[row]:
                assert step.reward[row] == 0
                assert np.isnan(step.episode_return[row])
                assert step.episode_length[row] == 0
                shown[row].append(step.frame[row])
                continue
            cue, *distractors, last = shown[row]
            assert corner(cue) == (255, 255, 255)
            assert {corner(frame) for frame in distractors} == {(0, 0, 0)}
            assert all(colour(frame) < 5 for frame in distractors)
            assert (last == 128).all()
            assert step.reward[row] == (actions[row] == colour(cue))
            assert step.episode_return[row] == step.reward[row]
            assert step.episode_length[row] == len(shown[row])
            numbers.append(len(distractors))
            successes.append(float(step.reward[row]))
            shown[row] = [step.frame[row]]
    assert set(numbers) == set(range(2, 9))
    assert set(successes) == {0.0, 1.0}


def test_who_remembers_the_cue_always_succeeds():
    returns = returns_of(play(CueEnvironment(8, seed=0), lambda step, cues: cues, 200))
    assert len(returns) > 150
    assert (returns == 1).all()


class Latest:
    """Names the colour seen last, which is a distractor's when it counts; at first whatever is shown."""

    def __init__(self, count: int) -> None:
        self.seen = np.zeros(count, np.int64)

    def __call__(self, step: Step, cues: np.ndarray) -> np.ndarray:
        for row, frame in enumerate(step.frame):
            if centre(frame) != GREY:
                self.seen[row] = colour(frame)
        return self.seen


class LastEpisodes:
    """Names the cue of the episode before."""

    def __init__(self, count: int) -> None:
        self.before = self.now = np.zeros(count, np.int64)

    def __call__(self, step: Step, cues: np.ndarray) -> np.ndarray:
        self.before = np.where(step.done, self.now, self.before)
        self.now = cues.copy()
        return self.before


@pytest.mark.parametrize(
    "choose",
    [*(lambda step, cues, a=a: np.full(64, a) for a in range(4)), Latest(64), LastEpisodes(64)],
    ids=["red", "green", "blue", "yellow", "latest distractor", "last episode's cue"],
)
def test_nothing_else_helps(choose):
    returns = returns_of(play(CueEnvironment(64, seed=1), choose, 700))
    assert len(returns) > 6000
    deviation = np.sqrt(0.25 * 0.75 / len(returns))
    assert abs(returns.mean() - 0.25) < 4 * deviation


def test_what_happens_depends_on_the_seed_and_the_environment_alone():
    def frames(count: int, seed: int) -> np.ndarray:
        played = play(CueEnvironment(count, seed), lambda step, cues: cues, 60)
        return np.stack([step.frame for _, step in played])

    few, many = frames(2, 5), frames(4, 5)
    np.testing.assert_array_equal(few, many[:, :2])
    assert (many[:, 0] != many[:, 1]).any()
    assert (few != frames(2, 6)).any()


def test_it_continues_where_another_stood():
    rng = np.random.default_rng(2)
    environment = CueEnvironment(3, seed=7)
    steps = [step for _, step in play(environment, lambda step, cues: cues, 40)]
    [first_success, *_] = [number for number, step in enumerate(steps) if step.reward.any()]
    play(environment, lambda step, cues: cues, first_success + 1)
    assert environment._last.reward.any(), "there is a reward to be kept"
    saved = to_tensors(environment.state())
    other = CueEnvironment(3, seed=99)
    last = other.load_state(to_arrays(saved))
    for name, value in vars(environment._last).items():
        np.testing.assert_array_equal(value, getattr(last, name))
    for _ in range(40):
        actions = rng.integers(4, size=3)
        one, two = environment.step(actions), other.step(actions)
        for name, value in vars(one).items():
            np.testing.assert_array_equal(value, getattr(two, name))


def test_a_saved_state_does_not_change_when_the_game_goes_on():
    environment = CueEnvironment(3, seed=7)
    environment.reset()
    saved = environment.state()
    kept = {name: np.array(value) for name, value in saved.items()}
    for _ in range(20):
        environment.step(np.zeros(3, np.int64))
    for name, value in kept.items():
        np.testing.assert_array_equal(saved[name], value)


def test_fewest_and_most_distractors():
    environment = CueEnvironment(4, seed=0, distractors=(0, 1))
    lengths = {
        int(length)
        for _, step in play(environment, lambda step, cues: cues, 40)
        for length in step.episode_length[step.done]
    }
    assert lengths == {2, 3}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CueEnvironment(0, 0), "count must be at least 1"),
        (lambda: CueEnvironment(1, -1), "seed at least 0, got 1 and -1"),
        (lambda: CueEnvironment(1, 0, n_cues=7), "n_cues must be from 2 to 6, got 7"),
        (lambda: CueEnvironment(1, 0, distractors=(3, 2)), r"distractors .* got \(3, 2\)"),
        (
            lambda: CueEnvironment(1, 0).step(np.zeros(1, np.int64)),
            "step: no episode has begun; call reset",
        ),
        (lambda: CueEnvironment(1, 0).state(), "state: no episode has begun"),
        (lambda: begun(2).step(np.zeros(3, np.int64)), r"actions must be \(2,\) integers"),
        (lambda: begun(2).step(np.zeros(2)), "of float64"),
        (lambda: begun(2).step(np.array([0, 4])), "from 0 to 3, got 0 to 4"),
        (lambda: begun(2).step(np.array([-1, 0])), "got -1 to 0"),
        (lambda: begun(2).load_state(begun(3).state()), "must be of 2 environments, got one of 3"),
    ],
)
def test_what_does_not_fit_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def begun(count: int) -> CueEnvironment:
    environment = CueEnvironment(count, 0)
    environment.reset()
    return environment


def test_by_name():
    environment = make_environment("cue", 3, seed=4)
    assert isinstance(environment, CueEnvironment)
    assert (environment.count, environment.seed, environment.names) == (3, 4, ("cue",) * 3)
    for name, mode, message in (
        ("pong", "easy", "name must be one of cue, bigfish"),
        (("cue", "maze"), "easy", "cannot be played beside them, got cue, maze"),
        ("cue", "hard", "mode must be 'easy' for cue"),
    ):
        with pytest.raises(ValueError, match=message):
            make_environment(name, 3, seed=4, mode=mode)
