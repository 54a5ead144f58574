import sys
from types import ModuleType

import numpy as np
import pytest

from examples.rl.environments.procgen import ACTIONS, MODES, ProcgenEnvironment, _seed, unusable
from examples.rl.environments.vector import Step
from tests.examples.rl.test_environments import assert_same, assert_well_formed, drawing, play


@pytest.fixture(scope="module")
def _playable() -> None:
    reason = unusable()
    if reason is not None:
        pytest.skip(reason)  # an extra, which `make procgen` installs; here it is not, or Qt is not


needs_procgen = pytest.mark.usefixtures("_playable")


def nothing(step):
    return np.full(len(step.reward), ACTIONS.index("nothing"))


@needs_procgen
@pytest.mark.parametrize("game", MODES)
def test_every_game_is_played_in_each_of_its_modes(game):
    for mode in MODES[game]:
        environment = ProcgenEnvironment([game], 2, 0, mode=mode, threads=1)
        steps = play(environment, drawing(environment), 3)
        environment.close()
        for step in steps:
            assert_well_formed(step, environment)
            assert all(len(np.unique(frame)) > 10 for frame in step.frame), "frames are blank"
        assert any((step.frame != steps[0].frame).any() for step in steps), "nothing moves"


@needs_procgen
def test_there_are_no_other_games_nor_modes():
    import envpool

    there = set(envpool.list_all_envs())
    for game, modes in MODES.items():
        all_modes = ("easy", "hard", "extreme", "memory", "exploration")
        found = [mode for mode in all_modes if f"{game.capitalize()}{mode.capitalize()}-v0" in there]
        assert tuple(found) == modes
    assert len(MODES) == 16


def first_frames(levels, *, mode="easy", count=12, seed=0) -> set[bytes]:
    environment = ProcgenEnvironment(["coinrun"], count, seed, mode=mode, levels=levels)
    frames = {frame.tobytes() for frame in environment.reset().frame}
    environment.close()
    return frames


@needs_procgen
def test_levels_are_of_the_range_alone():
    single = [first_frames((level, 1)) for level in range(3, 7)]
    assert [len(frames) for frames in single] == [1] * 4
    assert len(set.union(*single)) == 4, "levels look the same"
    assert first_frames((3, 1), seed=5) == single[0]
    assert first_frames((3, 3), count=40) == set.union(*single[:3])
    assert len(first_frames((0, 0))) == 12, "of all levels there are, some came twice in twelve"
    assert first_frames((3, 1), mode="hard") != single[0]


@needs_procgen
def test_every_episode_of_one_level_begins_alike():
    environment = ProcgenEnvironment(["bigfish"], 3, 0, levels=(7, 1))
    steps = play(environment, drawing(environment), 400)
    firsts = [frame for step in steps for frame in step.frame[step.done]]
    assert len(firsts) > 6
    assert all((frame == firsts[0]).all() for frame in firsts)
    environment.close()


@needs_procgen
def test_several_games_are_divided_over_the_environments():
    names = ("fruitbot", "bigfish", "maze")
    together = ProcgenEnvironment(names, 7, 3, levels=(0, 50), threads=2)
    assert together.names == (*names, *names, "fruitbot")
    rng = np.random.default_rng(0)
    actions = rng.integers(15, size=(150, 7))
    joint = [together.reset(), *(together.step(action) for action in actions)]
    for first, name in enumerate(names):
        # Alone, a game's environments have the same levels: those of their numbers among all.
        alone = ProcgenEnvironment([name], 7, 3, levels=(0, 50), threads=1)
        alone.reset()
        for mine, action in zip(joint[1:], actions, strict=True):
            assert_same(_rows(mine, first), _rows(alone.step(action), first))
        alone.close()
    assert sum(step.done.sum() for step in joint[1:]) > 0
    together.close()
    others = ProcgenEnvironment(names, 3, 3, first=4, levels=(0, 50), threads=1)
    assert others.names == ("bigfish", "maze", "fruitbot")
    others.reset()
    for theirs, action in zip(joint[1:], actions, strict=True):
        assert_same(others.step(action[4:]), theirs, rows=slice(4, 7))
    others.close()


def _rows(step: Step, first: int) -> Step:
    return Step(*(values[first::3] for values in vars(step).values()))


@needs_procgen
def test_environments_have_levels_of_their_own():
    environment = ProcgenEnvironment(["bigfish"], 6, 4)
    assert len({frame.tobytes() for frame in environment.reset().frame}) == 6
    environment.close()


@needs_procgen
@pytest.mark.parametrize("game", ["bigfish", "fruitbot"])
def test_the_next_episode_begins_at_once_and_no_action_is_lost(game):
    """Beside EnvPool itself, which shows the last frame and then begins, whatever the action."""
    import envpool

    count, seed, T = 3, 11, 400
    actions = np.random.default_rng(2).integers(15, size=(T, count))
    environment = ProcgenEnvironment([game], count, seed, levels=(0, 20))
    steps = [environment.reset(), *(environment.step(action) for action in actions)]
    environment.close()
    ended = 0
    for row in range(count):
        raw = envpool.make_gymnasium(
            f"{game.capitalize()}Easy-v0",
            num_envs=1,
            seed=[_seed(seed, row)],
            start_level=0,
            num_levels=20,
        )
        frame, _ = raw.reset()
        total, length = 0.0, 0
        np.testing.assert_array_equal(steps[0].frame[row], frame[0])
        for step, action in zip(steps[1:], actions[:, row], strict=True):
            frame, reward, terminated, truncated, _ = raw.step(np.array([action], np.int32))
            total, length = total + float(reward[0]), length + 1
            done = terminated[0] or truncated[0]
            if done:
                frame, ignored, *_ = raw.step(np.array([0], np.int32))
                assert ignored[0] == 0
            np.testing.assert_array_equal(step.frame[row], frame[0])
            assert step.reward[row] == reward[0]
            assert step.done[row] == done
            if done:
                assert step.episode_return[row] == pytest.approx(total)
                assert step.episode_length[row] == length
                total, length, ended = 0.0, 0, ended + 1
            else:
                assert np.isnan(step.episode_return[row])
                assert step.episode_length[row] == 0
        raw.close()
    assert ended > 4
    assert len({float(step.reward[row]) for step in steps for row in range(count)}) > 1


@needs_procgen
def test_an_episode_ends_when_its_time_is_over():
    """As any other: in the games' own limit of 1,000 steps here."""
    environment = ProcgenEnvironment(["coinrun"], 1, 0, levels=(0, 1))
    steps = play(environment, nothing, 1001)
    ends = [t for t, step in enumerate(steps) if step.done[0]]
    assert ends == [0, 1000]
    assert steps[1000].episode_length[0] == 1000
    np.testing.assert_array_equal(steps[1000].frame, steps[0].frame)
    environment.close()


@needs_procgen
def test_the_games_cannot_be_saved():
    environment = ProcgenEnvironment(["coinrun"], 1, 0)
    environment.reset()
    assert environment.state() is None
    with pytest.raises(ValueError, match="EnvPool cannot save Procgen's games"):
        environment.load_state({})
    environment.close()


@needs_procgen
def test_nothing_is_played_after_closing():
    environment = ProcgenEnvironment(["coinrun"], 1, 0)
    environment.close()
    with pytest.raises(ValueError, match="reset: the environments are closed; make new ones"):
        environment.reset()


def test_every_action_has_a_name():
    assert len(ACTIONS) == len(set(ACTIONS)) == ProcgenEnvironment.n_actions


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": ()}, "name must name at least one game"),
        ({"names": ("maze", "pong")}, "name must be one of bigfish, .*, starpilot; got 'pong'"),
        (
            {"names": ("maze", "bigfish"), "mode": "memory"},
            "mode must be one that bigfish has, easy, hard; got 'memory'",
        ),
        ({"count": 0}, "count must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"first": -1}, "first must be at least 0, got -1"),
        ({"threads": -1}, "threads must be at least 0, got -1"),
        ({"levels": (-1, 1)}, r"levels must be .* got \(-1, 1\)"),
        ({"levels": (0, -1)}, r"levels must be .* got \(0, -1\)"),
        ({"levels": (2**31 - 2, 2)}, r"levels must be .* together at most 2147483647, got"),
        ({"mode": "exploration", "levels": (0, 200)}, r"levels must be \(0, 0\) in exploration mode"),
    ],
)
def test_what_cannot_be_made(options, message):
    """Known whether or not there is an EnvPool."""
    with pytest.raises(ValueError, match=f"make_environment: {message}"):
        ProcgenEnvironment(**({"names": ("maze",), "count": 2, "seed": 0} | options))


def assert_says(message: str) -> None:
    """In one line, which is also what making an environment raises."""
    reason = unusable()
    assert reason is not None
    assert message in reason
    assert "\n" not in reason
    with pytest.raises(ImportError) as caught:
        ProcgenEnvironment(["coinrun"], 1, 0)
    assert str(caught.value) == reason


def test_without_envpool_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "envpool", None)
    assert_says("EnvPool is missing; install it with: make procgen, or python -m pip install envpool")


def test_without_qt_it_says_what_to_install(monkeypatch):
    """EnvPool's package is there then, but its module raises, from the linker's message."""

    def missing(name):
        if name.startswith("__"):
            raise AttributeError(name)
        raise ImportError("long advice") from ImportError("libQt5Gui.so.5: cannot open")

    games = ModuleType("envpool.procgen")
    games.__getattr__ = missing
    monkeypatch.setitem(sys.modules, "envpool", ModuleType("envpool"))
    monkeypatch.setitem(sys.modules, "envpool.procgen", games)
    assert_says("Qt 5, which the games draw with, is missing; install it with: make procgen, apt-get ins")
    assert "[libQt5Gui.so.5: cannot open]" in unusable()
