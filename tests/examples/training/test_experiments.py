"""Comparisons of a program that does not exist: which runs are carried out, and what is kept of them."""

import dataclasses
import json
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from examples.training import experiments
from examples.training.divergence import DIVERGED
from examples.training.experiments import (
    Comparison,
    ExperimentOptions,
    Results,
    compare,
    planned_runs,
    row_label,
)
from examples.training.files import read_json, write_json
from examples.training.interrupt import INTERRUPTED
from examples.training.run_folder import RunFolder
from examples.training.settings import FREE
from tests.examples.runs import write_run
from tests.examples.training import conftest


@dataclasses.dataclass(frozen=True)
class Settings(conftest.Settings):
    seed: int = 0
    threads: int = dataclasses.field(default=0, metadata=FREE)
    encoder_from: Path | None = None


def draw(results: Results, path: Path) -> None:
    path.write_text(str(results["count"]))


@dataclasses.dataclass(frozen=True)
class Study(experiments.Study[Settings]):
    """Runs are trained, then evaluated."""

    draw: Callable[[Results, Path], None] = draw
    episodes: int = 10

    def facts(self):
        return {"episodes": self.episodes}

    def of_seed(self, row, seed, threads, leader):
        return dataclasses.replace(row, seed=seed, threads=threads, encoder_from=leader)

    def programs(self, settings):
        train = f"python -m train {settings.folder}" + " --resume" * settings.resume
        return [train, f"python -m evaluate {settings.folder}"]

    def read(self, settings, reports):
        return {"result": read_json(self.evaluation(settings)), "curve": [line["step"] for line in reports]}

    def parameters(self, row):
        return 7

    def over_all(self, runs):
        return {"count": len(runs)}

    def table(self, results):
        rows = results["compared"].values()
        return "\n".join(f"| {row_label(row, results)} | {row['summary']['mean']} |" for row in rows)


def row(name: str, **changes) -> Settings:
    return Settings(name=name, **changes)


STUDIES = {
    "letters": Study("Letters", {"an LSTM": row("lstm"), "the first": row("first")}, leader="first"),
    "digits": Study("Digits", {"small": row("small"), "large": row("large", steps=9)}),
}


@pytest.fixture
def options(tmp_path: Path) -> ExperimentOptions:
    return ExperimentOptions(("letters",), seeds=(3, 5), runs=tmp_path / "runs", output=tmp_path / "out")


class Programs:
    """In the place of `subprocess.run`: what the programs of runs leave.

    Attributes
    ----------
    started : in their order, as "train lstm-seed3", with "--resume" behind it.
    does : what happens when one starts; it may return another exit status than 0.
    """

    def __init__(self) -> None:
        self.started: list[str] = []
        self.does: Callable[[str], int | None] = lambda name: 0

    def __call__(self, command, stdout, **_):
        _, _, program, folder, *resume = command
        settings = by_folder[Path(folder)]
        name = " ".join([program, settings.name, *resume])
        self.started.append(name)
        status = self.does(name) or 0
        stdout.write(f"{name} ends with {status}\n")
        if status == 0:
            mean = {3: 0.8, 5: 0.9}.get(settings.seed, 0.5)
            write_run(settings, [{"step": 1, "seconds": 60}, {"step": 2, "seconds": 120}], {"mean": mean})
            if program == "train":
                RunFolder(settings.folder).evaluation.unlink()
                RunFolder(settings.folder).checkpoint.touch()
        return subprocess.CompletedProcess(command, status)


by_folder: dict[Path, Settings] = {}


@pytest.fixture
def programs(options, monkeypatch) -> Iterator[Programs]:
    for study in STUDIES.values():
        for run in planned_runs(study, dataclasses.replace(options, seeds=(3, 5, 7))):
            by_folder[run.settings.folder] = run.settings
    programs = Programs()
    monkeypatch.setattr(experiments.subprocess, "run", programs)
    yield programs
    by_folder.clear()


def numbers(options: ExperimentOptions, name: str = "letters") -> dict:
    return json.loads((options.output / f"{name}.json").read_text())


def test_a_comparison_from_its_runs_to_its_table_and_picture(options, programs, capsys):
    options = dataclasses.replace(options, parallel=1)
    assert compare(options, STUDIES) == 0
    order = ["first-seed3", "first-seed5", "lstm-seed3", "lstm-seed5"]
    assert programs.started == [f"{program} {name}" for name in order for program in ("train", "evaluate")]
    results = numbers(options)
    assert list(results) == ["study", "title", "seeds", "episodes", "compared", "count"]
    assert (results["study"], results["seeds"]) == ("letters", [3, 5])
    assert list(results["compared"]) == ["lstm", "first"], "in the order of the study"
    entry = results["compared"]["lstm"]
    assert (entry["label"], entry["parameters"]) == ("an LSTM", 7)
    assert entry["settings"] == row("lstm").record()
    assert entry["runs"] == [
        {"seed": seed, "minutes": 2, "result": {"mean": mean}, "curve": [1, 2]}
        for seed, mean in ((3, 0.8), (5, 0.9))
    ]
    assert entry["summary"]["mean"] == pytest.approx(0.85)
    assert entry["summary"]["interval_95"] == pytest.approx(12.706 * 0.05, rel=1e-3)
    assert (options.output / "letters.png").read_text() == "4"
    assert "| an LSTM | 0.85" in capsys.readouterr().out


def test_a_run_waits_for_the_encoder_of_its_leader(options, programs):
    def does(name):
        run = name.split()[1]
        if run.startswith("first"):
            threading.Event().wait(0.05)
        else:
            leader = RunFolder(options.runs / run.replace("lstm", "first"))
            assert leader.evaluation.exists(), f"{run} was begun too early"

    programs.does = does
    assert compare(dataclasses.replace(options, parallel=4), STUDIES) == 0


def test_no_study_waits_for_the_last_run_of_another(options, programs):
    begun = threading.Event()

    def does(name):
        if name == "train lstm-seed5":
            assert begun.wait(timeout=60), "no run of the other study was begun"
        elif name.startswith("train large"):
            begun.set()

    programs.does = does
    assert compare(dataclasses.replace(options, studies=("letters", "digits")), STUDIES) == 0
    assert {file.name for file in options.output.glob("*.json")} == {"letters.json", "digits.json"}


def test_a_run_of_two_studies_is_trained_by_one_program_at_a_time(options, programs):
    studies = {"letters": STUDIES["letters"], "alone": Study("Alone", {"one": row("first")}, episodes=20)}
    running = Counter()

    def does(name):
        run = name.split()[1]
        running[run] += 1
        assert running[run] == 1, f"two programs in {run}"
        threading.Event().wait(0.02)
        running[run] -= 1

    programs.does = does
    assert compare(dataclasses.replace(options, studies=tuple(studies), parallel=4), studies) == 0
    assert Counter(programs.started)["train first-seed3 --resume"] == 1
    assert Counter(programs.started)["train first-seed3"] == 1


def test_finished_runs_are_not_trained_again_and_begun_ones_continue(options, programs):
    finished, begun, unevaluated, _ = (run.settings for run in planned_runs(STUDIES["letters"], options))
    for settings in (finished, begun, unevaluated):
        write_run(settings, [{"step": 1, "seconds": 60}], {"mean": 0.1})
    for settings in (begun, unevaluated):
        RunFolder(settings.folder).evaluation.unlink()
        RunFolder(settings.folder).checkpoint.touch()
    assert compare(options, STUDIES) == 0
    assert sorted(programs.started) == [
        "evaluate first-seed5",
        "evaluate lstm-seed3",
        "evaluate lstm-seed5",
        "train first-seed5 --resume",
        "train lstm-seed3 --resume",
        "train lstm-seed5",
    ]
    results = [run["result"] for run in numbers(options)["compared"]["first"]["runs"]]
    assert results == [{"mean": 0.1}, {"mean": 0.9}]
    programs.started.clear()
    assert compare(options, STUDIES) == 0
    assert programs.started == []


def test_a_run_with_other_settings_is_refused_before_any_is_begun(options, programs):
    last = planned_runs(STUDIES["letters"], options)[-1].settings
    write_run(dataclasses.replace(last, decay=0.25), [{"step": 1, "seconds": 60}], {"mean": 0.1})
    with pytest.raises(
        ValueError, match=r"lstm-seed5 was run with other settings \(--decay: was 0.25, now"
    ):
        compare(options, STUDIES)
    assert programs.started == []


def test_the_numbers_are_written_after_every_run(options, programs, monkeypatch):
    counts = []
    monkeypatch.setattr(experiments, "write_json", lambda path, results: counts.append(results["count"]))
    assert compare(options, STUDIES) == 0
    assert counts == [1, 2, 3, 4, 4]


def test_a_run_that_diverges_is_told_of_and_the_others_go_on(options, programs, capsys):
    programs.does = lambda name: DIVERGED if name == "train lstm-seed5" else 0
    options = dataclasses.replace(options, parallel=1, studies=("letters", "digits"))
    said = "train lstm-seed5 ends with 3"
    for count in (15, 0):
        programs.started.clear()
        assert compare(options, STUDIES) == 0
        assert len(programs.started) == count, "it is not tried again"
        assert f"diverged: lstm, seed 5: {said}" in capsys.readouterr().out
        results = numbers(options)
        assert [run["seed"] for run in results["compared"]["lstm"]["runs"]] == [3]
        assert results["diverged"] == [
            {"row": "lstm", "settings": row("lstm").record(), "seed": 5, "said": said}
        ]
    results["diverged"][0]["settings"]["decay"] = 0.25
    write_json(options.output / "letters.json", results)
    assert compare(options, STUDIES) == 0
    assert programs.started == ["train lstm-seed5"], "with other settings it is"


def test_what_takes_the_encoder_of_a_run_that_diverged_has_none(options, programs, capsys):
    programs.does = lambda name: DIVERGED if name.startswith("train first") else 0
    assert compare(dataclasses.replace(options, parallel=1), STUDIES) == 0
    assert programs.started == ["train first-seed3", "train first-seed5"]
    assert len(numbers(options)["diverged"]) == 4
    assert compare(options, STUDIES) == 0
    assert len(programs.started) == 2


def test_each_run_has_a_log_of_its_own(options, programs):
    studies = {"rates": Study("Rates", {f"{rate}": row(f"rate-{rate}") for rate in (0.1, 0.2)})}
    for run in planned_runs(studies["rates"], options):
        by_folder[run.settings.folder] = run.settings
    assert compare(dataclasses.replace(options, studies=("rates",)), studies) == 0
    assert {file.name for file in options.runs.glob("*.log")} == {
        f"rate-{rate}-seed{seed}.log" for rate in (0.1, 0.2) for seed in (3, 5)
    }
    log = (options.runs / "rate-0.1-seed3.log").read_text()
    assert log == "train rate-0.1-seed3 ends with 0\nevaluate rate-0.1-seed3 ends with 0\n"


@pytest.mark.parametrize("status", [1, INTERRUPTED])
def test_a_stopped_comparison_leaves_all_it_has_and_says_what_is_missing(options, programs, capsys, status):
    programs.does = lambda name: status if name == "train lstm-seed5" else 0
    options = dataclasses.replace(options, parallel=1, studies=("letters", "digits"))
    if status == INTERRUPTED:
        assert compare(options, STUDIES) == INTERRUPTED
    else:
        with pytest.raises(
            ChildProcessError, match=r"lstm-seed5 failed with status 1; see .*lstm-seed5\.log"
        ):
            compare(options, STUDIES)
    out = capsys.readouterr().out
    assert ("the same command goes on" in out) == (status == INTERRUPTED)
    assert programs.started[-1] == "train lstm-seed5", "nothing is begun afterwards"
    # The leader and digits, which has none, were before it.
    digits = numbers(options, "digits")
    assert [len(row["runs"]) for row in digits["compared"].values()] == [2, 2]
    letters = numbers(options)["compared"]
    assert [run["seed"] for run in letters["lstm"]["runs"]] == [3]
    assert letters["lstm"]["summary"] == {"mean": 0.8}
    assert "| an LSTM (1 of 2 seeds) | 0.8 |\n| the first | 0.85" in out
    assert (options.output / "letters.png").read_text() == "3"

    programs.does = lambda name: 0
    programs.started.clear()
    assert compare(options, STUDIES) == 0
    assert programs.started == ["train lstm-seed5", "evaluate lstm-seed5"]


def test_rows_without_a_run_are_named(options, programs, capsys):
    programs.does = lambda name: 1 if "lstm" in name else 0
    with pytest.raises(ChildProcessError):
        compare(dataclasses.replace(options, parallel=1), STUDIES)
    assert "no run yet: an LSTM" in capsys.readouterr().out
    assert list(numbers(options)["compared"]) == ["first"]


def test_what_ended_while_a_comparison_was_stopped_is_kept(options, programs):
    evaluating = threading.Event()

    def does(name):
        if name == "train first-seed3":
            assert evaluating.wait(timeout=60)
            return 1
        if name == "evaluate first-seed5":
            evaluating.set()
            threading.Event().wait(0.2)  # until the other one's failure is known

    programs.does = does
    with pytest.raises(ChildProcessError, match="first-seed3 failed"):
        compare(options, STUDIES)
    [entry] = numbers(options)["compared"].values()
    assert [run["seed"] for run in entry["runs"]] == [5]


class TestOnAnotherMachine:
    """Which has the numbers of a comparison, and none of its runs."""

    @pytest.fixture
    def elsewhere(self, options, programs, tmp_path) -> ExperimentOptions:
        assert compare(dataclasses.replace(options, studies=("letters", "digits")), STUDIES) == 0
        programs.started.clear()
        for run in tuple(by_folder):
            settings = by_folder[run]
            moved = dataclasses.replace(settings, runs=tmp_path / "elsewhere")
            if settings.encoder_from:
                moved = dataclasses.replace(
                    moved, encoder_from=tmp_path / "elsewhere" / settings.encoder_from.name
                )
            by_folder[moved.folder] = moved
        return dataclasses.replace(options, runs=tmp_path / "elsewhere")

    def test_more_seeds(self, elsewhere, programs):
        before = numbers(elsewhere)["compared"]["lstm"]["runs"]
        assert compare(dataclasses.replace(elsewhere, seeds=(3, 5, 7), parallel=1), STUDIES) == 0
        trained = [name for name in programs.started if name.startswith("train")]
        assert trained == ["train first-seed7", "train lstm-seed7"]
        assert numbers(elsewhere)["compared"]["lstm"]["runs"][:2] == before

    def test_a_leader_is_trained_for_the_runs_that_need_its_encoder(self, elsewhere, programs):
        results = numbers(elsewhere)
        results["compared"]["lstm"]["runs"].pop()
        write_json(elsewhere.output / "letters.json", results)
        assert compare(dataclasses.replace(elsewhere, parallel=1), STUDIES) == 0
        trained = [name for name in programs.started if name.startswith("train")]
        assert trained == ["train first-seed5", "train lstm-seed5"]

    def test_again(self, elsewhere, programs):
        assert compare(dataclasses.replace(elsewhere, again=True), STUDIES) == 0
        assert len(programs.started) == 8

    @pytest.mark.parametrize(
        ("change", "told", "again"),
        [
            (
                lambda recorded: recorded["compared"]["large"]["settings"].update(steps=8),
                "large is run again, it was run otherwise (--steps: was 8, now 9)",
                {"large-seed3", "large-seed5"},
            ),
            (
                lambda recorded: recorded.update(episodes=20),
                "large is run again, it was run otherwise (episodes: was 20, now 10)",
                {"small-seed3", "small-seed5", "large-seed3", "large-seed5"},
            ),
            # One that came later has its default; without another one, it was another version.
            (
                lambda recorded: recorded["compared"]["large"]["settings"].pop("decay"),
                "large is run again, it was run otherwise (--decay: was None, now 0.5)",
                {"large-seed3", "large-seed5"},
            ),
            (lambda recorded: recorded["compared"]["large"]["settings"].pop("share"), "", set()),
        ],
    )
    def test_runs_that_were_made_otherwise_are_made_again(
        self, elsewhere, programs, capsys, change, told, again
    ):
        recorded = numbers(elsewhere, "digits")
        change(recorded)
        write_json(elsewhere.output / "digits.json", recorded)
        assert compare(dataclasses.replace(elsewhere, studies=("digits",)), STUDIES) == 0
        assert {name.split()[1] for name in programs.started} == again
        assert told in capsys.readouterr().out

    def test_a_file_of_something_else_is_refused(self, elsewhere, programs):
        write_json(elsewhere.output / "digits.json", {"learner": {"mean": 0.5}})
        with pytest.raises(ValueError, match="holds no numbers of the study digits; move it away"):
            Comparison("digits", STUDIES["digits"], elsewhere)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"studies": ()}, "studies are letters, digits, got none"),
        ({"studies": ("maze",)}, "got maze"),
        ({"seeds": ()}, "at least one"),
        ({"seeds": (1, 1)}, "all different"),
        ({"threads": 0}, "--threads must be at least 1, got 0"),
        ({"parallel": 0}, "--parallel must be at least 1, got 0"),
    ],
)
def test_options_that_do_not_fit(options, programs, change, message):
    with pytest.raises(ValueError, match=message):
        compare(dataclasses.replace(options, **change), STUDIES)
    assert programs.started == []
