"""The comparisons behind docs/results: ``python -m examples.languages.experiments --help``."""

from ..training.experiments import run_studies
from .studies import STUDIES

if __name__ == "__main__":
    run_studies("examples.languages.experiments", STUDIES)
