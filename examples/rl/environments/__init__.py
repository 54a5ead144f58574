"""Games to act in, many at a time."""

from .registry import make_environment

__all__ = ["make_environment"]
