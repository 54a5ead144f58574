"""Values that a checkpoint can hold: `torch.load` without pickled code reads tensors, but no arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def to_tensors(value: Any) -> Any:
    """The same dicts, lists and tuples, with tensors for the NumPy arrays and scalars inside."""
    if isinstance(value, (np.ndarray, np.generic)):
        return torch.from_numpy(np.array(value))
    return _each(to_tensors, value)


def to_arrays(value: Any) -> Any:
    """The inverse of `to_tensors`; scalars come back as arrays of no axes."""
    if isinstance(value, Tensor):
        return value.numpy().copy()
    return _each(to_arrays, value)


def _each(change: Any, value: Any) -> Any:
    if isinstance(value, dict):
        return {name: change(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(change, value))
    return value
