"""Images that are looked up, turned or decoded when asked for: which they are, and that they are late."""

import dataclasses

import numpy as np
import torch

from examples.fewshot.data.episodes import EpisodeSampler
from examples.fewshot.data.lazy import with_copies, with_rotations
from examples.fewshot.train import Training
from examples.training.accelerator import make_accelerator
from tests.examples.fewshot.numbered import make_classes


class Lazy:
    """Decodes what is asked for, and keeps count; what it hands out may not be written to."""

    def __init__(self, images):
        self._images = images
        self.shape, self.dtype = images.shape, images.dtype
        self.decoded = 0

    def __getitem__(self, rows):
        assert isinstance(rows, np.ndarray)
        assert rows.dtype == np.int64
        self.decoded += rows.size
        images = self._images[rows]
        images.flags.writeable = False
        return images


def test_lazy_images_are_decoded_when_a_sampler_asks():
    classes = make_classes((3, 2, 4), side=4, channels=3)
    lazy = Lazy(classes.images)
    part, in_memory = (
        with_rotations(with_copies(dataclasses.replace(classes, images=images).subset([2, 0]), 4))
        for images in (lazy, classes.images.copy())
    )
    assert lazy.decoded == 0
    assert part.images.shape == (40, 3, 4, 4)
    options = {"n_way": 4, "k_shot": 1, "n_query": 3, "seed": 0}
    drawn = EpisodeSampler(part, **options).batch(0, 6)
    assert lazy.decoded == 6 * 7
    assert torch.equal(drawn.query, EpisodeSampler(in_memory, **options).batch(0, 6).query)


def test_copies_are_the_images_of_a_class_in_their_order():
    classes = with_copies(make_classes((3, 2, 4), side=4), 4)  # of three, two and four images
    assert classes.sizes.tolist() == [6, 4, 4]
    images = classes.images[np.arange(14)]
    assert images[:, 0, 0, 0].tolist() == [0] * 6 + [1] * 4 + [2] * 4
    assert images[:, 0, 0, 1].tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 0, 1, 0, 1, 2, 3]


def test_every_class_is_there_at_every_angle():
    classes = make_classes((3, 2, 4), side=4)
    turned = with_rotations(classes)
    assert len(set(turned.names)) == 4 * 3
    assert turned.alphabets == classes.alphabets * 4
    assert turned.sizes.tolist() == [3, 2, 4] * 4
    images = [np.rot90(classes.images, quarter, axes=(-2, -1)) for quarter in range(4)]
    np.testing.assert_array_equal(turned.images[np.arange(4 * 9)], np.concatenate(images))


def test_the_encoder_does_not_learn_the_turned_classes(settings, splits):
    settings = dataclasses.replace(settings, rotate_classes="train", train_encoder=True)
    training = Training(settings, [splits], make_accelerator(settings))
    training.enter("encoder")
    [sampler] = training.objective.samplers
    assert len(sampler.classes.names) == len(splits.train.names)
    training.enter("episodes")
    assert len(training.objective.draw.args[0].classes.names) == 4 * len(splits.train.names)
