"""Several processes train to what one does on the joined batch."""

import dataclasses
import shutil

import pytest
import torch

from examples.rl.presets import PRESETS
from examples.training.run_folder import RunFolder
from tests.examples.launching import launch
from tests.examples.rl import processes
from tests.examples.rl.training import make_loop
from tests.examples.runs import without_times


@pytest.fixture(scope="module")
def jobs(tiny_settings, tmp_path_factory):
    """Name -> (what is done, settings)."""
    base = dataclasses.replace(tiny_settings, runs=tmp_path_factory.mktemp("runs"), games=("a", "b"))
    several = {
        "overlapped": base,
        "clipped": dataclasses.replace(base, clip=0.5, overlap=False),
        "turns": dataclasses.replace(base, environments=8, batch_size=4),
    }
    jobs = {
        name: ("whole_run", dataclasses.replace(settings, name=name)) for name, settings in several.items()
    }
    stopped = dataclasses.replace(base, name="stopped")
    cue = dataclasses.replace(PRESETS["cue-srwm"], name="cue", runs=base.runs, frames=1920)
    return {
        **jobs,
        "stopped": ("stopped_run", stopped),
        "resumed": ("resumed_run", dataclasses.replace(stopped, name="resumed", resume=True)),
        "cue": ("program", cue),
    }


@pytest.fixture(scope="module")
def results(jobs, tmp_path_factory):
    out = tmp_path_factory.mktemp("results")
    launch("tests.examples.rl.processes", jobs, out)
    return lambda name, rank: torch.load(out / f"{name}-{rank}.pt")


def assert_close(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-7, atol=1e-9, msg=name)


@pytest.mark.parametrize("name", ["overlapped", "clipped"])
def test_two_processes_end_with_the_weights_of_one(results, jobs, name):
    alone = dataclasses.replace(jobs[name][1], name=f"{name}-alone")
    expected = processes.whole_run(alone)
    for rank in range(2):
        assert_close(results(name, rank), expected)
    together, by_itself = (RunFolder(s.folder).reports() for s in (jobs[name][1], alone))
    for line, other in zip(together, by_itself, strict=True):
        for value in ("loss", "entropy", "gradient_norm", "episode_return", "episodes", "episode_return/a"):
            assert line[value] == pytest.approx(other[value], rel=1e-6), value


def test_the_program_leaves_the_weights_of_one_process(results, jobs):
    """Its own games and agent, in single precision, three updates."""
    found = results("cue", 0)
    expected = processes.program(dataclasses.replace(jobs["cue"][1], name="cue-alone"))
    shorter = processes.program(dataclasses.replace(jobs["cue"][1], name="cue-shorter", frames=640))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-5, msg=name)
    moved = max((value - shorter[name]).abs().max().item() for name, value in expected.items())
    assert moved > 1e-3


def test_blocks_that_take_turns_leave_both_processes_with_the_same_weights(results):
    one, other = (results("turns", rank) for rank in range(2))
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def test_only_the_main_process_writes(results, jobs):
    results("overlapped", 0)
    lines = (jobs["overlapped"][1].folder / "metrics.json").read_text().splitlines()
    assert len(lines) == len(set(lines)) == 3


def test_a_stop_asked_of_one_process_stops_both_and_they_go_on_to_the_same_weights(results, jobs):
    for rank in range(2):
        assert results("stopped", rank) == {"finished": False, "update": 3}
        for name, value in results("resumed", rank).items():
            assert torch.equal(value, results("overlapped", rank)[name]), name
    whole, parts = (RunFolder(jobs[name][1].folder).reports() for name in ("overlapped", "resumed"))
    for line, other in zip(whole, parts, strict=True):
        assert without_times(line) == pytest.approx(without_times(other))


def test_one_process_goes_on_with_new_episodes(results, jobs):
    """Where two have stopped: the games of both cannot be divided again."""
    settings = dataclasses.replace(jobs["stopped"][1], name="alone", resume=True)
    results("stopped", 0)
    shutil.copytree(jobs["stopped"][1].folder, settings.folder)
    loop = make_loop(settings)
    assert loop.progress.step == 3
    assert loop.work.actor.finish().dones[:, 0].all()
    loop.work.close()
