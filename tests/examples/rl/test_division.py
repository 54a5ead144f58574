import dataclasses

import pytest

from examples.rl.division import Block, divide, session_seed
from examples.rl.rollouts import Rows
from examples.rl.settings import Settings

BOTH = Settings(games=("a", "b", "c", "d", "e", "f"), batch_size=32, environments=48)


def test_by_default_there_is_one_block():
    division = divide(Settings(batch_size=32), 0, 1)
    assert division.rows == Rows(0, 32, 32)
    assert division.blocks == (Block(0, 32),)


def test_48_environments_for_32_unrolls():
    assert divide(BOTH, 0, 1).blocks == (Block(0, 16), Block(16, 16), Block(32, 16))
    assert divide(BOTH, 1, 2).blocks == (Block(24, 8), Block(32, 8), Block(40, 8))
    assert divide(BOTH, 1, 2).rows == Rows(16, 16, 32)
    twice = dataclasses.replace(BOTH, environments=64)
    assert divide(twice, 0, 1).blocks == (Block(0, 32), Block(32, 32))


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_every_environment_is_played_once_and_every_row_collected_once(processes):
    divisions = [divide(BOTH, rank, processes) for rank in range(processes)]
    played, rows = [], []
    for division in divisions:
        rows += range(division.rows.first, division.rows.first + division.rows.count)
        for block in division.blocks:
            played += range(block.first, block.first + block.count)
    assert rows == list(range(32))
    assert played == list(range(48))


def test_seeds_differ_between_runs_and_sessions():
    seeds = [session_seed(seed, update) for seed in (0, 1) for update in (0, 5)]
    assert len(set(seeds)) == 4
    assert all(0 <= seed < 2**31 for seed in seeds)


@pytest.mark.parametrize(
    ("change", "processes", "message"),
    [
        ({"batch_size": 30, "environments": 48}, 4, "--batch-size must be .* processes, 4, got 30"),
        ({"environments": 34}, 4, "--environments must be .* processes, 4, got 34"),
    ],
)
def test_what_cannot_be_shared_is_refused(change, processes, message):
    with pytest.raises(ValueError, match=message):
        divide(dataclasses.replace(BOTH, **change), 0, processes)
