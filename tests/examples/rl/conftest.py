"""Settings that train on the fake game in moments."""

import dataclasses
from pathlib import Path

import pytest

from examples.rl.settings import Settings


@pytest.fixture(scope="session")
def tiny_settings() -> Settings:
    return Settings(
        name="tiny",
        games=("fake",),
        batch_size=4,
        unroll=5,
        frames=120,  # six updates
        learning_rate=5e-3,
        report_every=2,
    )


@pytest.fixture
def settings(tiny_settings: Settings, tmp_path: Path) -> Settings:
    return dataclasses.replace(tiny_settings, runs=tmp_path)
