"""Runs whose weights or gradients are no numbers any more."""

DIVERGED = 3  # the exit status of a program that ended so


class DivergenceError(ValueError):
    """A run has diverged; with the same settings it always does."""
