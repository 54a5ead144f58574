"""The operators: one file for each, with its description and its public functions."""
