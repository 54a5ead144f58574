"""Command lines, presets and help of every program."""

import dataclasses
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from examples.training.command_line import command_for
from examples.training.run_folder import RunFolder
from examples.training.settings import flag


def options(shown: str) -> dict[str, str]:
    """The text after each setting's flags, without its default, of a box of settings.

    A setting begins at the left edge of the box; its text follows after two spaces or more, or below.
    """
    texts: dict[str, str] = {}
    name = ""
    for line in boxed(shown):
        body = line[2:].rstrip(" │")  # without the edges
        if body.startswith("-"):
            flags, *text = re.split(" {2,}", body, maxsplit=1)
            name = re.split("[ ,]", flags)[0]
            texts[name] = "".join(text)
        elif name:
            texts[name] += " " + body.strip()
    return {name: re.sub(r"\(default: .*", "", text).strip() for name, text in texts.items()}


def boxed(shown: str) -> list[str]:
    """The lines of the box, whose edges are spaces where the output is no terminal."""
    lines = [line for line in shown.splitlines() if line.strip("╭─╮│╰╯ ")]
    [first] = [place for place, line in enumerate(lines) if line[2:].startswith("-h, --help")]
    return lines[first:]


@pytest.fixture
def shown(program, monkeypatch, capsys):
    """Of what the program prints before it leaves."""

    def run(*arguments: str, columns: int = 200) -> str:
        monkeypatch.setenv("COLUMNS", str(columns))
        with pytest.raises(SystemExit) as left:
            program.read(*arguments)
        assert left.value.code == 0
        return capsys.readouterr().out

    return run


def test_help_is_a_screen_of_what_one_needs(program, shown):
    text = shown("--help", columns=100)
    assert len(boxed(text)) <= 45
    kind = type(program.settings)
    assert set(kind.essential) <= {field.name for field in dataclasses.fields(kind)}
    assert set(options(text)) == {"-h", *map(flag, kind.essential)}
    assert set(program.presets.DESCRIPTIONS) <= set(re.split(r"[\s,]+", text))
    assert "--help-all" in text


def test_all_of_help_has_a_text_for_every_setting_and_preset(program, shown):
    text = shown("--help-all")
    found = options(text)
    for field in dataclasses.fields(program.settings):
        assert re.search(r"\w", found[flag(field.name)]), f"{flag(field.name)} has no text"
    assert found["--clip"] == "Largest norm of the gradient; a longer one is scaled down. 0 turns it off."
    for preset, description in program.presets.DESCRIPTIONS.items():
        assert re.search(rf"- {preset}\s*{re.escape(description)}", text)


def test_help_shows_the_values_of_the_chosen_preset(program, shown):
    for preset in ("glyphs-1shot-lstm", "cue-lstm"):
        if preset in program.presets.PRESETS:
            assert "(default: lstm)" in shown("--preset", preset, "--help")


def test_presets_fit_together_and_are_called_by_their_names(program):
    for name, preset in program.presets.PRESETS.items():
        preset.check()
        assert preset.preset == preset.name == name
        assert program.read("--preset", name) == preset


def test_a_name_that_leads_elsewhere_is_refused(program):
    with pytest.raises(ValueError, match=r"--name must be that of a folder below --runs, got '../x'"):
        dataclasses.replace(program.settings, name="../x").check()


def changed(settings, **more):
    """Other values of every kind."""
    values = {"name": "a b", "runs": Path("a/b"), "max_minutes": 1.5, "trackers": ("wandb",), **more}
    numbers = {
        field.name: not value if isinstance(value, bool) else value + 1
        for field in dataclasses.fields(settings)
        if isinstance(value := getattr(settings, field.name), (bool, int, float))
    }
    return dataclasses.replace(settings, **{**numbers, **values})


def test_records_and_commands_give_the_settings_back(program):
    for start in (type(program.settings)(), *program.presets.PRESETS.values()):
        settings = changed(start)
        assert type(settings).from_record(json.loads(json.dumps(settings.record()))) == settings
        words = shlex.split(command_for(settings, start))
        assert words[:3] == ["python", "-m", program.module.__name__]
        assert program.read(*words[3:]) == settings
    preset = next(iter(program.presets.PRESETS.values()))
    words = shlex.split(command_for(dataclasses.replace(preset, name="mine", seed=10), preset))[3:]
    assert words == ["--preset", preset.name, "--name", "mine", "--seed", "10"]


def test_smoke_shrinks_every_preset(program):
    for preset in program.presets.PRESETS.values():
        small = program.module.smoke(preset)
        small.check()
        assert sum(getattr(small, name, 0) for name in ("steps", "encoder_warmup_steps", "updates")) <= 6
        assert program.module.smoke(small) == small, "it was not as small as can be"
        for field in dataclasses.fields(preset):
            before, after = getattr(preset, field.name), getattr(small, field.name)
            if isinstance(before, int) and field.name != "image_size":
                assert after <= before, field.name


def test_smoke_runs_a_whole_preset(program, tmp_path):
    arguments = ["--preset", program.smoked, "--smoke", "--runs", str(tmp_path), "--threads", "1"]
    subprocess.run([sys.executable, "-m", program.module.__name__, *arguments], check=True)
    folder = RunFolder(tmp_path / f"{program.smoked}-smoke")
    renamed = {"episodes.png": "positions.png"} if "sequential" in program.smoked else {}
    assert {path.name for path in folder.path.iterdir()} == {
        renamed.get(name, name) for name in program.files
    }
