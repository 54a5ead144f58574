"""Every preset trains, and those of the published scripts say what those scripts say."""

import dataclasses
import math
from functools import partial

import pytest
import torch

from examples.fewshot.data.classes import Splits
from examples.fewshot.models import build_learner
from examples.fewshot.presets import PRESETS, smoke
from examples.fewshot.train import Training
from examples.training.interrupt import StopRequest
from examples.training.loop import Loop
from tests.examples.fewshot.numbered import make_classes
from tests.examples.runs import make_loop


@pytest.mark.parametrize("name", PRESETS)
def test_two_steps_move_every_trained_parameter(name, tmp_path, monkeypatch):
    monkeypatch.setattr(Loop, "save", lambda self: None)  # most of the time, and tested elsewhere
    monkeypatch.setattr(Loop, "save_best", lambda self: None)
    preset = PRESETS[name]
    few = smoke(
        dataclasses.replace(
            preset, runs=tmp_path, n_way=2, encoder_warmup_classes=max(2, len(preset.data_sets)), steps=2
        )
    )
    channels, size, _ = few.picture_shape
    noise = [make_classes((5, 5), size, channels) for _ in range(3)]
    domains = [Splits(*noise) for _ in few.data_sets]
    loop = make_loop(few, partial(Training, few, domains))
    learner = loop.work.learner
    before = {n: p.clone() for n, p in learner.named_parameters()}
    assert loop.train(StopRequest())
    assert loop.progress.step == 2
    losses = [line["loss"] for line in loop.folder.reports() if line["split"] == "train"]
    assert losses
    assert all(map(math.isfinite, losses))
    for parameter, value in learner.named_parameters():
        assert not torch.equal(value, before[parameter]), parameter


# Of the published scripts: core, layers, width, feed-forward factor, dropout, encoder dropout, batch,
# learning rate (None: the warm-up), steps; and the parameters that their models have.
PUBLISHED = {
    "omniglot-1shot-srwm": ("srwm", 2, 256, 4, 0.0, 0.0, 128, 1e-3, 300_000, 1_342_021),
    "miniimagenet-1shot-srwm": ("srwm", 3, 256, 4, 0.1, 0.1, 16, None, 600_000, 2_052_837),
    "miniimagenet-5shot-srwm": ("srwm", 3, 256, 8, 0.1, 0.1, 16, None, 600_000, 3_628_773),
    "miniimagenet-1shot-deltanet": ("deltanet", 4, 256, 8, 0.1, 0.3, 16, 1e-4, 600_000, 5_509_093),
    "miniimagenet-5shot-deltanet": ("deltanet", 4, 256, 8, 0.0, 0.2, 16, 3e-4, 600_000, 5_509_093),
    "miniimagenet-1shot-lstm": ("lstm", 1, 1024, 4, 0.0, 0.1, 16, 3e-4, 1_200_000, 7_533_797),
    "miniimagenet-5shot-lstm": ("lstm", 1, 1024, 4, 0.0, 0.1, 16, 3e-4, 1_200_000, 7_533_797),
    "fc100-5shot-srwm": ("srwm", 3, 256, 4, 0.1, 0.1, 16, None, 600_000, 1_880_805),
    "fc100-5shot-deltanet": ("deltanet", 3, 256, 8, 0.0, 0.2, 16, None, 600_000, 4_018_917),
    "fc100-5shot-res12-srwm": ("srwm", 3, 256, 4, 0.3, 0.3, 16, None, 600_000, 4_117_125),
    "sequential-omniglot-miniimagenet-srwm": ("srwm", 3, 256, 1, 0.0, 0.0, 32, 3e-4, 238_266, 870_885),
    "sequential-omniglot-miniimagenet-deltanet": (
        *("deltanet", 3, 256, 1, 0.0, 0.0, 32, 3e-4, 238_266, 1_433_061),
    ),
    "miniimagenet-10shot-bootstrapping": ("srwm", 3, 256, 8, 0.1, 0.1, 16, None, 600_000, 3_628_773),
}


# What is asked of one alone. The sequential script validates every 4,000 micro-batches, on 100 of them.
OWN = {
    "sequential-omniglot-miniimagenet-srwm": {
        **{"accumulation": 2, "max_trim": 60, "validate_every": 4000 // 2, "validation_episodes": 100 * 16}
    },
    "miniimagenet-10shot-bootstrapping": {
        **{"student_weight": 1, "bootstrap_weight": 10, "teacher_weight": 1},
        **{"future_shots": 5, "bootstrap_loss": "kl"},
    },
    "fc100-5shot-res12-srwm": {"encoder_dropout_type": "2d_inblock"},
    "omniglot-1shot-srwm": {"validate_every": 10_000},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_presets(name):
    s = PRESETS[name]
    *values, rate, steps, count = PUBLISHED[name]
    sizes = ("core", "n_layers", "d_model", "ff_factor", "dropout", "encoder_dropout", "batch_size")
    assert [getattr(s, size) for size in sizes] == values
    if rate is None:
        assert (s.schedule, s.warmup_steps) == ("published", 5000)
    else:
        assert (s.schedule, s.learning_rate) == ("constant", rate)
    assert s.steps == steps
    assert sum(p.numel() for p in build_learner(s).parameters()) == count
    shots = {"sequential": 15, "bootstrapping": 10}.get(s.protocol, 5 if "5shot" in name else 1)
    expected = {
        **{"n_way": 5, "k_shot": shots, "queries": 1, "pools": 0, "encoder_warmup_steps": 0},
        **{"beta1": 0.9, "beta2": 0.995, "epsilon": 1e-9, "clip": 0.0},
        **{"train_encoder": True, "encoder_learning_rate_factor": 1.0, "input_gain": 1.0},
        **{"augment": False, "augment_evaluation": False, "unit_features": False},
        **{"beta_init": 0.0, "q_scale": 1.0, "input_softmax": False, "unknown_label": "class_0"},
        "rotate_classes": "all" if s.data == "omniglot" else "none",
        "normalise": "published" if s.protocol == "sequential" else "none",
        # Only who asks for it gets the published way.
        **{"accumulation_rule": "mean", "sequence_layout": "step", "bootstrap_encoding": "joint"},
        **OWN.get(name, {}),
    }
    assert {setting: getattr(s, setting) for setting in expected} == expected
