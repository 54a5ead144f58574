"""Games to act in, many at a time."""
