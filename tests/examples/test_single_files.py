"""The two files to learn from run as they are written, and learn."""

import runpy
import sys
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "examples"


def learnt(monkeypatch, file: str, *options: str) -> float:
    monkeypatch.setattr(sys, "argv", [file, *options])
    main = runpy.run_path(str(EXAMPLES / file))["main"]
    return main()


def test_the_parities_are_those_of_the_bits():
    drawn = runpy.run_path(str(EXAMPLES / "parity.py"))["draw"](40, 2, 9, torch.Generator().manual_seed(0))
    lengths = set()
    for bits, parities, mask in zip(*(a.tolist() for a in drawn), strict=True):
        lengths.add(length := sum(mask))
        assert mask == [True] * length + [False] * (9 - length)
        assert parities == [bits[: t + 1].count(1) % 2 == 0 for t in range(9)]
    assert lengths == set(range(2, 10))


def test_parity_is_learnt_and_right_on_words_twice_as_long(monkeypatch, capsys):
    assert learnt(monkeypatch, "parity.py", "--longest", "12", "--steps", "2000") == 1
    assert "100.0% of 13 to 24" in capsys.readouterr().out


def test_an_agent_learns_to_remember(monkeypatch):
    assert learnt(monkeypatch, "recall_agent.py") > 0.9


def test_an_agent_without_a_memory_stays_at_chance(monkeypatch):
    assert learnt(monkeypatch, "recall_agent.py", "--layer", "FeedForward", "--updates", "50") < 0.4


@pytest.mark.parametrize("file", ["parity.py", "recall_agent.py"])
def test_they_are_short_and_stand_alone(file):
    text = (EXAMPLES / file).read_text()
    assert len(text.splitlines()) < 150
    packages = {
        line.split()[1].split(".")[0] for line in text.splitlines() if line.startswith(("import ", "from "))
    }
    assert packages <= {"__future__", "argparse", "typing", "torch", "accelerate", "srwm"}
