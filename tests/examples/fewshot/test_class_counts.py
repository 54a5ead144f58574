"""Data that are too small are refused in the settings' names, before a picture is looked at."""

import dataclasses

import numpy as np
import pytest

from examples.fewshot import train
from examples.fewshot.bootstrapping import Bootstrapping
from examples.fewshot.data.classes import ImageClasses
from examples.fewshot.models import build_learner
from examples.fewshot.objectives import EncoderWarmup, EpisodeTraining
from examples.fewshot.protocol import make_validation
from examples.fewshot.sequential import SequentialTraining


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
    return EncoderWarmup(build_learner(settings), classes, settings)


def training(settings, classes):
    kinds = {"sequential": SequentialTraining, "bootstrapping": Bootstrapping}
    kind = kinds.get(settings.protocol, EpisodeTraining)
    return kind(build_learner(settings), classes if kind is SequentialTraining else classes[0], settings)


SEQUENTIAL = {"protocol": "sequential", "second_data": "textures", "k_shot": 2, "max_trim": 1, "queries": 0}
AS_THEY_ARE = SEQUENTIAL | {"augment": False, "augment_evaluation": False}
# What draws; settings; just enough classes and images of each.
NEEDS = {
    "warm-up": (warmup, {}, (8, 3)),
    "pools": (training, {}, (6, 4)),
    "episodes": (training, {"pools": 0}, (3, 2)),
    "futures": (training, {"pools": 0, "protocol": "bootstrapping", "future_shots": 5}, (3, 7)),
    "sequences": (training, AS_THEY_ARE, (6, 4)),
    "copies": (training, SEQUENTIAL | {"pools": 0}, (3, 1)),
    "copies in pools": (training, SEQUENTIAL, (6, 1)),
    "unseen": (make_validation, {}, (3, 2)),
    "unseen sequences": (make_validation, AS_THEY_ARE, (3, 3)),
    "unseen copies": (make_validation, SEQUENTIAL, (3, 1)),
}


@pytest.mark.parametrize(("draw", "changes", "enough"), NEEDS.values(), ids=NEEDS)
def test_enough_classes_and_images_pass_and_one_fewer_are_refused(settings, draw, changes, enough):
    settings = dataclasses.replace(settings, **changes)
    (classes, images), domains = enough, len(settings.data_sets)
    draw(settings, [hidden(classes, images)] * domains)
    with pytest.raises(ValueError, match=f"drawn at a time, but there are {classes - 1}; lower --n-way"):
        draw(settings, [hidden(classes - 1, images)] * domains)
    with pytest.raises(ValueError, match=f"but 'LETTER 0' has {images - 1}; lower --k-shot, --f"):
        draw(settings, [hidden(classes, images - 1)] * domains)


def test_domains_share_the_classes_of_the_warmup(settings):
    warmup(settings, [hidden(4, 3)] * 2)
    with pytest.raises(ValueError, match="4 classes are drawn at a time, but there are 3"):
        warmup(settings, [hidden(4, 3), hidden(3, 3)])


@pytest.mark.parametrize(
    ("part", "classes", "message"),
    [
        ("train", 7, "8 classes are drawn at a time, but there are 7; .* --encoder-warmup-classes"),
        ("validation", 2, "3 classes are drawn at a time, but there are 2"),
        ("test", 2, "3 classes are drawn at a time, but there are 2"),
    ],
)
def test_a_run_is_refused_before_its_folder_is_made(settings, splits, monkeypatch, part, classes, message):
    short = splits._replace(**{part: hidden(classes, 6)})
    monkeypatch.setattr(train, "load_domains", lambda settings: [short])
    with pytest.raises(ValueError, match=message):
        train.main(settings)
    assert not settings.folder.exists()
