"""Data that are too small are refused in the settings' names, exactly where no sampler could draw."""

import dataclasses

import numpy as np
import pytest

from examples.fewshot import train
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


@pytest.fixture
def sequential(settings):
    return dataclasses.replace(
        settings, protocol="sequential", second_data="textures", k_shot=2, max_trim=1, queries=0
    )


def test_the_warmup(settings):
    learner = build_learner(settings)
    for domains in (1, 2):
        least = 8 // domains
        enough = [hidden(least, 3)] * domains
        check_warmup(settings, enough)
        EncoderWarmup(learner, enough, settings)
        for few, message in (
            (hidden(least - 1, 3), f"--encoder-warmup-classes takes {least} training classes"),
            (hidden(least, 2), "--encoder-warmup-images takes 2 images .* training class 'LETTER 0' has 2"),
        ):
            with pytest.raises(ValueError, match=message):
                check_warmup(settings, [*enough[1:], few])
            with pytest.raises(ValueError, match="EpisodeSampler"):
                EncoderWarmup(learner, [*enough[1:], few], settings)


@pytest.mark.parametrize(
    ("change", "ways", "shots"),
    [
        ({}, ("--pool-classes", 6), ("--pool-images", 3)),
        ({"pools": 0}, ("--n-way", 3), ("--k-shot", 1)),
        ({"pools": 0, "protocol": "bootstrapping"}, ("--n-way", 3), ("--k-shot and --future-shots", 6)),
    ],
)
def test_the_training(settings, change, ways, shots):
    settings = dataclasses.replace(settings, **change)
    enough = hidden(ways[1], shots[1] + 1)
    check_training(settings, [enough])
    few = hidden(ways[1] - 1, shots[1] + 1)
    with pytest.raises(ValueError, match=f"{ways[0]} takes {ways[1]} training classes"):
        check_training(settings, [few])
    small = hidden(ways[1], shots[1])
    with pytest.raises(ValueError, match=f"{shots[0]} takes {shots[1]} images of a class and leaves one"):
        check_training(settings, [small])
    if "protocol" not in change:
        learner = build_learner(settings)
        EpisodeTraining(learner, enough, settings)
        for refused in (few, small):
            with pytest.raises(ValueError, match="EpisodeSampler"):
                EpisodeTraining(learner, refused, settings)


@pytest.mark.parametrize("pools", [0, 4])
def test_sequences_repeat_the_images_of_a_class_where_they_are_distorted(sequential, pools):
    sequential = dataclasses.replace(sequential, pools=pools)
    few = [hidden(6, 1)] * 2
    check_training(sequential, few)
    SequentialTraining(build_learner(sequential), few, sequential)
    plain = dataclasses.replace(sequential, augment=False)
    with pytest.raises(ValueError, match="training class 'LETTER 0' has 1"):
        check_training(plain, few)


def test_validation_and_test(settings, sequential):
    enough, few, small = hidden(3, 2), hidden(2, 2), hidden(3, 1)
    check_unseen(settings, [Splits(few, enough, enough)])
    EpisodeSampler(enough, n_way=3, k_shot=1, n_query=2, seed=0)
    for refused, message in (
        (few, "--n-way takes 3 {} classes of a data set, which has 2"),
        (small, "--k-shot takes 1 images .* the {} class 'LETTER 0' has 1"),
    ):
        with pytest.raises(ValueError, match=message.format("validation")):
            check_unseen(settings, [Splits(enough, refused, enough)])
        with pytest.raises(ValueError, match=message.format("test")):
            check_unseen(settings, [Splits(enough, enough, refused)])
    check_unseen(sequential, [Splits(few, small, small)] * 2)
    make_validation(sequential, [Splits(few, small, small)] * 2)
    plain = dataclasses.replace(sequential, augment_evaluation=False)
    with pytest.raises(ValueError, match="the validation class 'LETTER 0' has 1"):
        check_unseen(plain, [Splits(few, small, small)] * 2)


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
