"""An episode as one picture: what is recorded, and that the frames asked for are shown."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from examples.rl import contact_sheet
from examples.rl.contact_sheet import Sheet, draw_sheet, record_episode, shown_steps
from examples.rl.train import main as train
from tests.examples.rl.fakes import FakeEnvironment, fake_agent
from tests.examples.rl.test_evaluate import CUE


def test_a_recording_is_the_first_episode():
    environment = FakeEnvironment(1)
    agent = fake_agent(seed=1)
    recording = record_episode(agent, environment, greedy=True, seed=0, max_steps=100)
    assert recording.finished
    assert len(recording.frames) == environment.last.episode_length[0]
    assert recording.rewards.sum() == environment.last.episode_return[0]
    again = FakeEnvironment(1)
    step = again.reset()
    for frame, action, reward in zip(recording.frames, recording.actions, recording.rewards, strict=True):
        np.testing.assert_array_equal(frame, step.frame[0])
        step = again.step(np.array([action]))
        assert reward == step.reward[0]
    assert not agent.training


def test_recording_stops_when_told():
    recording = record_episode(fake_agent(), FakeEnvironment(1), greedy=False, seed=0, max_steps=2)
    assert not recording.finished
    assert len(recording.frames) == len(recording.values) == 2


@pytest.mark.parametrize(
    ("total", "count", "steps"),
    [(9, 5, [0, 2, 4, 6, 8]), (3, 24, [0, 1, 2]), (1, 5, [0]), (10, 1, [0]), (100, 3, [0, 50, 99])],
)
def test_shown_steps(total, count, steps):
    assert shown_steps(total, count) == steps


def test_the_frames_asked_for_are_in_the_picture(tmp_path):
    """Each step's frame has a colour of its own; those shown, and no others, cover much of the picture."""
    total = 9
    recording = contact_sheet.Recording(
        frames=np.stack([np.full((3, 4, 4), 0, np.uint8)] * total),
        actions=np.zeros(total, np.int64),
        values=np.linspace(0, 1, total),
        rewards=np.zeros(total),
        finished=True,
    )
    for step in range(total):
        recording.frames[step, :] = np.array([20 * step + 10, 255, 20 * step]).reshape(3, 1, 1)
    path = tmp_path / "sheet.png"
    draw_sheet(recording, names=("left",), frames=5, title="game", path=path)
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    shown = [
        step for step in range(total) if (pixels == [20 * step + 10, 255, 20 * step]).all(1).sum() > 1000
    ]
    assert shown == [0, 2, 4, 6, 8]


@pytest.fixture(scope="module")
def cue_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    assert train(dataclasses.replace(CUE, name="cue", runs=folder)) == 0
    return folder / "cue"


@pytest.mark.parametrize("changes", [{}, {"random": True, "greedy": True}])
def test_of_a_run(cue_run, tmp_path, changes, capsys):
    path = contact_sheet.main(Sheet(run=cue_run, output=tmp_path / "sheet.png", **changes))
    with Image.open(path) as image:
        assert image.size[0] > 400
    assert "steps, return" in capsys.readouterr().out


def test_by_default_it_lies_in_the_runs_folder(cue_run):
    assert contact_sheet.main(Sheet(run=cue_run)) == cue_run / "contact_sheet.png"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": 0}, "--frames must be at least 1, got 0"),
        ({"max_steps": 0}, "--max-steps must be at least 1"),
        ({"seed": -1}, "--seed must be at least 0"),
        ({"game": "maze"}, "--game must be one of the run's, cue; got 'maze'"),
        ({"level": 3}, "levels have no numbers"),
    ],
)
def test_what_does_not_fit_is_named(cue_run, change, message):
    with pytest.raises(ValueError, match=message):
        contact_sheet.main(Sheet(run=cue_run, **change))
