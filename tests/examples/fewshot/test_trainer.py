"""What a trainer does beside the loop: schedules, early stop, trackers, another run's encoder, workers."""

import dataclasses
from functools import partial

import pytest
import torch
from accelerate.state import AcceleratorState

from examples.fewshot.settings import build_learner
from examples.fewshot.trainer import Training
from examples.training.loop import Loop
from examples.training.run_folder import RunFolder, describe, load
from examples.training.schedule import published
from tests.examples import runs
from tests.examples.runs import numbers_of, without_times


@pytest.fixture
def settings(settings):
    """Episodes from the first step on, and a line for every step."""
    return dataclasses.replace(settings, encoder_warmup_steps=0, report_every=1)


def make_loop(settings, splits) -> Loop:
    return runs.make_loop(settings, partial(Training, settings, [splits]))


def run(settings, splits) -> tuple[Loop, list[dict]]:
    return runs.run(settings, partial(Training, settings, [splits]))


def test_the_published_schedule_counts_from_one_and_scales_the_encoders_rate(settings, splits):
    settings = dataclasses.replace(
        settings,
        schedule="published",
        warmup_steps=4,
        train_encoder=True,
        encoder_learning_rate_factor=0.5,
    )
    loop, lines = run(settings, splits)
    expected = [published(step, settings.d_model, 4) for step in range(1, 7)]
    assert [line["learning_rate"] for line in lines] == pytest.approx(expected, rel=1e-12)
    others, encoder = loop.work.optimizer.param_groups
    assert encoder["lr"] == pytest.approx(0.5 * others["lr"])


def test_the_constant_schedule(settings, splits):
    _, lines = run(dataclasses.replace(settings, schedule="constant"), splits)
    assert {line["learning_rate"] for line in lines} == {settings.learning_rate}


@pytest.mark.parametrize("accumulation", [1, 2])
def test_clip_bounds_the_norm_of_the_gradient_that_adam_takes(settings, splits, monkeypatch, accumulation):
    """That of all parameters together, and of all micro-batches."""
    settings = dataclasses.replace(
        settings, steps=1, pools=0, accumulation=accumulation, train_encoder=True, dropout=0.0
    )
    seen = []
    adam = torch.optim.Adam.step

    def noted(self, closure=None):
        parameters = [p for group in self.param_groups for p in group["params"]]
        seen.append(torch.cat([p.grad.flatten().clone() for p in parameters if p.grad is not None]))
        return adam(self, closure)

    monkeypatch.setattr(torch.optim.Adam, "step", noted)
    for clip in (0.0, 1e6, 0.01):
        run(dataclasses.replace(settings, name=f"clip-{clip}", clip=clip), splits)
    free, above, clipped = seen
    assert free.norm() > 0.1, "the bound would not be felt"
    assert torch.equal(above, free)
    torch.testing.assert_close(clipped, 0.01 * free / free.norm(), rtol=1e-4, atol=0.0)


def test_the_encoder_of_another_run(settings, splits):
    first = dataclasses.replace(settings, name="first", encoder_warmup_steps=3)
    source, _ = run(first, splits)
    taken = dataclasses.replace(settings, encoder_warmup_steps=3, encoder_from=source.folder.path, seed=7)
    loop, lines = run(taken, splits)
    assert {line["phase"] for line in lines} == {"episodes"}, "no warm-up"
    best = load(source.folder.best)["learner"]
    for name, value in loop.work.learner.encoder.state_dict().items():
        assert torch.equal(value, best["encoder." + name]), name
    with pytest.raises(ValueError, match=r"--encoder-from .* differ in blocks.0.*--encoder-channels"):
        run(dataclasses.replace(taken, name="other", encoder_channels=4), splits)
    with pytest.raises(FileNotFoundError, match="give the folder of a run"):
        run(dataclasses.replace(taken, name="none", encoder_from=settings.runs / "nothing"), splits)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value * torch.nan, "is not finite"),
        (lambda value: value.half(), "has the dtype torch.float16, expected torch.float32"),
    ],
)
def test_a_damaged_encoder_of_another_run_is_named(settings, splits, change, message):
    source = RunFolder(settings.runs / "first")
    learner = build_learner(settings).state_dict()
    name = min(name for name in learner if name.startswith("encoder.") and name.endswith("weight"))
    learner[name] = change(learner[name])
    source.begin(settings, {**describe(settings), "progress": {}, "learner": learner})
    taken = dataclasses.replace(settings, encoder_warmup_steps=3, encoder_from=source.path)
    with pytest.raises(ValueError, match=rf"first.checkpoint\.pt: the weight .* {message}; put back"):
        make_loop(taken, splits)


def test_workers_draw_the_same_images(settings, splits):
    alone, lines = run(dataclasses.replace(settings, name="alone"), splits)
    helped, others = run(dataclasses.replace(settings, name="helped", workers=2), splits)
    assert [without_times(line) for line in lines] == [without_times(line) for line in others]
    mine, theirs = numbers_of(alone.folder), numbers_of(helped.folder)
    for name, value in mine.items():
        assert torch.equal(value, theirs[name]), name


def test_bfloat16_trains_parameters_that_stay_in_single_precision(settings, splits):
    AcceleratorState._reset_state(reset_partial_state=True)  # which remembers the first run's precision
    try:
        loop, lines = run(dataclasses.replace(settings, mixed_precision="bf16", dropout=0.0), splits)
        assert torch.is_autocast_enabled("cpu") is False
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    _, exact = run(dataclasses.replace(settings, name="whole", dropout=0.0), splits)
    assert all(p.dtype == torch.float32 for p in loop.work.learner.parameters())
    assert lines[0]["loss"] != exact[0]["loss"]
    assert lines[0]["loss"] == pytest.approx(exact[0]["loss"], rel=0.02)
