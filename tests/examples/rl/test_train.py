"""What the program does with games."""

import dataclasses

import pytest

from examples.rl import train
from examples.rl.plots import draw_curves
from examples.rl.train import Training, session_seed
from examples.training.checkpoint import load, save
from examples.training.interrupt import INTERRUPTED
from examples.training.run_folder import RunFolder
from tests.examples.rl.fakes import FakeEnvironment, ForgetfulEnvironment, fake_agent
from tests.examples.runs import act_in_step, press_ctrl_c


@pytest.fixture
def made(monkeypatch) -> list[tuple[range, int, FakeEnvironment]]:
    """Which blocks of games were asked for, with which seed: fake ones are played, by a fake agent."""
    asked = []

    def make_games(settings, block, seed):
        kind = ForgetfulEnvironment if settings.mode == "hard" else FakeEnvironment
        asked.append((block, seed, kind(len(block), 0, seed)))
        return asked[-1][-1]

    monkeypatch.setattr(train, "make_games", make_games)
    monkeypatch.setattr(train, "make_agent", lambda settings, environment: fake_agent(settings.seed))
    monkeypatch.setattr(train, "draw_curves", lambda *given: None)
    return asked


def stopped(settings) -> RunFolder:
    """The folder of a run that was stopped in its third update."""
    with pytest.MonkeyPatch.context() as patch:
        act_in_step(patch, Training, 2, press_ctrl_c)
        assert train.main(settings) == INTERRUPTED
    return RunFolder(settings.folder)


def test_seeds_differ_between_runs_and_sessions():
    seeds = {session_seed(seed, update) for seed in (0, 1) for update in (0, 5)}
    assert len(seeds) == 4
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_the_games_of_a_run_are_those_of_its_seed_and_are_closed(settings, made, monkeypatch):
    assert train.main(settings) == 0
    [(block, seed, environment)] = made
    assert (block, seed) == (range(4), session_seed(0, 0))
    assert environment.closed
    folder = RunFolder(settings.folder)
    assert load(folder.checkpoint)["actor"] is None, "there is nothing left to collect"

    def make_games(*args):
        raise ImportError("no such games")

    before = folder.checkpoint.read_bytes()
    monkeypatch.setattr(train, "make_games", make_games)
    with pytest.raises(ImportError, match="no such games"):
        train.main(dataclasses.replace(settings, overwrite=True))
    assert folder.checkpoint.read_bytes() == before


def test_games_are_closed_where_training_does_not_begin(settings, made):
    folder = stopped(settings)
    state = load(folder.checkpoint)
    state["agent"].popitem()
    save(state, folder.checkpoint)
    with pytest.raises(ValueError, match="lacks the weight"):
        train.main(dataclasses.replace(settings, resume=True))
    assert all(environment.closed for *_, environment in made)


def test_curves_of_several_games_and_of_no_ended_episode(settings, made, monkeypatch):
    monkeypatch.setattr(train, "draw_curves", draw_curves)
    several = dataclasses.replace(settings, games=("a", "b"), unroll=1, frames=8, report_every=1)
    assert train.main(several) == 0
    folder = RunFolder(several.folder)
    [first, _] = folder.reports()
    assert first["episodes"] == 0
    assert "episode_return" not in first
    assert folder.curves.exists()


def test_games_that_cannot_be_saved_begin_anew_with_seeds_of_the_update(settings, made, learnt):
    settings = dataclasses.replace(settings, mode="hard")
    folder = stopped(settings)
    stopped_at = load(folder.checkpoint)
    for _ in range(2):  # twice the same
        folder.checkpoint.unlink()
        save(stopped_at, folder.checkpoint)
        learnt.clear()
        assert train.main(dataclasses.replace(settings, resume=True)) == 0
        assert learnt[0][1].dones[:, 0].all()
        assert [update for update, *_ in learnt] == [3, 4, 5]
    assert [seed for _, seed, _ in made] == [session_seed(0, update) for update in (0, 3, 3)]
    assert [line["update"] for line in folder.reports()] == [2, 4, 6]


def test_games_that_cannot_be_made_are_named_with_what_to_change(settings):
    message = r"train: --games, --mode, --start-level and --levels .* must be \(0, 0\) .* got \(0, 200\)"
    with pytest.raises(ValueError, match=message):
        train.main(dataclasses.replace(settings, games=("maze",), mode="exploration"))
    assert not settings.folder.exists()
