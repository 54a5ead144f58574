"""Several processes train to what one does on the joined batch, and stop together."""

import dataclasses

import pytest
import torch

from examples.training.checkpoint import load
from examples.training.interrupt import INTERRUPTED
from examples.training.run_folder import RunFolder
from tests.examples import processes
from tests.examples.launching import launch
from tests.examples.programs import PROGRAMS
from tests.examples.runs import act_in_step, press_ctrl_c, without_times


@pytest.fixture(scope="module", params=PROGRAMS.values(), ids=str)
def program(request):
    return request.param


@pytest.fixture(scope="module")
def jobs(program, tmp_path_factory):
    """Name -> (what is done, settings)."""
    runs = tmp_path_factory.mktemp("runs")
    first = next(iter(program.together))
    jobs = {
        name: ("whole", program.of_kind(name, name=name, runs=runs))
        for name in (*program.together, *program.apart)
    }
    for name, what, kind in (
        ("stopped", "stopped", first),
        ("resumed", "resumed", first),
        ("in-use", "refused", "program"),
        ("no-folder", "refused", "program"),
        ("full-disk", "full_disk", "program"),
        ("interrupted", "interrupted", "program"),  # the last, as it takes leave of the other process
    ):
        jobs[name] = what, program.of_kind(kind, name=name, runs=runs, resume=name == "resumed")
    return jobs


@pytest.fixture(scope="module")
def results(program, jobs, tmp_path_factory):
    out = tmp_path_factory.mktemp("results")
    in_use = RunFolder(jobs["in-use"][1].folder)  # for as long as it is held
    in_use.claim()
    jobs["no-folder"][1].folder.touch()
    launch("tests.examples.processes", jobs, out, program.name)
    return lambda name: [torch.load(out / f"{name}-{rank}.pt") for rank in range(2)]


@pytest.fixture
def alone(program, jobs, monkeypatch):
    """The settings of a job's run in a folder of its own."""
    program.stand_in(monkeypatch.setattr)
    program.without_pictures(monkeypatch.setattr)
    return lambda name: dataclasses.replace(jobs[name][1], name=f"{name}-alone")


def assert_close(found, expected, tolerance):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        error = (found[name] - value).abs().max()
        assert error <= tolerance * max(value.abs().max(), 1e-2), name


def nearly(line, relative):
    return {
        name: pytest.approx(value, rel=relative) if isinstance(value, float) else value
        for name, value in without_times(line).items()
    }


def test_two_processes_end_with_the_numbers_of_one(program, results, jobs, alone):
    for name in program.together:
        settings = alone(name)
        expected = processes.whole(program, settings)
        assert sum(value.dtype == torch.float64 for value in expected.values()) > 5
        for found in results(name):
            assert_close(found, expected, 1e-7)
        both, one = (RunFolder(of.folder).reports() for of in (jobs[name][1], settings))
        for line, other in zip(both, one, strict=True):
            assert without_times(line) == nearly(other, 1e-6)


def test_all_processes_have_the_same_numbers(program, results):
    for name in (*program.together, *program.apart):
        one, other = results(name)
        for number, value in one.items():
            assert torch.equal(value, other[number]), (name, number)


def test_a_stop_asked_of_one_process_stops_both_and_they_go_on_to_the_same_numbers(program, results, jobs):
    first = next(iter(program.together))
    for stopped, resumed, whole in zip(*map(results, ("stopped", "resumed", first)), strict=True):
        assert stopped == {"finished": False, "steps": 3}
        for name, value in whole.items():
            assert torch.equal(value, resumed[name]), name
    parts, whole = (RunFolder(jobs[name][1].folder).reports() for name in ("resumed", first))
    for line, other in zip(parts, whole, strict=True):
        assert without_times(line) == nearly(other, 1e-12)


def test_the_program_stops_where_one_process_does_and_one_alone_goes_on(
    program, results, jobs, alone, monkeypatch
):
    """In single precision, with games and agents of its own."""
    assert results("interrupted") == [{"status": INTERRUPTED}] * 2
    settings = jobs["interrupted"][1]
    with monkeypatch.context() as patch:
        act_in_step(patch, program.module.Training, 2, press_ctrl_c)
        assert program.module.main(alone("interrupted")) == INTERRUPTED
    both, one = (load(RunFolder(of.folder).checkpoint) for of in (settings, alone("interrupted")))
    assert both["progress"]["step"] == one["progress"]["step"] == 3
    for name, value in one[program.weights].items():
        torch.testing.assert_close(both[program.weights][name], value, rtol=0, atol=1e-5, msg=name)
    assert program.module.main(dataclasses.replace(settings, resume=True)) == 0
    lines = [line for line in RunFolder(settings.folder).reports() if line["split"] == "train"]
    assert [line.get("step", line.get("update")) for line in lines] == [2, 4, 6]


def test_a_run_in_use_a_folder_that_cannot_be_made_and_a_full_disk_stop_all_processes(results, jobs):
    for name, message in {
        "in-use": "in-use is in use: another program",
        "no-folder": "no-folder: File exists; make room there, mend its permissions or choose another",
        "full-disk": "process 0 has no room",
    }.items():
        assert all(message in found["error"] for found in results(name))
    assert {path.name for path in jobs["in-use"][1].folder.iterdir()} == {".lock"}
    assert load(RunFolder(jobs["full-disk"][1].folder).checkpoint)["progress"]["step"] == 0
