"""The CPU backend: the Cython kernels and the choice among them."""

from importlib.util import find_spec
from pathlib import Path

if find_spec("srwm._cy.processor") is None:
    raise ImportError(
        f"srwm's kernels are not built in {Path(__file__).parents[1]}: build them with `pip install -e .` "
        "in the checkout, or, where srwm is installed besides, start Python in a folder without srwm/"
    )
