"""Every preset trains, and those of the published scripts say what those scripts say."""

import dataclasses
import math
import shlex
import subprocess
import sys

import numpy as np
import pytest
import torch
import tyro

from examples.fewshot.data.classes import ImageClasses, Splits
from examples.fewshot.presets import PRESETS, command, defaults, preset_of, table
from examples.fewshot.run_folder import RunFolder
from examples.fewshot.settings import Settings, build_learner
from examples.fewshot.trainer import Trainer


def noise(count: int, per_class: int, shape: tuple[int, int, int], seed: int) -> ImageClasses:
    rng = np.random.default_rng(seed)
    return ImageClasses(
        images=rng.integers(0, 256, (count * per_class, *shape), np.uint8),
        offsets=np.arange(count + 1) * per_class,
        names=tuple(f"class {c}" for c in range(count)),
        alphabets=("NOISE",) * count,
    )


@pytest.mark.parametrize("name", PRESETS)
def test_two_steps_move_every_trained_parameter(name, tmp_path):
    preset = PRESETS[name]
    preset.check()
    few = dataclasses.replace(
        preset,
        runs=tmp_path,
        n_way=2,
        k_shot=min(preset.k_shot, 2),
        max_trim=min(preset.max_trim, 2),
        future_shots=1,
        batch_size=2,
        accumulation=min(preset.accumulation, 2),
        pools=min(preset.pools, 1),
        pool_classes=2,
        pool_images=4,
        queries=1,
        steps=2,
        encoder_warmup_steps=min(preset.encoder_warmup_steps, 2),
        encoder_warmup_classes=2,
        schedule="constant",
        learning_rate=1e-3,
        validate_every=2,
        validation_episodes=2,
        report_every=2,
    )
    shape = next(build_learner(few).encoder.parameters()).shape[1], *image_size(few)
    domains = [
        Splits(*(noise(2, 5, shape, seed) for seed in range(3)))
        for _ in range(2 if few.second_data else 1)
    ]
    folder = RunFolder(few.folder)
    folder.open(few)
    trainer = Trainer(few, domains, folder)
    before = {n: p.clone() for n, p in trainer.learner.named_parameters()}
    from examples.fewshot.interrupt import StopRequest

    assert trainer.train(StopRequest())
    losses = [line["loss"] for line in folder.reports() if line["split"] == "train"]
    assert losses
    assert all(map(math.isfinite, losses))
    assert trainer.progress.step == 2
    for parameter, value in trainer.learner.named_parameters():
        assert not torch.equal(value, before[parameter]), parameter


def image_size(settings: Settings) -> tuple[int, int]:
    return build_learner(settings).encoder.image_shape[1:]
