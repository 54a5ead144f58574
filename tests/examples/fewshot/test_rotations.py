"""Turned classes: each image once at each angle, in a class of its own; for the episodes alone."""

from __future__ import annotations

import dataclasses

import numpy as np

from examples.fewshot.data.lazy import with_rotations
from examples.fewshot.trainer import Training
from examples.training.accelerator import make_accelerator


def test_every_class_is_there_at_every_angle(splits):
    classes = splits.train
    turned = with_rotations(classes)
    n = len(classes.names)
    assert len(turned.names) == len(turned.alphabets) == len(turned.offsets) - 1 == 4 * n
    assert len(set(turned.names)) == 4 * len(set(classes.names))
    for c in range(n):
        images = classes.images[classes.offsets[c] : classes.offsets[c + 1]]
        for quarter in range(4):
            i = c + quarter * n
            of_class = turned.images[np.arange(turned.offsets[i], turned.offsets[i + 1])]
            assert turned.alphabets[i] == classes.alphabets[c]
            for image, original in zip(of_class, images, strict=True):
                np.testing.assert_array_equal(image, np.rot90(original, quarter, axes=(-2, -1)))


def test_the_encoder_does_not_learn_the_turned_classes(settings, splits):
    settings = dataclasses.replace(settings, rotate_classes="train", train_encoder=True)
    training = Training(settings, [splits], make_accelerator(settings))
    training.enter("encoder")
    [sampler] = training.objective.samplers
    assert len(sampler.classes.names) == len(splits.train.names)
    training.enter("episodes")
    assert len(training.objective.sampler.classes.names) == 4 * len(splits.train.names)
