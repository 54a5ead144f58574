"""Every preset trains, and those of the published scripts say what those scripts say."""

import dataclasses
import math

import pytest
import torch

from examples.rl.presets import CORES, PRESETS, smoke
from examples.rl.settings import Settings
from examples.rl.train import make_agent
from tests.examples.rl.fakes import FakeEnvironment
from tests.examples.rl.training import run


@pytest.mark.parametrize("name", PRESETS)
def test_two_updates_move_what_is_trained(name, tmp_path):
    preset = PRESETS[name]
    few = smoke(dataclasses.replace(preset, runs=tmp_path, games=preset.games[:2], batch_size=2, unroll=4))
    few = dataclasses.replace(few, frames=16)

    def agent(seed):
        torch.manual_seed(seed)
        return make_agent(few, FakeEnvironment(1))

    loop, lines = run(few, agent=agent)
    assert [line["update"] for line in lines] == [1, 2]
    assert all(math.isfinite(line["loss"]) for line in lines)
    fresh = dict(agent(few.seed).named_parameters())
    for parameter, after in loop.work.agent.named_parameters():
        assert not torch.equal(fresh[parameter], after), parameter


PUBLISHED = Settings(
    learning_rate=6e-4, schedule="linear", alpha=0.99, momentum=0.0, epsilon=0.01, clip=40.0,
    entropy_cost=0.01, baseline_cost=0.5, discount=0.99, reward_clip=1.0, vtrace_lambda=1.0, rho_bar=1.0,
    c_bar=1.0, pg_rho_bar=1.0, batch_size=32, unroll=50, environments=48, frames=300_000_000, start_level=0,
    n_layers=2, n_heads=8, d_model=128, d_ff=512, lstm_size=256, channels=(16, 32, 32), scale=1,
    n_features=256, residual="plain", input_softmax="usual", beta_init=0.0, q_scale=1.0, input_gain=1.0,
)  # fmt: skip


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize(
    ("mode", "games", "levels"),
    [
        ("easy", ("bigfish", "fruitbot", "maze", "leaper", "plunder", "starpilot"), 200),
        ("memory", ("dodgeball", "heist", "maze", "miner"), 500),
    ],
)
def test_published_presets(mode, games, levels, core):
    name = f"procgen-{mode}-{core.replace('_', '-')}"
    own = {"name": name, "preset": name, "core": core, "mode": mode, "games": games, "levels": levels}
    assert PRESETS[name] == dataclasses.replace(PUBLISHED, **own)
    assert PRESETS[name].played % len(games) == 0, "each game is played by as many actors"
