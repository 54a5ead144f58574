import dataclasses
import itertools
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import tyro
from PIL import Image

from examples.rl import contact_sheet
from examples.rl.contact_sheet import Recording, Sheet, draw_sheet, main, record_episode, shown_steps
from examples.rl.environments import make_environment
from examples.rl.episodes import play_episodes
from examples.rl.evaluate import load_run
from examples.rl.random_policy import RandomPolicy
from tests.examples.rl.fakes import FakeEnvironment, decided_agent, fake_agent
from tests.examples.rl.training import begun


@pytest.fixture
def folder(trained, tmp_path) -> Path:
    return shutil.copytree(trained / "s0", tmp_path / "s0")


def colour(step: int) -> tuple[int, int, int]:
    """One that neither text nor lines have, another for each step."""
    return 200, 10 * step + 5, 250 - 10 * step


def recording(T: int, **changes) -> Recording:
    pixels = np.array([colour(step) for step in range(T)], np.uint8)
    frames = np.broadcast_to(pixels[:, :, None, None], (T, 3, 8, 8))
    values = {
        "frames": frames,
        "actions": np.arange(T) % 2,
        "values": np.linspace(0, 1, T),
        "rewards": np.where(np.arange(T) % 3 == 2, 1.0, 0.0),
        "finished": True,
    }
    return Recording(**(values | changes))


def places(path: Path, T: int) -> dict[int, tuple[float, float]]:
    """The steps whose frames can be seen, and the middle of each, from above and from the left."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    found = {}
    for step in range(T):
        rows, columns = np.nonzero((pixels == colour(step)).all(axis=-1))
        if len(rows) > 1000:
            found[step] = (rows.mean(), columns.mean())
    return found


@pytest.mark.parametrize(("T", "count"), [(20, 20), (20, 11), (3, 24), (1, 5), (20, 1)])
def test_the_frames_that_were_asked_for_are_seen_in_their_order(tmp_path, T, count):
    path = tmp_path / "sheet.png"
    draw_sheet(recording(T), names=("left", "right"), frames=count, title="game", path=path)
    found = places(path, T)
    assert list(found) == shown_steps(T, count)
    by_row: dict[int, list[int]] = {}
    for step, (row, _) in found.items():
        by_row.setdefault(round(row), []).append(step)
    ordered = sorted(by_row.items())
    read = [step for _, steps in ordered for step in sorted(steps, key=lambda step: found[step][1])]
    assert read == list(found), "not row by row, from the left"
    assert max(map(len, by_row.values())) == min(8, len(found))


def test_which_steps_are_shown():
    assert shown_steps(101, 5) == [0, 25, 50, 75, 100]
    assert shown_steps(9, 1) == [0]
    for total, count in itertools.product(range(1, 40), range(2, 12)):
        steps = shown_steps(total, count)
        assert (steps[0], steps[-1]) == (0, total - 1)
        assert len(set(steps)) == len(steps) == min(total, count)
        assert np.ptp(np.diff(steps)) <= 1 if total > 1 else steps == [0]


def texts_of(monkeypatch, recording: Recording) -> tuple[str, list[tuple[str, str, str]]]:
    """The title, and of each of three frames its title, what is below it, and in which colour."""
    figures = []
    monkeypatch.setattr(
        contact_sheet.Figure, "savefig", lambda figure, *given, **named: figures.append(figure)
    )
    draw_sheet(recording, names=("left", "right"), title="game", frames=3, path=Path("not written"))
    [figure] = figures
    return figure.get_suptitle(), [
        (axes.get_title(), axes.get_xlabel(), axes.xaxis.label.get_color()) for axes in figure.axes
    ]


def test_below_a_frame_are_action_value_and_what_came_until_the_next(monkeypatch):
    """Frames 0, 2 and 5; rewards -1, 10 and 100 after steps 1, 3 and 5."""
    rewards = np.array([0, -1.0, 0, 10, 0, 100])
    title, texts = texts_of(monkeypatch, recording(6, rewards=rewards))
    assert title == "game: 6 steps, return 109"
    assert [text[:2] for text in texts[:3]] == [
        ("t = 0", "left\nV 0.00   r -1"),
        ("t = 2", "left\nV 0.40   r +10"),
        ("t = 5", "right\nV 1.00   r +100"),
    ]
    assert texts[0][2] == contact_sheet._LOSS
    assert texts[1][2] == texts[2][2] == contact_sheet._GAIN


def test_an_episode_that_was_broken_off_says_so(monkeypatch):
    title, _ = texts_of(monkeypatch, recording(3, finished=False))
    assert title == "game: 3 steps, return 1 so far"


@pytest.mark.parametrize("greedy", [True, False])
def test_the_recording_is_the_first_episode(greedy):
    agent = decided_agent()
    found = record_episode(agent, FakeEnvironment(1), greedy=greedy, seed=4, max_steps=100)
    assert found.finished
    replay = FakeEnvironment(1)
    step = replay.reset()
    for frame, action, reward in zip(found.frames, found.actions, found.rewards, strict=True):
        np.testing.assert_array_equal(frame, step.frame[0])
        step = replay.step(np.array([action]))
        assert step.reward[0] == reward
    assert step.done[0]
    assert step.episode_length[0] == len(found.values)
    T = len(found.frames)
    before = torch.tensor([[0, *found.rewards[:-1]]])
    output, _ = agent(torch.from_numpy(found.frames)[None], before, torch.arange(T)[None] == 0)
    np.testing.assert_allclose(found.values, output.values[0].detach(), rtol=1e-6)
    if greedy:
        np.testing.assert_array_equal(found.actions, output.logits[0].argmax(dim=-1))


def test_recording_stops_after_the_steps_that_were_allowed():
    found = record_episode(fake_agent(), FakeEnvironment(1), greedy=True, seed=0, max_steps=2)
    assert len(found.frames) == 2
    assert not found.finished


def test_a_sheet_of_a_run(folder, capsys):
    path = main(Sheet(run=folder, seed=3))
    assert path == folder / "contact_sheet.png"
    assert path.is_file()
    [expected] = play_episodes(
        load_run(contact_sheet.RunFolder(folder)).model,
        make_environment("cue", 1, 3),
        1,
        greedy=False,
        seed=3,
    ).lengths
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
    assert (asked["game"], asked["count"], asked["mode"]) == ("maze", 1, "hard")
    assert asked["levels"] == (1000, 200)
    assert (asked["greedy"], asked["max_steps"], asked["frames"]) == (False, 1000, 24)
    assert asked["title"] == "maze, lstm, 0 frames"
    assert asked["names"][0] == "left down"
    assert asked["environment"].closed
    asked.clear()
    output = tmp_path / "other.png"
    sheet = Sheet(run, game="heist", level=7, greedy=True, random=True, seed=5, output=output)
    assert main(sheet) == output == asked["path"]
    assert (asked["game"], asked["levels"], asked["greedy"]) == ("heist", (7, 1), True)
    assert asked["seed"] == asked["drawn_by"] == 5
    assert isinstance(asked["policy"], RandomPolicy)
    assert asked["title"] == "heist, acting at random"


def test_where_levels_have_no_numbers(settings, asked):
    run = begun(settings, "run", games=("maze",), mode="exploration", levels=0).path
    main(Sheet(run=run))
    assert asked["levels"] == (0, 0)
    with pytest.raises(ValueError, match="--level: this game's levels have no numbers; leave it out"):
        main(Sheet(run=run, level=3))


def test_options_that_do_not_fit_are_named(folder):
    for changes, message in (
        ({"game": "maze"}, "--game must be one of the run's, cue; got 'maze'"),
        ({"level": 3}, "--level: this game's levels have no numbers; leave it out"),
        ({"frames": 0}, "--frames must be at least 1, got 0"),
        ({"max_steps": 0}, "--max-steps must be at least 1, got 0"),
        ({"seed": -1}, "--seed must be at least 0, got -1"),
        ({"level": -1}, "--level must be at least 0, got -1"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            main(dataclasses.replace(Sheet(run=folder), **changes))


def test_the_command_line():
    assert tyro.cli(Sheet, args=["runs/a", "--level", "3", "--greedy"]) == Sheet(
        Path("runs/a"), level=3, greedy=True
    )
