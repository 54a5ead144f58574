"""Two tasks in one sequence: how a step is laid out, and what its loss is."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from examples.fewshot.models import build_learner
from examples.fewshot.sequential import SequentialTraining
from examples.training.objective import Share
from tests.examples.fewshot.test_objectives import joined, make, with_and_without_pools


@with_and_without_pools
def test_each_micro_batch_has_a_layout_of_its_own_if_asked_to(settings, pools):
    """Whatever the number of processes; other sequences of the step are in another order and as long."""
    changes = {"accumulation": 2, "k_shot": 3, "max_trim": 7, "sequence_layout": "micro_batch"}
    objective = make("sequential", settings, pools=pools, **changes)
    layouts = []
    for step in range(12):
        parts = joined(objective, step, 1, 2)
        assert [len(part["labels"]) for part in parts] == [4, 4]
        halves = joined(objective, step, 2, 2)
        for part, (one, other) in zip(parts, (halves[:2], halves[2:]), strict=True):
            assert torch.equal(torch.cat([one["tasks"], other["tasks"]]), part["tasks"])
            assert torch.equal(torch.cat([one["labels"], other["labels"]]), part["labels"])
            layouts.append(tuple(part["tasks"][0].tolist()))
    pairs = list(zip(layouts[::2], layouts[1::2], strict=True))
    assert sum(one != other for one, other in pairs) > 8, "one layout for a whole step"
    assert {(one[0], other[0]) for one, other in pairs} == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_the_loss_is_the_mean_over_all_positions_of_answers_given_one_by_one(settings, splits):
    torch.manual_seed(0)
    changes = {"protocol": "sequential", "second_data": "textures", "k_shot": 3, "max_trim": 4, "pools": 0}
    settings = dataclasses.replace(settings, dropout=0.0, **changes)
    objective = SequentialTraining(build_learner(settings), [splits.train, splits.validation], settings)
    batch = objective.dataset(Share())[1]
    with torch.no_grad():
        values = objective(batch)
        learner = objective.learner.eval()
        features = learner.encode(batch["images"])
        states, losses, correct = None, [], []
        for position in range(batch["labels"].shape[1]):
            one = slice(position, position + 1)
            logits, states = learner.read(features[:, one], batch["shown"][:, one], states)
            labels = batch["labels"][:, position]
            losses.append(F.cross_entropy(logits[:, 0], labels, reduction="none"))
            correct.append(logits[:, 0].argmax(dim=-1) == labels)
    torch.testing.assert_close(values["loss"], torch.stack(losses).mean())
    right, tasks = torch.stack(correct, dim=1).double(), batch["tasks"]
    expected = {
        "accuracy": right,
        "accuracy_first": right[tasks == 0],
        "accuracy_second": right[tasks == 1],
    }
    for name, answers in expected.items():
        assert values[name].item() == pytest.approx(answers.mean().item())
    assert len({round(values[name].item(), 6) for name in expected}) == 3


def test_a_class_of_too_few_images_shows_them_again_but_only_distorted(settings):
    """Six images of each class, eight shots."""
    changes = {"pools": 0, "k_shot": 8, "batch_size": 2, "max_trim": 0}
    [batch] = joined(make("sequential", settings, **changes), 0, 1, 1)
    for sequence in batch["positions"]:
        assert len({image.numpy().tobytes() for image in sequence}) == 2 * 3 * 8
    with pytest.raises(ValueError, match=r"8 images of a class are drawn and one is left, but .* has 6"):
        make("sequential", settings, **changes, augment=False)
