"""The check that every environment makes of the actions it is given."""

from __future__ import annotations

import numpy as np


def check_actions(actions: np.ndarray, count: int, n_actions: int) -> None:
    """Raise ValueError unless ``actions`` are (``count``,) integers from 0 to ``n_actions - 1``."""
    if actions.shape != (count,) or not np.issubdtype(actions.dtype, np.integer):
        raise ValueError(
            f"step: actions must be ({count},) integers, one for each environment, got {actions.shape} "
            f"of {actions.dtype}"
        )
    if actions.min() < 0 or actions.max() >= n_actions:
        raise ValueError(
            f"step: actions must be from 0 to {n_actions - 1}, got {actions.min()} to {actions.max()}"
        )
