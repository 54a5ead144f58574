import dataclasses
import shlex
import sys

import pytest
import tyro

from examples.training.command_line import choose, command_for, run_program, start_of
from examples.training.divergence import DIVERGED, DivergenceError
from examples.training.files import write_json
from examples.training.program import resuming
from examples.training.run_folder import RunFolder
from tests.examples.training.conftest import Settings

PRESETS = {"few": Settings(preset="few", name="few", steps=2), "many": Settings(preset="many", steps=99)}
DESCRIPTIONS = {"few": "only two", "many": "ninety-nine"}


def test_an_unknown_preset_is_answered_with_those_called_alike_or_all():
    for name, hint in (("mony", r"did you mean many\?"), ("nil", "there are few, many")):
        with pytest.raises(ValueError, match=rf"train: --preset: there is none called '{name}'; {hint}$"):
            choose(PRESETS, name)


@pytest.fixture
def recorded(tmp_path) -> Settings:
    """Of a run that was begun anew on a preset."""
    settings = dataclasses.replace(
        PRESETS["few"], name="mine", runs=tmp_path / "my runs", steps=5, overwrite=True, root=tmp_path
    )
    folder = RunFolder(settings.folder)
    folder.path.mkdir(parents=True)
    write_json(folder.config, settings.record())
    return settings


def start(*arguments) -> Settings:
    return start_of(arguments, PRESETS, Settings())


def test_a_resumed_run_starts_from_what_was_recorded(recorded):
    where = ("--name", "mine", "--runs", str(recorded.runs))
    read = tyro.cli(Settings, default=start("--resume", *where), args=["--resume", *where])
    assert read == dataclasses.replace(recorded, resume=True, overwrite=False)
    assert start(*where) == Settings(), "a new run does not"
    assert start("--resume", "--preset=many", *where) == PRESETS["many"]
    assert start("--resume", "--runs", str(recorded.runs)) == Settings(), "there is none"


def test_what_another_program_recorded_is_not_resumed(recorded):
    config = RunFolder(recorded.folder).config
    write_json(config, {**recorded.record(), "alpha": 1})
    with pytest.raises(ValueError, match=r"nothing: expected the recorded settings .* have alpha; use"):
        start("--resume", "--name", "mine", "--runs", str(recorded.runs))


def test_the_command_that_resumes_names_the_place_and_what_is_not_recorded(recorded):
    words = shlex.split(resuming(recorded, RunFolder(recorded.folder)))
    where = ["--name", "mine", "--runs", str(recorded.runs)]
    assert words == ["python", "-m", "nothing", *where, "--resume"]
    changed = dataclasses.replace(recorded, max_minutes=3.0)
    assert shlex.split(resuming(changed, RunFolder(recorded.folder))) == [*words, "--max-minutes", "3.0"]


def test_the_command_names_the_preset_and_what_differs_from_it():
    changed = dataclasses.replace(PRESETS["few"], name="a b", augment=True, betas=(0.5,), resume=True)
    words = shlex.split(command_for(changed, PRESETS["few"]))
    assert words == [
        *("python", "-m", "nothing", "--preset", "few", "--name", "a b", "--resume"),
        *("--augment", "--betas", "0.5"),
    ]
    assert tyro.cli(Settings, default=PRESETS["few"], args=words[3:]) == changed
    plain = Settings(augment=False, steps=3)
    [*_, steps, count, no] = shlex.split(command_for(plain, Settings(augment=True)))
    assert (steps, count, no) == ("--steps", "3", "--no-augment")


def run(monkeypatch, main, *arguments):
    monkeypatch.setattr(sys, "argv", ["train", *arguments])
    with pytest.raises(SystemExit) as left:
        run_program(main, PRESETS, DESCRIPTIONS, Settings(), lambda s: dataclasses.replace(s, steps=1))
    return left.value.code


def test_a_program_starts_from_the_preset_and_ends_with_its_status(monkeypatch):
    seen = []

    def main(settings):
        seen.append(settings)
        return 7

    few = dataclasses.replace(PRESETS["few"], decay=0.25)
    assert run(monkeypatch, main, "--preset", "few", "--decay", "0.25") == 7
    assert run(monkeypatch, main, "--preset", "few", "--decay", "0.25", "--smoke") == 7
    assert seen == [few, dataclasses.replace(few, name="few-smoke", overwrite=True, steps=1)]
    assert "--preset: there is none called 'nil'" in run(monkeypatch, None, "--preset", "nil")


def test_a_run_that_diverged_has_an_exit_status_of_its_own(monkeypatch, capsys):
    def main(settings):
        raise DivergenceError("train: it has diverged")

    assert run(monkeypatch, main) == DIVERGED
    assert capsys.readouterr().err == "train: it has diverged\n"
