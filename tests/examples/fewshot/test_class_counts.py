"""Data that are too small are refused in the settings' names, exactly where no sampler could draw."""

import dataclasses

import numpy as np
import pytest

from examples.fewshot import train
from examples.fewshot.bootstrapping import Bootstrapping
from examples.fewshot.class_counts import check_training, check_unseen, check_warmup
from examples.fewshot.data.classes import ImageClasses, Splits
from examples.fewshot.data.episodes import EpisodeSampler
from examples.fewshot.objectives import EncoderWarmup, EpisodeTraining
from examples.fewshot.sequential import SequentialTraining
from examples.fewshot.settings import build_learner
from examples.fewshot.validation import make_validation


class Hidden:
    """In the place of images, of which only the shape may be known."""

    dtype = np.dtype(np.uint8)

    def __init__(self, count):
        self.shape = (count, 1, 28, 28)

    def __getitem__(self, rows):
        raise AssertionError("pictures were looked at")


def hidden(classes, images) -> ImageClasses:
    names = tuple(f"LETTER {c}" for c in range(classes))
    return ImageClasses(
        Hidden(classes * images), images * np.arange(classes + 1), names, ("SCRIPT",) * classes
    )


SEQUENTIAL = {"protocol": "sequential", "second_data": "textures", "k_shot": 2, "max_trim": 1, "queries": 0}


def assert_refused(check, draw, classes, few, small):
    """Enough classes pass; with one fewer, or one image fewer, a message names a flag. So do the samplers.

    Parameters
    ----------
    check, draw : functions of classes: the check, and what makes the samplers that would draw from them.
    classes : (K, I) that are just enough.
    few, small : parts of the messages.
    """
    enough = hidden(*classes)
    check(enough)
    draw(enough)
    for refused, message in (
        (hidden(classes[0] - 1, classes[1]), few),
        (hidden(classes[0], classes[1] - 1), small),
    ):
        with pytest.raises(ValueError, match=message):
            check(refused)
        with pytest.raises(ValueError, match="EpisodeSampler"):
            draw(refused)


@pytest.mark.parametrize("others", [0, 1])
def test_the_warmup(settings, others):
    least = 8 // (others + 1)
    other = [hidden(least, 3)] * others
    assert_refused(
        lambda classes: check_warmup(settings, [*other, classes]),
        lambda classes: EncoderWarmup(build_learner(settings), [*other, classes], settings),
        (least, 3),
        f"--encoder-warmup-classes takes {least} training classes",
        "--encoder-warmup-images takes 2 images .* training class 'LETTER 0' has 2",
    )


@pytest.mark.parametrize(
    ("change", "objective", "ways", "shots"),
    [
        ({}, EpisodeTraining, ("--pool-classes", 6), ("--pool-images", 3)),
        ({"pools": 0}, EpisodeTraining, ("--n-way", 3), ("--k-shot", 1)),
        (
            {"pools": 0, "protocol": "bootstrapping", "future_shots": 5},
            Bootstrapping,
            ("--n-way", 3),
            ("--k-shot and --future-shots", 6),
        ),
    ],
)
def test_the_training(settings, change, objective, ways, shots):
    settings = dataclasses.replace(settings, **change)
    assert_refused(
        lambda classes: check_training(settings, [classes]),
        lambda classes: objective(build_learner(settings), classes, settings),
        (ways[1], shots[1] + 1),
        f"{ways[0]} takes {ways[1]} training classes",
        f"{shots[0]} takes {shots[1]} images of a class and leaves one",
    )


@pytest.mark.parametrize("pools", [0, 4])
def test_sequences_repeat_the_images_of_a_class_where_they_are_distorted(settings, pools):
    settings = dataclasses.replace(settings, **SEQUENTIAL, pools=pools)
    few = [hidden(6, 1)] * 2
    check_training(settings, few)
    SequentialTraining(build_learner(settings), few, settings)
    with pytest.raises(ValueError, match="training class 'LETTER 0' has 1"):
        check_training(dataclasses.replace(settings, augment=False), few)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_validation_and_test(settings, split):
    def splits(classes):
        return [Splits(**dict.fromkeys(("train", "validation", "test"), hidden(3, 2)) | {split: classes})]

    asked = {"n_way": 3, "k_shot": 1, "n_query": 2, "seed": 0}
    assert_refused(
        lambda classes: check_unseen(settings, splits(classes)),
        lambda classes: EpisodeSampler(classes, **asked),
        (3, 2),
        f"--n-way takes 3 {split} classes of a data set, which has 2",
        f"--k-shot takes 1 images .* the {split} class 'LETTER 0' has 1",
    )
    settings = dataclasses.replace(settings, **SEQUENTIAL)
    check_unseen(settings, splits(hidden(3, 1)) * 2)
    make_validation(settings, splits(hidden(3, 1)) * 2)
    with pytest.raises(ValueError, match=f"the {split} class 'LETTER 0' has 1"):
        check_unseen(
            dataclasses.replace(settings, augment_evaluation=False, k_shot=1), splits(hidden(3, 1))
        )


@pytest.mark.parametrize(
    ("part", "classes", "message"),
    [
        ("train", 7, "--encoder-warmup-classes takes 8 training classes"),
        ("validation", 2, "--n-way takes 3 validation classes"),
        ("test", 2, "--n-way takes 3 test classes"),
    ],
)
def test_a_run_is_refused_before_its_folder_is_made(settings, splits, monkeypatch, part, classes, message):
    short = dataclasses.replace(splits, **{part: hidden(classes, 6)})
    monkeypatch.setattr(train, "load_domains", lambda settings: [short])
    with pytest.raises(ValueError, match=message):
        train.main(settings)
    assert not settings.folder.exists()
