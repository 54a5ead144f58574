"""What the training programs print when they are asked for help."""

import dataclasses
import os
import re
import subprocess
import sys

import pytest

from examples.fewshot.settings import Settings as FewshotSettings
from examples.rl.settings import Settings as RlSettings
from examples.training.settings import flag


def texts_by_flag(shown: str) -> dict[str, str]:
    """The text after each setting's flags, without its default, of a box of settings.

    A setting begins at the left edge of the box; its text follows after two spaces or more, or below.
    """
    texts: dict[str, str] = {}
    name = ""
    for line in shown.splitlines():
        body = line[2:].rstrip(" │")  # without the edges
        if body.startswith("-"):
            flags, *text = re.split(" {2,}", body, maxsplit=1)
            name = re.split("[ ,]", flags)[0]
            texts[name] = "".join(text)
        elif name:
            texts[name] += " " + body.strip()
    return {name: re.sub(r"\(default: .*", "", text).strip() for name, text in texts.items()}


@pytest.mark.parametrize(
    ("program", "settings"),
    [("examples.fewshot.train", FewshotSettings), ("examples.rl.train", RlSettings)],
)
def test_help_has_a_text_for_every_setting(program, settings):
    shown = subprocess.run(
        [sys.executable, "-m", program, "--help"],
        capture_output=True,
        encoding="utf-8",
        check=True,
        env={**os.environ, "COLUMNS": "200", "PYTHONUTF8": "1"},
    ).stdout
    texts = texts_by_flag(shown)
    for field in dataclasses.fields(settings):
        assert re.search(r"\w", texts[flag(field.name)]), f"{flag(field.name)} has no text"
    assert texts["--clip"] == "Largest norm of the gradient; a longer one is scaled down. 0 turns it off."
