"""Environments by name, and what every one owes to the protocol, the one that the other tests play too."""

import numpy as np
import pytest

from examples.rl import environments
from examples.rl.environments import action_names, make_environment
from examples.rl.environments.cue import CueEnvironment
from examples.rl.environments.procgen import MODES, ProcgenEnvironment, unusable
from examples.rl.environments.vector import Step
from tests.examples.rl.fakes import FakeEnvironment


@pytest.fixture(params=["cue", "procgen", "fake"])
def make(request):
    """Makes environments (count, seed, first=0) with short episodes."""
    if request.param == "procgen" and unusable() is not None:
        pytest.skip(unusable())  # EnvPool or Qt is not here; `make procgen` installs them
    made = []

    def one(count, seed, first=0):
        if request.param == "procgen":
            made.append(ProcgenEnvironment(["chaser"], count, seed, first=first, threads=1 + count % 2))
        else:
            kind = {"cue": CueEnvironment, "fake": FakeEnvironment}[request.param]
            made.append(kind(count=count, seed=seed, first=first))
        return made[-1]

    yield one
    for environment in made:
        environment.close()


def play(environment, policy, steps: int) -> list[Step]:
    """The first step and those that follow; a policy says from a step what to do."""
    found = [environment.reset()]
    for _ in range(steps):
        found.append(environment.step(policy(found[-1])))
    return found


def drawing(environment, seed=0):
    rng = np.random.default_rng(seed)
    return lambda step: rng.integers(environment.n_actions, size=environment.count)


def following(environment, actions) -> list[Step]:
    """The first step, and those of the actions."""
    return [environment.reset(), *map(environment.step, actions)]


def assert_same(one: Step, other: Step, rows=slice(None)) -> None:
    for name, value in vars(one).items():
        np.testing.assert_array_equal(value, getattr(other, name)[rows], err_msg=name, strict=True)


def assert_well_formed(step: Step, environment) -> None:
    count = environment.count
    kinds = {
        "frame": (np.uint8, (count, *environment.frame_shape)),
        "reward": (np.float32, (count,)),
        "done": (np.bool_, (count,)),
        "episode_return": (np.float64, (count,)),
        "episode_length": (np.int64, (count,)),
    }
    assert {name: (value.dtype, value.shape) for name, value in vars(step).items()} == kinds


def test_steps_are_well_formed_and_tell_returns_and_lengths_at_an_episodes_end_alone(make):
    environment = make(3, 0)
    assert len(environment.names) == environment.count == 3
    play(environment, drawing(environment), 17)  # which a reset forgets
    first, *steps = play(environment, drawing(environment), 500)
    assert_well_formed(first, environment)
    total, length, ended = np.zeros(3), np.zeros(3, np.int64), 0
    assert_same(first, Step(first.frame, np.zeros(3, np.float32), np.ones(3, bool), total + np.nan, length))
    for step in steps:
        assert_well_formed(step, environment)
        total, length = total + step.reward, length + 1
        np.testing.assert_allclose(step.episode_return, np.where(step.done, total, np.nan))
        np.testing.assert_array_equal(step.episode_length, np.where(step.done, length, 0))
        total, length = np.where(step.done, 0, total), np.where(step.done, 0, length)
        ended = ended + step.done
    assert (ended > 0).all(), "no episode ended: the test would show little"


def test_what_happens_is_a_function_of_seed_environment_and_actions(make):
    """Whatever the number of environments, and of threads; and each is another."""
    many = make(7, 6)
    actions = np.random.default_rng(1).integers(many.n_actions, size=(200, 7))
    joint = following(many, actions)
    for first, count in ((0, 2), (4, 3)):
        rows = slice(first, first + count)
        for mine, whole in zip(following(make(count, 6, first), actions[:, rows]), joint, strict=True):
            assert_same(mine, whole, rows=rows)
    for one, other in zip(following(many, actions), joint, strict=True):
        if many.state() is not None:  # a reset begins again; of games that cannot be saved, on new levels
            assert_same(one, other)
    other = following(make(2, 7), actions[:, :2])
    assert any((a.frame != b.frame[:2]).any() for a, b in zip(other, joint, strict=True)), "no seed"
    assert any((step.frame[0] != step.frame[1]).any() for step in joint), "all environments are the same"


def test_the_cue_task_by_its_name():
    for environment in (
        make_environment("cue", 1, seed=5, first=2, levels=(0, 200), threads=7),
        make_environment(("cue",), 1, 5, first=2),
    ):
        assert_same(environment.reset(), CueEnvironment(1, 5, first=2).reset())
    assert action_names("cue")[:2] == ("red", "green")


def test_games_of_procgen_by_their_names(monkeypatch):
    """Which need not be there."""
    asked = []
    monkeypatch.setattr(
        environments, "ProcgenEnvironment", lambda *given, **named: asked.append((given, named))
    )
    options = {"first": 7, "mode": "hard", "levels": (3, 4), "threads": 2}
    make_environment("maze", 5, 6, **options)
    make_environment(["maze", "heist"], 5, 6)
    usual = {"first": 0, "mode": "easy", "levels": (0, 0), "threads": 0}
    assert asked == [((("maze",), 5, 6), options), ((("maze", "heist"), 5, 6), usual)]
    assert action_names("maze")[:2] == ("left down", "left")


@pytest.mark.parametrize(
    ("name", "mode", "message"),
    [
        ("pong", "easy", f"name must be one of cue, {', '.join(MODES)}; got 'pong'"),
        (("maze", "pong"), "easy", "name must be one of .*; got 'pong'"),
        (("cue", "maze"), "easy", "cannot be played beside them, got cue, maze"),
        ("cue", "hard", "mode must be 'easy' for cue, which has no other, got 'hard'"),
    ],
)
def test_what_cannot_be_made(name, mode, message):
    with pytest.raises(ValueError, match=f"make_environment: .*{message}"):
        make_environment(name, 2, 0, mode=mode)
