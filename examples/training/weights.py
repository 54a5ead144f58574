"""Weights of a checkpoint, looked at before they are used."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

_MEND = "put back a copy of it, or train anew"


def load_weights(module: nn.Module, weights: object, path: Path) -> None:
    """Give a module the weights of a checkpoint, or leave it as it is where they are not its own."""
    module.load_state_dict(check_weights(weights, module.state_dict(), path))


def check_weights(weights: object, expected: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The weights, once they are known to be those of a module, which has `expected`, and finite."""
    if not isinstance(weights, dict):
        raise ValueError(f"{path} has no weights; {_MEND}")
    for name in sorted(expected.keys() | weights.keys()):
        found, wanted = (_describe(of.get(name)) for of in (weights, expected))
        if found != wanted or name not in expected:
            raise ValueError(f"{path}: the weight {name} is {found}, expected {wanted}; {_MEND}")
        if not weights[name].isfinite().all():
            raise ValueError(f"{path}: the weight {name} is not finite; {_MEND}")
    return weights


def _describe(weight: object) -> str:
    return f"{tuple(weight.shape)} of {weight.dtype}" if isinstance(weight, Tensor) else "no tensor"


def load_optimizer(optimizer: torch.optim.Optimizer, state: object, path: Path) -> None:
    """Give an optimiser the state of a checkpoint, or leave it as it is where that is not its own."""
    groups = optimizer.state_dict()["param_groups"]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    found = state if isinstance(state, dict) else {}
    recorded, of_parameters = found.get("param_groups"), found.get("state")
    if (
        not isinstance(recorded, list)
        or not isinstance(of_parameters, dict)
        or [group.get("params") for group in recorded] != [group["params"] for group in groups]
    ):
        raise ValueError(f"{path}: the optimiser's state is not one of these weights; {_MEND}")
    for number, values in of_parameters.items():
        for name, value in values.items():
            if not isinstance(value, Tensor):
                continue
            fits = not value.ndim or value.shape == parameters[number].shape
            if not fits or not value.isfinite().all():
                raise ValueError(
                    f"{path}: the optimiser's {name} of weight {number} is not finite, or of another "
                    f"shape; {_MEND}"
                )
    optimizer.load_state_dict(found)
