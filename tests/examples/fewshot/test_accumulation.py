"""What a step makes of its micro-batches, by either rule."""

import dataclasses
from functools import partial

import pytest
import torch

from examples.fewshot.trainer import Training
from examples.training.accelerator import make_accelerator
from examples.training.objective import Share
from tests.examples.runs import run

PARTS = 4


@pytest.fixture
def settings(settings):
    """Four micro-batches a step, whose losses depend on nothing but weights and images."""
    return dataclasses.replace(
        settings,
        encoder_warmup_steps=0,
        pools=0,
        dropout=0.0,
        clip=0.0,
        accumulation=PARTS,
        report_every=1,
        validate_every=3,
    )


def make_training(settings, splits) -> Training:
    training = Training(settings, [splits], make_accelerator(settings))
    training.enter("episodes")
    return training


def gradients_at_fresh_weights(settings, splits, first: int, count: int, monkeypatch) -> list[list]:
    """Of steps ``first`` to ``first + count - 1``, all at the weights that the run begins with."""
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self, closure=None: None)
    training = make_training(settings, splits)
    training.begin(first)
    found = []
    for step in range(first, first + count):
        training.step(step, 0.5)
        found.append([parameter.grad.clone() for parameter in training.trained()])
    return found


def summed(settings, splits, numbers: range, divisor: int) -> list[torch.Tensor]:
    """The gradient of the micro-batches' losses, added and divided, by autograd alone."""
    training = make_training(settings, splits)
    dataset = training.objective.dataset(Share(accumulation=PARTS))
    loss = sum(training.objective(dataset[number])["loss"] for number in numbers) / divisor
    return torch.autograd.grad(loss, training.trained())


# Numbers of the micro-batches of the first three steps, and what their sum is divided by.
RULES = {
    "mean": ((range(4), range(4, 8), range(8, 12)), PARTS),
    "published": ((range(3, 4), range(4, 8), range(8, 12)), 1),
}


@pytest.mark.parametrize("rule", RULES)
def test_gradients_are_those_of_summed_losses(settings, splits, monkeypatch, rule):
    settings = dataclasses.replace(settings, accumulation_rule=rule)
    numbers, divisor = RULES[rule]
    found = gradients_at_fresh_weights(settings, splits, 0, 3, monkeypatch)
    for step, (gradient, of_step) in enumerate(zip(found, numbers, strict=True)):
        expected = summed(settings, splits, of_step, divisor)
        for value, right in zip(gradient, expected, strict=True):
            torch.testing.assert_close(value, right, msg=lambda text, step=step: f"step {step}: {text}")


@pytest.mark.parametrize("rule", RULES)
def test_a_run_that_stands_anywhere_goes_on_with_the_same_gradients(settings, splits, monkeypatch, rule):
    settings = dataclasses.replace(settings, accumulation_rule=rule)
    whole = gradients_at_fresh_weights(settings, splits, 0, 4, monkeypatch)
    for first in (1, 2):
        part = gradients_at_fresh_weights(settings, splits, first, 4 - first, monkeypatch)
        for gradient, expected in zip(part, whole[first:], strict=True):
            for value, right in zip(gradient, expected, strict=True):
                assert torch.equal(value, right)


def test_both_rules_take_the_same_steps_at_the_same_rates_and_report_means(settings, splits):
    lines = {}
    for rule in RULES:
        by_rule = dataclasses.replace(settings, name=rule, accumulation_rule=rule)
        loop, lines[rule] = run(by_rule, partial(Training, by_rule, [splits]))
        assert loop.progress.step == by_rule.steps
    rates = [[line["learning_rate"] for line in lines[rule]] for rule in RULES]
    assert rates[0] == rates[1]
    fresh = make_training(settings, splits)
    dataset = fresh.objective.dataset(Share(accumulation=PARTS))
    with torch.no_grad():
        losses = [fresh.objective(dataset[number])["loss"].item() for number in range(PARTS)]
    assert lines["mean"][0]["loss"] == pytest.approx(sum(losses) / PARTS)
    assert lines["published"][0]["loss"] == pytest.approx(losses[-1])
