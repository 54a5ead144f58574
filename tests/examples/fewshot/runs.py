"""Comparing what runs leave behind."""

import torch

from examples.fewshot.run_folder import RunFolder, load

TIMINGS = ("seconds", "images_per_second", "episodes_per_second")


def without_times(line: dict) -> dict:
    return {name: value for name, value in line.items() if name not in TIMINGS}


def numbers_of(folder: RunFolder) -> dict[str, torch.Tensor]:
    """Every tensor of the checkpoint and of the best weights, by name."""

    def flatten(value, name):
        if isinstance(value, torch.Tensor):
            yield name, value
        elif isinstance(value, (dict, list)):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            for key, inner in items:
                yield from flatten(inner, f"{name}.{key}")

    return dict(flatten([load(folder.checkpoint), load(folder.best)], ""))


def assert_same_run(one: RunFolder, other: RunFolder) -> None:
    """To the bit, but for the times."""
    assert [without_times(line) for line in one.reports()] == [
        without_times(line) for line in other.reports()
    ]
    tensors, others = numbers_of(one), numbers_of(other)
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, others[name]), name
    assert one.evaluation.read_text() == other.evaluation.read_text()
