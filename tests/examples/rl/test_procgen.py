"""Procgen's games, as EnvPool has them; what needs them is skipped where they cannot be played."""

import builtins
import sys

import numpy as np
import pytest

from examples.rl.environments import make_environment, procgen
from examples.rl.environments.procgen import MODES, ProcgenEnvironment

needs_procgen = pytest.mark.skipif(procgen.unusable() is not None, reason=str(procgen.unusable()))


def play(environment, steps: int, seed: int = 0) -> list:
    rng = np.random.default_rng(seed)
    played = [environment.reset()]
    played += [environment.step(rng.integers(15, size=environment.count)) for _ in range(steps)]
    return played


@needs_procgen
@pytest.mark.parametrize(
    ("game", "mode"), [(game, mode) for game, modes in MODES.items() for mode in modes]
)
def test_every_game_in_every_mode(game, mode):
    environment = ProcgenEnvironment((game,), 2, 0, mode=mode, threads=1)
    *_, last = play(environment, 3)
    environment.close()
    assert last.frame.shape == (2, 3, 64, 64)
    assert last.frame.dtype == np.uint8
    assert last.frame.std() > 5
    assert environment.names == (game, game)


@needs_procgen
def test_levels_are_restricted():
    def first_frames(levels: tuple[int, int]) -> np.ndarray:
        environment = ProcgenEnvironment(("coinrun",), 8, 0, levels=levels, threads=1)
        frames = [environment.reset().frame]
        rng = np.random.default_rng(0)
        for _ in range(400):
            step = environment.step(rng.integers(15, size=8))
            frames.append(step.frame[step.done])
        environment.close()
        return np.unique(np.concatenate(frames).reshape(-1, 3 * 64 * 64), axis=0)

    one, other, three = first_frames((7, 1)), first_frames((8, 1)), first_frames((7, 3))
    assert len(one) == len(other) == 1
    assert (one != other).any()
    assert len(three) == 3
    assert any((frame == one[0]).all() for frame in three)


@needs_procgen
def test_several_games_are_divided_over_the_environments():
    both = ProcgenEnvironment(("maze", "bigfish"), 5, 3, levels=(0, 50), threads=2)
    assert both.names == ("maze", "bigfish", "maze", "bigfish", "maze")
    played = play(both, 60)
    both.close()
    for game, rows in (("maze", [0, 2, 4]), ("bigfish", [1, 3])):
        # What an environment plays is a function of the seed and its number among all.
        alone = ProcgenEnvironment((game,), 5, 3, levels=(0, 50), threads=1)
        for one, other in zip(play(alone, 60), played, strict=True):
            np.testing.assert_array_equal(one.frame[rows], other.frame[rows])
            np.testing.assert_array_equal(one.reward[rows], other.reward[rows])
        alone.close()


@needs_procgen
def test_what_happens_does_not_depend_on_the_threads():
    played = []
    for threads in (1, 4):
        environment = ProcgenEnvironment(("starpilot",), 6, 1, threads=threads)
        played.append(play(environment, 150))
        environment.close()
    for one, other in zip(*played, strict=True):
        for name, value in vars(one).items():
            np.testing.assert_array_equal(value, getattr(other, name))


@needs_procgen
def test_the_next_episode_begins_at_once_and_no_action_is_lost():
    """Beside EnvPool itself, which shows an episode's last frame and then ignores an action."""
    count, seed = 4, 5
    environment = ProcgenEnvironment(("bossfight",), count, seed, threads=1)
    seeds = [procgen._seed(seed, row) for row in range(count)]
    raw = procgen._make_pool("bossfight", np.arange(count), seeds, "easy", (0, 0), 1).envpool
    rng = np.random.default_rng(0)
    step, (frame, _) = environment.reset(), raw.reset()
    np.testing.assert_array_equal(step.frame, frame)
    returns, lengths, ended = np.zeros(count), np.zeros(count, int), 0
    for _ in range(600):
        actions = rng.integers(15, size=count)
        step = environment.step(actions)
        for row in range(count):
            ids = np.array([row], np.int32)
            raw.send(actions[[row]].astype(np.int32), ids)
            frame, reward, terminated, truncated, _ = raw.recv()
            over = bool(terminated[0] or truncated[0])
            assert step.reward[row] == reward[0]
            assert step.done[row] == over
            returns[row] += reward[0]
            lengths[row] += 1
            if over:
                np.testing.assert_allclose(step.episode_return[row], returns[row], rtol=1e-6)
                assert step.episode_length[row] == lengths[row]
                raw.send(np.array([4], np.int32), ids)  # whatever the action, a new episode begins
                frame, *_ = raw.recv()
                returns[row], lengths[row] = 0, 0
                ended += 1
            else:
                assert np.isnan(step.episode_return[row])
                assert step.episode_length[row] == 0
            np.testing.assert_array_equal(step.frame[row], frame[0])
    environment.close()
    assert ended > 3


@needs_procgen
def test_it_cannot_say_where_it_stands_and_ends_when_closed():
    environment = make_environment("maze", 2, 0, threads=1)
    with pytest.raises(ValueError, match="no episode has begun"):
        environment.step(np.zeros(2, np.int64))
    environment.reset()
    assert environment.state() is None
    with pytest.raises(ValueError, match="call reset, which begins new episodes"):
        environment.load_state({})
    with pytest.raises(ValueError, match="from 0 to 14"):
        environment.step(np.array([0, 15]))
    environment.close()
    with pytest.raises(ValueError, match="the environments are closed"):
        environment.reset()


@pytest.fixture
def without(monkeypatch):
    """Makes imports fail."""

    def block(name: str, cause: Exception | None) -> None:
        def find(module, *args, **kwargs):
            if module == name or module.startswith(name + "."):
                raise ImportError(f"no {name}") from cause
            return real(module, *args, **kwargs)

        real = builtins.__import__
        for module in [module for module in sys.modules if module == name or module.startswith(name + ".")]:
            monkeypatch.delitem(sys.modules, module)
        monkeypatch.setattr(builtins, "__import__", find)

    return block


def test_missing_envpool_is_one_line(without):
    without("envpool", None)
    reason = procgen.unusable()
    assert reason.startswith("procgen: EnvPool is missing; install it with: python -m pip install envpool")
    assert "\n" not in reason
    with pytest.raises(ImportError, match="EnvPool is missing"):
        make_environment("maze", 1, 0)


def test_the_program_says_whether_it_can_be_played(monkeypatch, capsys):
    monkeypatch.setattr(procgen, "unusable", lambda: None)
    procgen.main()
    assert capsys.readouterr().out == "procgen: ready\n"
    monkeypatch.setattr(procgen, "unusable", lambda: "procgen: no games")
    with pytest.raises(SystemExit, match="procgen: no games"):
        procgen.main()


def test_missing_qt_is_one_line(without, monkeypatch):
    monkeypatch.setitem(sys.modules, "envpool", sys)  # something that is there
    without("envpool.procgen", OSError("libQt5Gui.so.5: cannot open shared object file"))
    reason = procgen.unusable()
    assert "apt-get install libqt5gui5" in reason
    assert reason.endswith("[libQt5Gui.so.5: cannot open shared object file]")
    assert "\n" not in reason


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": ()}, "name must name at least one game"),
        ({"name": "pong"}, "got 'pong'"),
        ({"name": "bigfish", "mode": "memory"}, "one that bigfish has, easy, hard; got 'memory'"),
        ({"count": 0}, "count must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"threads": -1}, "threads must be at least 0"),
        ({"levels": (-1, 2)}, r"got \(-1, 2\)"),
        ({"levels": (2**31 - 1, 1)}, "together at most 2147483647"),
        ({"mode": "exploration", "levels": (0, 200)}, r"levels must be \(0, 0\) in exploration mode"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        make_environment(**{"name": "maze", "count": 2, "seed": 0, **change})


def test_level_seeds():
    """Different for each seed and environment, and within what the games take."""
    seeds = [procgen._seed(seed, row) for seed in range(20) for row in range(20)]
    assert len(set(seeds)) == 400
    assert all(0 <= seed < 2**31 for seed in seeds)
