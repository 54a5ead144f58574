"""Settings that train on the fake game in moments."""

import dataclasses
from pathlib import Path

import pytest

from examples.rl import train
from examples.rl.rollouts import Unroll
from examples.rl.settings import Settings
from examples.rl.train import Training

TINY = Settings(
    name="tiny",
    games=("fake",),
    batch_size=4,
    unroll=5,
    frames=120,  # six updates
    learning_rate=5e-3,
    report_every=2,
)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return dataclasses.replace(TINY, runs=tmp_path)


@pytest.fixture
def learnt(monkeypatch) -> list[tuple[int, Unroll, int]]:
    """Of each update its number, what it learns from, and which unroll was begun last."""
    found, learn = [], Training._learn

    def noted(self, unroll, step, share_done):
        found.append((step, unroll, self.actor.snapshot["number"]))
        return learn(self, unroll, step, share_done)

    monkeypatch.setattr(Training, "_learn", noted)
    return found


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """A folder of two runs of two updates in the cue task, which differ in their seed."""
    runs = tmp_path_factory.mktemp("runs")
    for seed in (0, 2):
        settings = dataclasses.replace(
            TINY, name=f"s{seed}", games=("cue",), core="lstm", lstm_size=8, channels=(4, 4),
            n_features=8, frames=40, seed=seed, runs=runs, overlap=False,
            learning_rate=0.05,
        )  # fmt: skip
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(train, "draw_curves", lambda *given: None)
            assert train.main(settings) == 0
    return runs
