"""What every environment owes to the protocol, the one that the other tests play too."""

import numpy as np
import pytest

from examples.rl.environments.cue import CueEnvironment
from examples.rl.environments.procgen import ProcgenEnvironment, unusable
from examples.rl.environments.vector import Step
from tests.examples.rl.fakes import FakeEnvironment


@pytest.fixture(params=["cue", "procgen", "fake"])
def make(request):
    """Makes environments (count, seed, first=0) with short episodes."""
    if request.param == "procgen" and unusable() is not None:
        pytest.skip(unusable())
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
    steps = play(environment, drawing(environment), 500)
    first = steps[0]
    assert first.done.all()
    assert not first.reward.any()
    total, length, ended = np.zeros(3), np.zeros(3, np.int64), 0
    for step in steps:
        assert_well_formed(step, environment)
        if step is first:
            assert_same(Step(step.frame, step.reward, step.done, total + np.nan, length), step)
            continue
        total, length = total + step.reward, length + 1
        np.testing.assert_allclose(step.episode_return, np.where(step.done, total, np.nan))
        np.testing.assert_array_equal(step.episode_length, np.where(step.done, length, 0))
        total, length, ended = (
            np.where(step.done, 0, total),
            np.where(step.done, 0, length),
            ended + step.done,
        )
    assert (ended > 0).all(), "no episode ended: the test would show little"


def test_what_happens_is_a_function_of_seed_environment_and_actions(make):
    """Whatever the number of environments, and of threads; and each is another."""
    many = make(7, 6)
    actions = np.random.default_rng(1).integers(many.n_actions, size=(200, 7))

    def steps(environment, rows=slice(None)):
        return [environment.reset(), *(environment.step(action[rows]) for action in actions)]

    joint = steps(many)
    for first, count in ((0, 2), (4, 3)):
        rows = slice(first, first + count)
        for mine, whole in zip(steps(make(count, 6, first=first), rows), joint, strict=True):
            assert_same(mine, whole, rows=rows)
    for one, other in zip(steps(many), joint, strict=True):
        if many.state() is not None:  # a reset begins again; of games that cannot be saved, on new levels
            assert_same(one, other)
    other = steps(make(2, 7), slice(2))
    assert any((a.frame != b.frame[:2]).any() for a, b in zip(other, joint, strict=True)), "no seed"
    assert any((step.frame[0] != step.frame[1]).any() for step in joint), "all environments are the same"


def test_actions_that_do_not_exist_and_steps_before_a_reset_are_refused(make):
    environment = make(2, 0)
    with pytest.raises(ValueError, match="step: no episode has begun; call reset first"):
        environment.step(np.zeros(2, np.int64))
    environment.reset()
    A = environment.n_actions
    for actions, message in (
        (np.zeros(3, np.int64), r"\(2,\) integers, .* got \(3,\) of int64"),
        (np.zeros(2), r"\(2,\) integers, .* got \(2,\) of float64"),
        (np.array([0, A]), f"from 0 to {A - 1}, got 0 to {A}"),
        (np.array([-1, 3]), f"from 0 to {A - 1}, got -1 to 3"),
    ):
        with pytest.raises(ValueError, match=f"step: actions must be {message}"):
            environment.step(actions)
