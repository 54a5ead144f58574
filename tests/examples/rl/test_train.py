"""What an update does, schedules, reports, what is refused; what the program does with games."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState

from examples.rl import train
from examples.rl.losses import actor_critic_losses
from examples.rl.plots import draw_curves
from examples.rl.rollouts import Collector
from examples.rl.settings import Settings
from examples.rl.train import Division, Training, divide, session_seed
from examples.training.checkpoint import load, save
from examples.training.divergence import DivergenceError
from examples.training.interrupt import INTERRUPTED, StopRequest
from examples.training.run_folder import RunFolder
from tests.examples.rl.fakes import FakeEnvironment, ForgetfulEnvironment, fake_agent
from tests.examples.rl.training import make_loop, run
from tests.examples.runs import act_in_step, press_ctrl_c


def by_hand(settings, rates, alpha=0.99, epsilon=0.01):
    """The published recipe, written out: RMSProp on the clipped gradient of the sums.

    Plays unroll k with the weights after update k, or k - 1 where acting and learning overlap.
    """
    agent, acting = fake_agent(settings.seed), fake_agent(settings.seed)
    environment = FakeEnvironment(settings.batch_size, 0, settings.seed, settings.games)
    one = Collector([environment], acting, settings, range(settings.batch_size))
    squares = {n: torch.zeros_like(p) for n, p in agent.named_parameters()}
    weights = [{n: p.detach().clone() for n, p in agent.named_parameters()}]
    for number, rate in enumerate(rates):
        acting.load_state_dict(weights[max(number - settings.overlap, 0)])
        unroll = one.collect(number)
        agent.zero_grad()
        output, _ = agent(unroll.frames, unroll.rewards, unroll.dones, unroll.states, bptt=settings.bptt)
        actor_critic_losses(output, unroll, settings).loss.backward()
        learnt = {n: p for n, p in agent.named_parameters() if p.grad is not None}
        norm = math.sqrt(sum((p.grad**2).sum().item() for p in learnt.values()))
        factor = min(1.0, (settings.clip or math.inf) / (norm + 1e-6))
        with torch.no_grad():
            for name, p in learnt.items():
                g = factor * p.grad
                squares[name] = alpha * squares[name] + (1 - alpha) * g * g
                p -= rate * g / (squares[name].sqrt() + epsilon)
        weights.append({n: p.detach().clone() for n, p in agent.named_parameters()})
    return weights


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"overlap": False},
        {"clip": 0.5},
        {"clip": 0.0},
        {"bptt": 1},
        {"seed": 3},
        {"schedule": "constant"},
    ],
)
def test_training_is_the_published_recipe(settings, change):
    """With its constants, and a learning rate that falls in a line to 0 at the last frame."""
    settings = dataclasses.replace(settings, learning_rate=6e-3, **change)
    loop, lines = run(settings)
    rates = [6e-3 * (1 - (settings.schedule == "linear") * number / 6) for number in range(6)]
    start, *_, expected = by_hand(settings, rates)
    for name, value in loop.work.agent.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-12)
        assert (name == "unused") == torch.equal(value, start[name])
    assert [line["learning_rate"] for line in lines] == pytest.approx(rates[1::2])
    if settings.clip == 0.5:
        assert lines[0]["gradient_norm"] > 0.5


@pytest.mark.parametrize("overlap", [True, False])
def test_the_next_unroll_is_under_way_while_the_learner_computes(settings, learnt, overlap):
    loop, _ = run(dataclasses.replace(settings, overlap=overlap))
    assert [(step, last) for step, _, last in learnt] == [(k, min(k + overlap, 5)) for k in range(6)]
    assert (loop.work.actor._executor is not None) == overlap


def test_it_learns(settings):
    """The fake game needs a memory: the cue is shown in the first frame alone."""
    longer = dataclasses.replace(
        settings, frames=40_000, batch_size=16, unroll=20, learning_rate=1e-2, report_every=10
    )
    _, lines = run(longer)
    per_step = [line["episode_return"] / line["episode_length"] for line in lines]
    assert per_step[0] < 0.3  # chance: (2 - 3 * 0.5) / 4
    assert per_step[-1] > 0.6  # without a memory 0.4: all of the first step, and chance at six more
    assert "episode_return/fake" not in lines[0], "that of the only game"


def test_reports(settings, learnt):
    """Of several games, whose returns count alike."""
    _, lines = run(dataclasses.replace(settings, games=("a", "b", "c"), batch_size=6, frames=180))
    assert [(line["update"], line["frames"]) for line in lines] == [(2, 60), (4, 120), (6, 180)]
    ended = [unroll.episodes for _, unroll, _ in learnt]
    for line, *both in zip(lines, ended[::2], ended[1::2], strict=True):
        count, returns, lengths = (
            [sum(part.get(f"{what}/{game}", 0) for part in both) for game in "abc"]
            for what in ("episodes", "returns", "lengths")
        )
        assert line["episodes"] == sum(count) > 0
        means = [total / number for total, number in zip(returns, count, strict=True)]
        assert [line[f"episode_return/{game}"] for game in "abc"] == pytest.approx(means)
        assert line["episode_return"] == pytest.approx(sum(means) / 3)
        assert line["episode_length"] == pytest.approx(sum(lengths) / sum(count))
        total = line["policy_loss"] + 0.5 * line["baseline_loss"] - 0.01 * 30 * line["entropy"]
        assert line["loss"] == pytest.approx(total)
        assert 0 < line["entropy"] <= math.log(4)
        assert line["seconds"] > 0
        assert line["frames_per_second"] > 0
        assert all(0 < line[f"{part}_share"] <= 1 for part in ("environment", "acting", "learning"))


def test_a_run_that_diverges_stops_before_anything_is_lost(settings):
    class Diverging(FakeEnvironment):
        def step(self, actions):
            step = super().step(actions)
            reward = step.reward if self.steps <= 15 else np.full_like(step.reward, np.nan)
            return dataclasses.replace(step, reward=reward)

    loop = make_loop(dataclasses.replace(settings, reward_clip=math.inf), kind=Diverging)
    with pytest.raises(DivergenceError, match=r"update 4: the gradient's norm must be .*, got nan"):
        loop.train(StopRequest())
    loop.work.close()
    state = load(loop.folder.checkpoint)
    assert state["progress"]["step"] == 2
    for weights in (state["agent"], loop.work.agent.state_dict()):
        assert all(value.isfinite().all() for value in weights.values())
    assert [line["update"] for line in loop.folder.reports()] == [2]


def test_bfloat16_acts_and_learns_with_parameters_that_stay(settings):
    AcceleratorState._reset_state(reset_partial_state=True)  # which remembers the first run's precision
    calls = set()

    def note(*_):
        calls.add(("learning" if torch.is_grad_enabled() else "acting", torch.is_autocast_enabled("cpu")))

    def single(seed):
        agent = fake_agent(seed, torch.float32)
        agent.register_forward_pre_hook(note)
        return agent

    try:
        half, lines = run(dataclasses.replace(settings, mixed_precision="bf16"), agent=single)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    assert calls == {("acting", True), ("learning", True)}
    _, exact = run(dataclasses.replace(settings, name="whole"), agent=single)
    assert {("acting", False), ("learning", False)} < calls
    assert {p.dtype for p in half.work.agent.parameters()} == {torch.float32}
    assert lines[0]["loss"] != exact[0]["loss"]
    assert lines[0]["entropy"] == pytest.approx(exact[0]["entropy"], rel=0.05)


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
    with pytest.raises(ValueError, match="is no tensor"):
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
