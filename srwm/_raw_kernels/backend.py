"""The CUDA backend's row of the table of backends; this version has no CUDA kernels behind it."""

from __future__ import annotations


def unusable() -> str | None:
    """Why this backend cannot run here."""
    return "this version of srwm has no CUDA kernels; move the arrays to the CPU"


def declines(device: str) -> str | None:
    """Why this backend does not take arrays of `device` ("cpu", "cuda")."""
    return None if device == "cuda" else f"it takes CUDA arrays, these are on the {device}"
