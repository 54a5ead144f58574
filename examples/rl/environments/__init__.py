"""Games to act in, many at a time."""

from .registry import action_names, make_environment

__all__ = ["action_names", "make_environment"]
