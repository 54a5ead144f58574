"""What a trainer does beside the loop: schedules, micro-batches, another run's encoder, workers."""

import dataclasses
from functools import partial

import pytest
import torch
from accelerate.state import AcceleratorState

from examples.fewshot.models import build_learner
from examples.fewshot.train import Training
from examples.training.accelerator import make_accelerator
from examples.training.checkpoint import describe, load
from examples.training.loop import Loop
from examples.training.objective import Share
from examples.training.run_folder import RunFolder
from examples.training.schedule import published
from tests.examples import runs
from tests.examples.runs import assert_same_run


@pytest.fixture
def settings(settings):
    """Episodes from the first step on, and a line for every step."""
    return dataclasses.replace(settings, encoder_warmup_steps=0, report_every=1)


def make_loop(settings, splits) -> Loop:
    return runs.make_loop(settings, partial(Training, settings, [splits]))


def run(settings, splits) -> tuple[Loop, list[dict]]:
    return runs.run(settings, partial(Training, settings, [splits]))


@pytest.mark.parametrize("schedule", ["published", "constant"])
def test_schedules_count_from_one_and_scale_the_encoders_rate(settings, splits, schedule):
    rule = {"schedule": schedule, "warmup_steps": 4, "encoder_learning_rate_factor": 0.5}
    loop, lines = run(dataclasses.replace(settings, train_encoder=True, **rule), splits)
    rates = [published(step, settings.d_model, 4) for step in range(1, 7)]
    expected = rates if schedule == "published" else [settings.learning_rate] * 6
    assert [line["learning_rate"] for line in lines] == pytest.approx(expected, rel=1e-12)
    others, encoder = loop.work.optimizer.param_groups
    assert encoder["lr"] == pytest.approx(0.5 * others["lr"])


# Numbers of the micro-batches of the first three steps, and what their sum is divided by.
PARTS = 4
RULES = {
    "mean": ((range(4), range(4, 8), range(8, 12)), PARTS),
    "published": ((range(3, 4), range(4, 8), range(8, 12)), 1),
}


@pytest.fixture
def cut(settings):
    """Steps of four micro-batches, whose losses depend on nothing but weights and images."""
    return dataclasses.replace(settings, pools=0, dropout=0.0, clip=0.0, accumulation=PARTS)


def entered(settings, splits) -> Training:
    training = Training(settings, [splits], make_accelerator(settings))
    training.enter("episodes")
    return training


@pytest.mark.parametrize("rule", RULES)
def test_gradients_are_those_of_summed_losses(cut, splits, monkeypatch, rule):
    """At the weights that the run begins with."""
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self, closure=None: None)
    settings = dataclasses.replace(cut, accumulation_rule=rule)
    training, by_hand = entered(settings, splits), entered(settings, splits)
    training.begin(0)
    numbers, divisor = RULES[rule]
    dataset = by_hand.objective.dataset(Share(accumulation=PARTS))
    for step, of_step in enumerate(numbers):
        training.step(step, 0.5)
        loss = sum(by_hand.objective(dataset[number])["loss"] for number in of_step) / divisor
        expected = torch.autograd.grad(loss, by_hand.trained())
        torch.testing.assert_close([p.grad for p in training.trained()], list(expected))


def test_both_rules_take_the_same_steps_at_the_same_rates_and_report_means(cut, splits):
    lines = {}
    for rule in RULES:
        loop, lines[rule] = run(dataclasses.replace(cut, name=rule, accumulation_rule=rule), splits)
        assert loop.progress.step == cut.steps
    rates = [[line["learning_rate"] for line in of_rule] for of_rule in lines.values()]
    assert rates[0] == rates[1]
    objective = entered(cut, splits).objective
    dataset = objective.dataset(Share(accumulation=PARTS))
    with torch.no_grad():
        losses = [objective(dataset[number])["loss"].item() for number in range(PARTS)]
    assert lines["mean"][0]["loss"] == pytest.approx(sum(losses) / PARTS)
    assert lines["published"][0]["loss"] == pytest.approx(losses[-1])


@pytest.mark.parametrize("accumulation", [1, 2])
def test_clip_bounds_the_norm_of_the_gradient_that_adam_takes(cut, splits, monkeypatch, accumulation):
    """That of all parameters together, and of all micro-batches."""
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self, closure=None: None)

    def gradient(clip: float) -> torch.Tensor:
        settings = dataclasses.replace(cut, accumulation=accumulation, train_encoder=True, clip=clip)
        training = entered(settings, splits)
        training.begin(0)
        training.step(0, 0.5)
        return torch.cat([p.grad.flatten() for p in training.trained()])

    free, above, clipped = map(gradient, (0.0, 1e6, 0.01))
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
    with pytest.raises(
        ValueError, match=r"(?s)--encoder-from .* another encoder .*blocks\.0.*--encoder-channels"
    ):
        run(dataclasses.replace(taken, name="other", encoder_channels=4), splits)
    with pytest.raises(FileNotFoundError, match="give the folder of a run"):
        run(dataclasses.replace(taken, name="none", encoder_from=settings.runs / "nothing"), splits)


def test_a_damaged_encoder_of_another_run_is_named(settings, splits):
    source = RunFolder(settings.runs / "first")
    learner = build_learner(settings).state_dict()
    name = min(name for name in learner if name.startswith("encoder.") and name.endswith("weight"))
    learner[name] *= torch.nan
    source.begin(settings, {**describe(settings), "progress": {}, "learner": learner})
    taken = dataclasses.replace(settings, encoder_warmup_steps=3, encoder_from=source.path)
    with pytest.raises(ValueError, match=r"first.checkpoint\.pt: the weight .* is not finite; put back"):
        make_loop(taken, splits)


def test_workers_draw_the_same_images(settings, splits):
    alone, helped = (
        run(dataclasses.replace(settings, name=str(workers), workers=workers), splits)[0].folder
        for workers in (0, 2)
    )
    assert_same_run(alone, helped)


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
