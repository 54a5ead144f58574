import numpy as np
import pytest

from examples.rl.environments import action_names, make_environment, registry
from examples.rl.environments.cue import CueEnvironment
from examples.rl.environments.procgen import MODES


@pytest.fixture
def asked(monkeypatch) -> list:
    """What Procgen was asked for, which need not be there."""
    calls = []
    monkeypatch.setattr(
        registry, "ProcgenEnvironment", lambda *given, **named: calls.append((given, named))
    )
    return calls


def test_the_cue_task():
    environment = make_environment("cue", 3, seed=5, levels=(0, 200), threads=7)
    assert isinstance(environment, CueEnvironment)
    assert environment.count == 3
    np.testing.assert_array_equal(environment.reset().frame, CueEnvironment(3, 5).reset().frame)
    assert isinstance(make_environment(("cue",), 1, seed=0), CueEnvironment)
    later = make_environment("cue", 1, seed=5, first=2).reset().frame
    np.testing.assert_array_equal(later, environment.reset().frame[2:])


def test_games_of_procgen(asked):
    options = {"first": 7, "mode": "hard", "levels": (3, 4), "threads": 2}
    make_environment("maze", 5, 6, **options)
    make_environment(["maze", "heist"], 5, 6)
    usual = {"first": 0, "mode": "easy", "levels": (0, 0), "threads": 0}
    assert asked == [((("maze",), 5, 6), options), ((("maze", "heist"), 5, 6), usual)]


@pytest.mark.parametrize(
    ("name", "mode", "message"),
    [
        ("pong", "easy", f"name must be one of cue, {', '.join(MODES)}; got 'pong'"),
        (("maze", "pong"), "easy", "name must be one of .*; got 'pong'"),
        (("cue", "maze"), "easy", "cannot be played beside them, got cue, maze"),
        ("cue", "hard", "mode must be 'easy' for cue, which has no other, got 'hard'"),
        ((), "easy", "name must name at least one game"),
    ],
)
def test_what_cannot_be_made(name, mode, message):
    with pytest.raises(ValueError, match=f"make_environment: .*{message}"):
        make_environment(name, 2, 0, mode=mode)


@pytest.mark.parametrize("name", ["cue", "maze"])
def test_actions_have_names(name):
    assert action_names(name)[:2] == {"cue": ("red", "green"), "maze": ("left down", "left")}[name]
    assert len(action_names(name)) >= {"cue": CueEnvironment(1, 0).n_actions, "maze": 15}[name]
