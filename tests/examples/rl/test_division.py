import dataclasses

import pytest

from examples.rl.settings import Settings
from examples.rl.train import Division, divide

BOTH = Settings(games=("a", "b", "c", "d", "e", "f"), batch_size=32, environments=48)


@pytest.mark.parametrize(
    ("environments", "rank", "processes", "rows", "blocks"),
    [
        (None, 0, 1, range(32), [range(32)]),
        (48, 0, 1, range(32), [range(16), range(16, 32), range(32, 48)]),
        (48, 1, 2, range(16, 32), [range(24, 32), range(32, 40), range(40, 48)]),
        (64, 0, 1, range(32), [range(32), range(32, 64)]),
    ],
)
def test_rows_and_blocks(environments, rank, processes, rows, blocks):
    settings = dataclasses.replace(BOTH, environments=environments)
    assert divide(settings, rank, processes) == Division(rows, tuple(blocks))


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_every_environment_is_played_once_and_every_row_collected_once(processes):
    divisions = [divide(BOTH, rank, processes) for rank in range(processes)]
    assert [row for division in divisions for row in division.rows] == list(range(32))
    played = [number for division in divisions for block in division.blocks for number in block]
    assert played == list(range(48))


def test_what_cannot_be_shared_is_refused():
    with pytest.raises(ValueError, match=r"--environments must be .* processes, 4, got 34"):
        divide(dataclasses.replace(BOTH, environments=34), 0, 4)
