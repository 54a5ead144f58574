import sys
from contextlib import ExitStack, closing
from types import ModuleType

import numpy as np
import pytest

from examples.rl.environments.procgen import ACTIONS, MODES, ProcgenEnvironment, _seed, unusable
from examples.rl.environments.vector import Step
from tests.examples.rl.test_environments import assert_same, assert_well_formed, drawing, following, play


@pytest.fixture
def make():
    """Makes environments, and closes them."""
    if unusable() is not None:
        pytest.skip(unusable())  # an extra, which `make procgen` installs; here it is not, or Qt is not
    with ExitStack() as held:
        yield lambda *given, **named: held.enter_context(closing(ProcgenEnvironment(*given, **named)))


@pytest.mark.parametrize("game", MODES)
def test_every_game_is_played_in_each_of_its_modes_and_there_are_no_others(make, game):
    import envpool

    all_modes = ("easy", "hard", "extreme", "memory", "exploration")
    there = set(envpool.list_all_envs())
    found = [mode for mode in all_modes if f"{game.capitalize()}{mode.capitalize()}-v0" in there]
    assert tuple(found) == MODES[game]
    for mode in MODES[game]:
        environment = make([game], 2, 0, mode=mode, threads=1)
        steps = play(environment, drawing(environment), 3)
        for step in steps:
            assert_well_formed(step, environment)
            assert all(len(np.unique(frame)) > 10 for frame in step.frame), "frames are blank"
        assert any((step.frame != steps[0].frame).any() for step in steps), "nothing moves"


def test_levels_are_of_the_range_alone(make):
    def first_frames(levels, mode="easy", count=12, seed=0) -> set[bytes]:
        step = make(["coinrun"], count, seed, mode=mode, levels=levels).reset()
        return {frame.tobytes() for frame in step.frame}

    single = [first_frames((level, 1)) for level in range(3, 7)]
    assert [len(frames) for frames in single] == [1] * 4
    assert len(set.union(*single)) == 4, "levels look the same"
    assert first_frames((3, 1), seed=5) == single[0]
    assert first_frames((3, 3), count=40) == set.union(*single[:3])
    assert len(first_frames((0, 0))) == 12, "of all levels there are, some came twice in twelve"
    assert first_frames((3, 1), mode="hard") != single[0]


def test_several_games_are_divided_over_the_environments(make):
    names = ("fruitbot", "bigfish", "maze")
    together = make(names, 7, 3, levels=(0, 50), threads=2)
    assert together.names == (*names, *names, "fruitbot")
    actions = np.random.default_rng(0).integers(15, size=(150, 7))
    joint = following(together, actions)[1:]
    assert sum(step.done.sum() for step in joint) > 0
    for first, name in enumerate(names):
        # Alone, a game's environments have the same levels: those of their numbers among all.
        alone, own = make([name], 7, 3, levels=(0, 50), threads=1), slice(first, None, 3)
        for mine, theirs in zip(joint, following(alone, actions)[1:], strict=True):
            assert_same(Step(*(values[own] for values in vars(mine).values())), theirs, own)
    others = make(names, 3, 3, first=4, levels=(0, 50), threads=1)
    assert others.names == ("bigfish", "maze", "fruitbot")
    for theirs, mine in zip(following(others, actions[:, 4:])[1:], joint, strict=True):
        assert_same(theirs, mine, rows=slice(4, 7))


@pytest.mark.parametrize("game", ["bigfish", "fruitbot"])
def test_the_next_episode_begins_at_once_and_no_action_is_lost(make, game):
    """Beside EnvPool itself, which shows the last frame and then begins, whatever the action."""
    import envpool

    count, seed, T = 3, 11, 400
    actions = np.random.default_rng(2).integers(15, size=(T, count))
    steps = following(make([game], count, seed, levels=(0, 20)), actions)
    ended = 0
    for row in range(count):
        options = {"num_envs": 1, "seed": [_seed(seed, row)], "start_level": 0, "num_levels": 20}
        raw = envpool.make_gymnasium(f"{game.capitalize()}Easy-v0", **options)
        frame, _ = raw.reset()
        np.testing.assert_array_equal(steps[0].frame[row], frame[0])
        for step, action in zip(steps[1:], actions[:, row], strict=True):
            frame, reward, terminated, truncated, _ = raw.step(np.array([action], np.int32))
            done = terminated[0] or truncated[0]
            if done:
                frame, ignored, *_ = raw.step(np.array([0], np.int32))
                assert ignored[0] == 0
            np.testing.assert_array_equal(step.frame[row], frame[0])
            assert (step.reward[row], step.done[row]) == (reward[0], done)
            ended += done
        raw.close()
    assert ended > 4
    assert len({float(step.reward[row]) for step in steps for row in range(count)}) > 1


def test_an_episode_ends_when_its_time_is_over(make):
    """As any other: in the games' own limit of 1,000 steps here."""
    environment = make(["coinrun"], 1, 0, levels=(0, 1))
    steps = play(environment, lambda step: np.array([ACTIONS.index("nothing")]), 1001)
    assert [t for t, step in enumerate(steps) if step.done[0]] == [0, 1000]
    assert steps[1000].episode_length[0] == 1000
    np.testing.assert_array_equal(steps[1000].frame, steps[0].frame)


def test_the_games_cannot_be_saved(make):
    environment = make(["coinrun"], 1, 0)
    assert environment.state() is None
    with pytest.raises(NotImplementedError, match="EnvPool cannot save Procgen's games"):
        environment.load_state({})


def test_there_are_sixteen_games_and_every_action_has_a_name():
    assert len(ACTIONS) == len(set(ACTIONS)) == ProcgenEnvironment.n_actions
    assert len(MODES) == 16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"names": ("maze", "bigfish"), "mode": "memory"},
            "mode must be one that bigfish has, easy, hard; got 'memory'",
        ),
        ({"levels": (2**31 - 2, 2)}, r"levels must be .* together at most 2147483647, got"),
        ({"mode": "exploration", "levels": (0, 200)}, r"levels must be \(0, 0\) in exploration mode"),
    ],
)
def test_what_cannot_be_made(options, message):
    """Known whether or not there is an EnvPool."""
    with pytest.raises(ValueError, match=f"make_environment: {message}"):
        ProcgenEnvironment(**({"names": ("maze",), "count": 2, "seed": 0} | options))


@pytest.mark.parametrize(
    ("there", "message", "cause"),
    [
        (False, "EnvPool is missing; install it with: make procgen, or python -m pip install envpool", ""),
        (
            True,
            "Qt 5, which the games draw with, is missing; install it with: make procgen, apt-get ins",
            "[libQt5Gui.so.5: cannot open]",
        ),
    ],
)
def test_what_is_missing_is_said_in_a_line(monkeypatch, there, message, cause):
    """Without Qt EnvPool's package is there, but its module raises, from the linker's message."""

    def missing(name):
        if name.startswith("__"):
            raise AttributeError(name)
        raise ImportError("long advice") from ImportError("libQt5Gui.so.5: cannot open")

    games = ModuleType("envpool.procgen")
    games.__getattr__ = missing
    monkeypatch.setitem(sys.modules, "envpool", ModuleType("envpool") if there else None)
    monkeypatch.setitem(sys.modules, "envpool.procgen", games)
    with pytest.raises(ImportError) as caught:
        ProcgenEnvironment(["coinrun"], 1, 0)
    reason = unusable()
    assert str(caught.value) == reason
    assert message in reason
    assert cause in reason
    assert "\n" not in reason
