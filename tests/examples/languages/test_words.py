"""Batches of words: a word depends on its number alone, and padding counts nowhere."""

import numpy as np
import torch

from examples.languages.settings import Settings
from examples.languages.tasks import TASKS, Word
from examples.languages.words import NOT_SCORED, TrainingWords, batch_of, draw_word


def words_of(batch) -> list[tuple[list[int], list[int]]]:
    """Tokens and labels of each word, without its padding."""
    return [
        (tokens[mask].tolist(), labels[mask].tolist())
        for tokens, labels, mask in zip(batch["tokens"], batch["labels"], batch["mask"], strict=True)
    ]


def test_a_word_is_the_same_however_batches_are_cut():
    draw = TrainingWords(TASKS["dyck-1"], 3, 2, lambda number: 2 + 2 * number)
    whole = words_of(draw(0, 12))
    parts = [words_of(draw(first, 4)) for first in (0, 4, 8)]
    assert [word for part in parts for word in part] == whole
    assert all(len(tokens) <= 2 + 2 * number for number, (tokens, _) in enumerate(whole))


def test_seeds_uses_and_numbers_have_words_of_their_own():
    drawn = {
        tuple(draw_word(TASKS["parity"], seed, use, number, 30, 40).tokens.tolist())
        for seed in (0, 1)
        for use in ("training", "validation", "test")
        for number in range(5)
    }
    assert len(drawn) == 2 * 3 * 5


def test_padding_and_positions_that_do_not_count():
    scored = np.array([False, True, False])
    long = Word(np.array([4, 5, 6]), np.array([7, 8, 9]), scored)
    short = Word(np.array([1]), np.array([2]), np.array([True]))
    batch = batch_of([long, short])
    assert batch["tokens"].tolist() == [[4, 5, 6], [1, 0, 0]]
    assert batch["labels"].tolist() == [[NOT_SCORED, 8, NOT_SCORED], [2, NOT_SCORED, NOT_SCORED]]
    assert batch["mask"].tolist() == [[True, True, True], [True, False, False]]
    assert {a.dtype for a in batch.values()} == {torch.int64, torch.bool}


def test_a_curriculum_grows_to_the_longest_word():
    settings = Settings(curriculum=100, curriculum_from=4, high=50, batch_size=8)
    assert [settings.longest(step) for step in (0, 50, 99, 100, 1000)] == [4, 27, 49, 50, 50]
    assert Settings().longest(0) == 50
