"""Data that are too small are refused in the settings' names, exactly where no sampler could draw."""

import dataclasses

import numpy as np
import pytest

from examples.fewshot import train
from examples.fewshot.bootstrapping import Bootstrapping
from examples.fewshot.class_counts import check_training, check_unseen, check_warmup
from examples.fewshot.data.classes import ImageClasses, Splits
from examples.fewshot.models import build_learner
from examples.fewshot.objectives import EncoderWarmup, EpisodeTraining
from examples.fewshot.sequential import SequentialTraining
from examples.fewshot.validation import make_validation


class Hidden:
    """In the place of images, of which only the shape may be known."""

    dtype = np.dtype(np.uint8)

    def __init__(self, count):
        self.shape = (count, 1, 28, 28)

    def __getitem__(self, rows):
        raise AssertionError("pictures were looked at")


def hidden(classes, images) -> ImageClasses:
    names = [f"LETTER {c}" for c in range(classes)]
    return ImageClasses.of_sizes(Hidden(classes * images), [images] * classes, names, names)


def warmup(settings, classes):
    check_warmup(settings, classes)
    return EncoderWarmup(build_learner(settings), classes, settings)


def episodes(settings, classes):
    check_training(settings, classes)
    kind = Bootstrapping if settings.protocol == "bootstrapping" else EpisodeTraining
    return kind(build_learner(settings), classes[0], settings)


def sequences(settings, classes):
    check_training(settings, classes)
    return SequentialTraining(build_learner(settings), classes, settings)


def unseen(settings, classes):
    splits = [Splits(of, of, of) for of in classes]
    check_unseen(settings, splits)
    return make_validation(settings, splits)


SEQUENTIAL = {"protocol": "sequential", "second_data": "textures", "k_shot": 2, "max_trim": 1, "queries": 0}
AS_THEY_ARE = SEQUENTIAL | {"augment": False, "augment_evaluation": False}
BOOTSTRAPPING = {"pools": 0, "protocol": "bootstrapping", "future_shots": 5}
# What draws; settings; just enough classes and images of each; the flags, and what they ask for.
NEEDS = {
    "warm-up": (warmup, {}, (8, 3), "--encoder-warmup-classes", "--encoder-warmup-images takes 2 images"),
    "pools": (episodes, {}, (6, 4), "--pool-classes", "--pool-images takes 3 images"),
    "episodes": (episodes, {"pools": 0}, (3, 2), "--n-way", "--k-shot takes 1 images"),
    "futures": (episodes, BOOTSTRAPPING, (3, 7), "--n-way", "--k-shot and --future-shots takes 6 images"),
    "sequences": (sequences, AS_THEY_ARE, (6, 4), "--pool-classes", "--pool-images takes 3 images"),
    "copies": (sequences, SEQUENTIAL | {"pools": 0}, (3, 1), "--n-way", "--k-shot takes 2 images"),
    "copies in pools": (sequences, SEQUENTIAL, (6, 1), "--pool-classes", "--pool-images takes 3 images"),
    "unseen": (unseen, {}, (3, 2), "--n-way", "--k-shot takes 1 images"),
    "unseen sequences": (unseen, AS_THEY_ARE, (3, 3), "--n-way", "--k-shot takes 2 images"),
    "unseen copies": (unseen, SEQUENTIAL, (3, 1), "--n-way", "--k-shot takes 2 images"),
}


@pytest.mark.parametrize(("draw", "changes", "enough", "ways", "shots"), NEEDS.values(), ids=NEEDS)
def test_enough_classes_and_images_pass_and_one_fewer_are_refused(
    settings, monkeypatch, draw, changes, enough, ways, shots
):
    """By the check, and by the samplers themselves."""
    settings = dataclasses.replace(settings, **changes)
    (classes, images), domains = enough, 2 if draw in (sequences, unseen) else 1
    draw(settings, [hidden(classes, images)] * domains)
    few, small = ([hidden(*of)] * domains for of in ((classes - 1, images), (classes, images - 1)))
    split = "validation" if draw is unseen else "training"
    for refused, message in (
        (few, f"{ways} takes {classes} {split} classes of a data set, which has {classes - 1}; lower it"),
        (small, f"{shots} .* leaves one, but the {split} class 'LETTER 0' has {images - 1}; lower it"),
    ):
        with pytest.raises(ValueError, match=f"train: {message}"):
            draw(settings, refused)
    for check in ("check_warmup", "check_training", "check_unseen"):
        monkeypatch.setitem(globals(), check, lambda *_: None)
    for refused in (few, small):
        with pytest.raises(ValueError, match=r"EpisodeSampler: .* needs"):
            draw(settings, refused)


def test_domains_share_the_classes_of_the_warmup(settings):
    warmup(settings, [hidden(4, 3)] * 2)
    with pytest.raises(ValueError, match="--encoder-warmup-classes takes 4 training classes"):
        warmup(settings, [hidden(4, 3), hidden(3, 3)])


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
