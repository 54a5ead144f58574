"""The operators: each has one file, with its description and its public functions."""
