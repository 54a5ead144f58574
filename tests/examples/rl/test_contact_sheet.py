import itertools
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import tyro

from examples.rl import contact_sheet
from examples.rl.acting import RandomPolicy, play_episodes
from examples.rl.contact_sheet import Recording, Sheet, draw_sheet, main, record_episode, shown_steps
from examples.rl.environments import make_environment
from examples.rl.evaluate import load_run
from tests.examples.rl.fakes import FakeEnvironment, decided_agent
from tests.examples.rl.training import begun


@pytest.fixture
def folder(trained, tmp_path) -> Path:
    return shutil.copytree(trained / "s0", tmp_path / "s0")


def recording(T: int, rewards=None, finished=True) -> Recording:
    frames = np.random.default_rng(0).integers(256, size=(T, 3, 8, 8), dtype=np.uint8)
    rewards = np.zeros(T) if rewards is None else np.array(rewards)
    return Recording(frames, np.arange(T) % 2, np.linspace(0, 1, T), rewards, finished)


@pytest.mark.parametrize(("T", "count"), [(20, 20), (20, 11), (3, 24), (1, 5), (20, 1)])
def test_the_frames_that_were_asked_for_stand_row_by_row(drawn, tmp_path, T, count):
    path, given, shown = tmp_path / "sheet.png", recording(T, finished=False), shown_steps(T, count)
    draw_sheet(given, names=("left", "right"), frames=count, title="game", path=path)
    assert path.is_file()
    [figure] = drawn
    assert figure.get_suptitle() == f"game: {T} steps, return 0 so far"
    *panels, values = figure.axes
    for place, (axes, step) in enumerate(zip(panels, shown, strict=True)):
        [image], spec = axes.images, axes.get_subplotspec()
        np.testing.assert_array_equal(image.get_array(), given.frames[step].transpose(1, 2, 0))
        assert (spec.rowspan.start, spec.colspan.start) == divmod(place, min(8, len(shown)))
    np.testing.assert_array_equal(values.lines[0].get_ydata(), given.values)


def test_which_steps_are_shown():
    assert shown_steps(101, 5) == [0, 25, 50, 75, 100]
    assert shown_steps(9, 1) == [0]
    for total, count in itertools.product(range(1, 40), range(2, 12)):
        steps = shown_steps(total, count)
        assert (steps[0], steps[-1]) == (0, total - 1)
        assert len(set(steps)) == len(steps) == min(total, count)
        assert np.ptp(np.diff(steps)) <= 1 if total > 1 else steps == [0]


def test_below_a_frame_are_action_value_and_what_came_until_the_next(drawn, tmp_path):
    """Frames 0, 2 and 5; rewards -1, 10 and 100 after steps 1, 3 and 5."""
    given = recording(6, rewards=[0, -1.0, 0, 10, 0, 100])
    draw_sheet(given, names=("left", "right"), title="game", frames=3, path=tmp_path / "sheet.png")
    assert drawn[0].get_suptitle() == "game: 6 steps, return 109"
    assert [
        (axes.get_title(), axes.get_xlabel(), axes.xaxis.label.get_color()) for axes in drawn[0].axes[:3]
    ] == [
        ("t = 0", "left\nV 0.00   r -1", contact_sheet._LOSS),
        ("t = 2", "left\nV 0.40   r +10", contact_sheet._GAIN),
        ("t = 5", "right\nV 1.00   r +100", contact_sheet._GAIN),
    ]


@pytest.mark.parametrize("greedy", [True, False])
def test_the_recording_is_the_first_episode_or_its_beginning(greedy):
    agent, options = decided_agent(), {"greedy": greedy, "seed": 4}
    found = record_episode(agent, FakeEnvironment(1), **options, max_steps=100)
    assert found.finished
    replay = FakeEnvironment(1)
    step = replay.reset()
    for frame, action, reward in zip(found.frames, found.actions, found.rewards, strict=True):
        np.testing.assert_array_equal(frame, step.frame[0])
        step = replay.step(np.array([action]))
        assert step.reward[0] == reward
    assert step.done[0]
    assert step.episode_length[0] == len(found.values)
    before, first = torch.tensor([[0, *found.rewards[:-1]]]), torch.arange(len(found.frames))[None] == 0
    output, _ = agent(torch.from_numpy(found.frames)[None], before, first)
    np.testing.assert_allclose(found.values, output.values[0].detach(), rtol=1e-6)
    assert not greedy or found.actions.tolist() == output.logits[0].argmax(dim=-1).tolist()
    begun = record_episode(agent, FakeEnvironment(1), **options, max_steps=2)
    assert (len(begun.frames), begun.finished) == (2, False)


def test_a_sheet_of_a_run(folder, capsys):
    path = main(Sheet(run=folder, seed=3))
    assert path == folder / "contact_sheet.png"
    assert path.is_file()
    agent = load_run(contact_sheet.RunFolder(folder)).model
    [expected] = play_episodes(agent, make_environment("cue", 1, 3), 1, greedy=False, seed=3).lengths
    assert f"{path}: {expected} steps, return " in capsys.readouterr().out


@pytest.fixture
def asked(monkeypatch) -> dict:
    """What was asked for: the environment, the policy, the picture."""
    found: dict = {}

    def make(game, count, seed, *, mode, levels):
        found.update(game=game, count=count, seed=seed, mode=mode, levels=levels)
        return found.setdefault("environment", FakeEnvironment(count))

    def record(policy, environment, *, greedy, seed, max_steps):
        found.update(policy=policy, greedy=greedy, drawn_by=seed, max_steps=max_steps)
        return recording(3)

    monkeypatch.setattr(contact_sheet, "make_environment", make)
    monkeypatch.setattr("examples.rl.evaluate.make_environment", lambda *given, **named: FakeEnvironment(1))
    monkeypatch.setattr(contact_sheet, "record_episode", record)
    monkeypatch.setattr(contact_sheet, "draw_sheet", lambda recording, **named: found.update(named))
    return found


def test_what_is_played_for_a_sheet(settings, asked, tmp_path):
    run = begun(settings, "run", games=("maze", "heist"), mode="hard").path
    main(Sheet(run=run))
    usual = {"game": "maze", "count": 1, "mode": "hard", "levels": (1000, 200), "greedy": False}
    usual |= {"max_steps": 1000, "frames": 24, "title": "maze, lstm, 0 frames"}
    assert usual.items() <= asked.items()
    assert asked["names"][0] == "left down"
    assert asked["environment"].closed
    asked.clear()
    output = tmp_path / "other.png"
    sheet = Sheet(run, game="heist", level=7, greedy=True, random=True, seed=5, output=output)
    assert main(sheet) == output
    other = {"game": "heist", "levels": (7, 1), "greedy": True, "seed": 5, "drawn_by": 5, "path": output}
    assert other.items() <= asked.items()
    assert isinstance(asked["policy"], RandomPolicy)
    assert asked["title"] == "heist, acting at random"


def test_where_levels_have_no_numbers(settings, asked):
    run = begun(settings, "run", games=("maze",), mode="exploration", levels=0).path
    main(Sheet(run=run))
    assert asked["levels"] == (0, 0)
    with pytest.raises(ValueError, match="--level: this game's levels have no numbers; leave it out"):
        main(Sheet(run=run, level=3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"game": "maze"}, "--game must be one of the run's, cue; got 'maze'"),
        ({"level": 3}, "--level: this game's levels have no numbers; leave it out"),
        ({"frames": 0}, "--frames must be at least 1, got 0"),
        ({"max_steps": 0}, "--max-steps must be at least 1, got 0"),
        ({"seed": -1}, "--seed must be at least 0, got -1"),
        ({"level": -1}, "--level must be at least 0, got -1"),
    ],
)
def test_options_that_do_not_fit_are_named(folder, changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        main(Sheet(run=folder, **changes))


def test_the_command_line():
    given = tyro.cli(Sheet, args=["runs/a", "--level", "3", "--greedy"])
    assert given == Sheet(Path("runs/a"), level=3, greedy=True)
