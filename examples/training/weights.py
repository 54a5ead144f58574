"""Weights of a checkpoint, looked at before they are used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

_MEND = "put back a copy of it, or train anew"

P = TypeVar("P")


def load_weights(module: nn.Module, weights: object, path: Path) -> None:
    """Give a module the weights of a checkpoint.

    Raises
    ------
    ValueError : as `check_weights`; nothing is changed then.
    """
    module.load_state_dict(check_weights(weights, module.state_dict(), path))


def check_weights(weights: object, expected: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The weights, once they are known to be those of a module, which has `expected`.

    Raises
    ------
    ValueError : if one is missing, unknown, of another shape or dtype, or not finite.
    """
    if not isinstance(weights, dict):
        raise ValueError(f"{path} has no weights; {_MEND}")
    for name in sorted(expected.keys() | weights.keys()):
        if name not in expected:
            raise ValueError(f"{path} has a weight {name} that this program has not; {_MEND}")
        found, wanted = weights.get(name), expected[name]
        if not isinstance(found, Tensor):
            raise ValueError(f"{path} lacks the weight {name}; {_MEND}")
        for what in ("shape", "dtype"):
            is_, was = getattr(found, what), getattr(wanted, what)
            if is_ != was:
                shown = [str(tuple(of) if what == "shape" else of) for of in (is_, was)]
                raise ValueError(
                    f"{path}: the weight {name} has the {what} {shown[0]}, expected {shown[1]}; {_MEND}"
                )
        if not found.isfinite().all():
            raise ValueError(f"{path}: the weight {name} is not finite; {_MEND}")
    return weights


def load_optimizer(optimizer: torch.optim.Optimizer, state: object, path: Path) -> None:
    """Give an optimiser the state of a checkpoint.

    Raises
    ------
    ValueError : if it is not one of these parameters, or not finite; nothing is changed then.
    """
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
            if value.ndim and value.shape != parameters[number].shape:
                raise ValueError(
                    f"{path}: the optimiser's {name} of weight {number} has the shape "
                    f"{tuple(value.shape)}, expected {tuple(parameters[number].shape)}; {_MEND}"
                )
            if not value.isfinite().all():
                raise ValueError(
                    f"{path}: the optimiser's {name} of weight {number} is not finite; {_MEND}"
                )
    optimizer.load_state_dict(found)


def read_progress(kind: type[P], recorded: dict[str, Any], path: Path) -> P:
    """Where a run stands, from its checkpoint.

    Raises
    ------
    ValueError : if it has what ``kind``, a dataclass, does not know.
    """
    # That P is a dataclass no bound of a type variable can say.
    unknown = recorded.keys() - {f.name for f in fields(kind)}  # type: ignore[arg-type]
    if unknown:
        raise ValueError(
            f"{path} was written by another version of the program, which counts "
            f"{', '.join(sorted(unknown))}; use that version"
        )
    return kind(**recorded)
