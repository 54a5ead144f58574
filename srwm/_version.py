"""The version: its only home, which building the package reads too."""

__version__ = "0.1.0"
