"""Shares of words, positions and prefixes, against models whose errors are known."""

import numpy as np
import pytest
import torch
from torch import nn

from examples.languages import scores as module
from examples.languages.scores import Scores, score
from examples.languages.tasks import TASKS
from examples.languages.words import draw_word

SIZE = {"seed": 0, "use": "test", "count": 40, "low": 3, "high": 30}


class Oracle(nn.Module):
    """Right at every position of a parity word, but for those from `wrong_from` on, counted from 1."""

    def __init__(self, wrong_from: int) -> None:
        super().__init__()
        self.wrong_from = wrong_from
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        assert not self.training
        even = 1 - tokens.cumsum(1) % 2
        is_wrong = torch.arange(1, tokens.shape[1] + 1) >= self.wrong_from
        return nn.functional.one_hot(torch.where(is_wrong, 1 - even, even), 2).float()


@pytest.mark.parametrize("positions", [16_384, 50])  # all words at once, and one or a few
def test_words_are_right_up_to_the_first_error(monkeypatch, positions):
    monkeypatch.setattr(module, "_POSITIONS", positions)
    found = score(Oracle(11), TASKS["parity"], **SIZE)
    lengths = [len(draw_word(TASKS["parity"], 0, "test", n, 3, 30).tokens) for n in range(40)]
    assert found.lengths.tolist() == lengths
    assert found.whole.tolist() == [length < 11 for length in lengths]
    assert found.words == np.mean(found.whole)
    assert found.positions == sum(min(length, 10) for length in lengths) / sum(lengths)
    assert found.prefix(0.9) == found.prefix(1.0) == 10


def test_a_model_without_errors_has_all():
    found = score(Oracle(1000), TASKS["parity"], **SIZE)
    assert found.words == found.positions == 1
    assert found.prefix(0.99) == found.lengths.max()


def test_prefixes_are_those_of_the_words_that_are_so_long():
    right = np.array([[True, True, True, True], [True, False, True, True], [True, True, True, True]])
    scored = np.array([[True, True, False, False], [True] * 4, [True] * 4])
    found = Scores(np.array([2, 4, 4]), right, scored)
    # Of the first position all, of the second two of three, of the third one of two.
    assert [found.prefix(share) for share in (0.5, 0.6, 0.7)] == [4, 2, 1]
    assert found.words == 2 / 3
    assert found.positions == 9 / 10


def test_positions_that_do_not_count_are_no_errors():
    task = TASKS["listops"]
    found = score(_Constant(len(task.labels)), task, seed=0, use="test", count=30, low=5, high=40)
    values = [draw_word(task, 0, "test", n, 5, 40).labels[-1] for n in range(30)]
    assert found.words == found.positions == np.mean([value == 0 for value in values])


class _Constant(nn.Module):
    def __init__(self, labels: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.eye(labels)[0])

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(*tokens.shape, -1)
