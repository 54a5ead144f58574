"""Comparing what runs leave behind."""

import numpy as np
import torch

from examples.training.run_folder import RunFolder, load

TIMINGS = ("seconds", "_per_second", "_share")  # how their names end


def without_times(line: dict) -> dict:
    return {name: value for name, value in line.items() if not name.endswith(TIMINGS)}


def numbers_of(folder: RunFolder) -> dict[str, torch.Tensor]:
    """Every tensor of the checkpoint and of the best weights, if any are kept, by name."""

    def flatten(value, name):
        if isinstance(value, torch.Tensor):
            yield name, value
        elif isinstance(value, (dict, list)):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            for key, inner in items:
                yield from flatten(inner, f"{name}.{key}")

    kept = [path for path in (folder.checkpoint, folder.best) if path.exists()]
    return dict(flatten({path.name: load(path) for path in kept}, ""))


def assert_same_run(one: RunFolder, other: RunFolder) -> None:
    """To the bit, but for the times."""
    assert [without_times(line) for line in one.reports()] == [
        without_times(line) for line in other.reports()
    ]
    tensors, others = numbers_of(one), numbers_of(other)
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor.numpy(), others[name].numpy(), err_msg=name, strict=True)
    assert one.evaluation.exists() == other.evaluation.exists()
    if one.evaluation.exists():
        assert one.evaluation.read_text() == other.evaluation.read_text()
