"""Every preset trains, and those of the published scripts say what those scripts say."""

import dataclasses
import math
from functools import partial

import numpy as np
import pytest
import torch

from examples.fewshot.data.classes import ImageClasses, Splits
from examples.fewshot.presets import DESCRIPTIONS, PRESETS
from examples.fewshot.settings import build_learner
from examples.fewshot.smoke import smoke
from examples.fewshot.trainer import Training
from examples.training.interrupt import StopRequest
from examples.training.loop import Loop
from tests.examples.runs import make_loop


def noise(count: int, per_class: int, shape: tuple[int, int, int], seed: int) -> ImageClasses:
    rng = np.random.default_rng(seed)
    return ImageClasses(
        images=rng.integers(0, 256, (count * per_class, *shape), np.uint8),
        offsets=np.arange(count + 1) * per_class,
        names=tuple(f"class {c}" for c in range(count)),
        alphabets=("NOISE",) * count,
    )


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
    shape = build_learner(few).encoder.image_shape
    domains = [Splits(*(noise(2, 5, shape, seed) for seed in range(3))) for _ in few.data_sets]
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


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_presets(name):
    s = PRESETS[name]
    *values, rate, steps, count = PUBLISHED[name]
    assert [
        *(s.core, s.n_layers, s.d_model, s.ff_factor, s.dropout, s.encoder_dropout, s.batch_size)
    ] == values
    if rate is None:
        assert (s.schedule, s.warmup_steps) == ("published", 5000)
    else:
        assert (s.schedule, s.learning_rate) == ("constant", rate)
    assert s.steps == steps
    assert sum(p.numel() for p in build_learner(s).parameters()) == count
    assert (s.beta1, s.beta2, s.epsilon, s.clip) == (0.9, 0.995, 1e-9, 0.0)
    options = (s.accumulation_rule, s.sequence_layout, s.bootstrap_encoding)
    assert options == ("mean", "step", "joint"), "only who asks for it gets the published way"
    assert s.train_encoder
    assert (s.pools, s.encoder_warmup_steps) == (0, 0)
    assert (s.augment, s.augment_evaluation, s.unit_features) == (False, False, False)
    assert (s.n_way, s.queries, s.input_gain, s.encoder_learning_rate_factor) == (5, 1, 1.0, 1.0)
    assert (s.beta_init, s.q_scale, s.input_softmax, s.unknown_label) == (0.0, 1.0, False, "class_0")
    assert s.rotate_classes == ("all" if s.data == "omniglot" else "none")
    assert s.normalise == ("published" if s.protocol == "sequential" else "none")
    shots = {"sequential": 15, "bootstrapping": 10}.get(s.protocol, 5 if "5shot" in name else 1)
    assert s.k_shot == shots


def test_what_only_some_published_scripts_have():
    sequential = PRESETS["sequential-omniglot-miniimagenet-srwm"]
    assert (sequential.accumulation, sequential.max_trim) == (2, 60)
    micro_batches = sequential.accumulation * sequential.validate_every
    assert micro_batches == 4000, "what the script counts"
    sequences = sequential.batch_size // sequential.accumulation
    assert sequential.validation_episodes == 100 * sequences == 1600
    teacher = PRESETS["miniimagenet-10shot-bootstrapping"]
    weights = (teacher.student_weight, teacher.bootstrap_weight, teacher.teacher_weight)
    assert (*weights, teacher.future_shots, teacher.bootstrap_loss) == (1, 10, 1, 5, "kl")
    assert PRESETS["fc100-5shot-res12-srwm"].encoder_dropout_type == "2d_inblock"
    assert PRESETS["omniglot-1shot-srwm"].validate_every == 10_000


def test_every_asked_for_preset_is_there():
    cores = ("srwm", "deltanet", "lstm", "fake-sr")
    ours = [f"glyphs-{shots}shot-{core}" for shots in (1, 5) for core in cores]
    ours += [f"sequential-glyphs-textures-{core}" for core in ("srwm", "deltanet", "lstm")]
    tasks = [f"continual-glyphs-textures-{core}" for core in ("srwm", "deltanet")]
    ours += [*tasks, *(f"{name}-no-backward" for name in tasks), "continual-glyphs-textures-digits-srwm"]
    assert list(DESCRIPTIONS) == list(PRESETS)
    assert set(PRESETS) == {*PUBLISHED, *ours, "glyphs-2shot-srwm", "glyphs-2shot-bootstrapping"}
