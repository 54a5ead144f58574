import json
import math
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from examples.rl import evaluate as evaluate_module
from examples.rl.acting import RandomPolicy, play_episodes
from examples.rl.environments import make_environment
from examples.rl.environments.procgen import MODES
from examples.rl.evaluate import Evaluation, evaluate, has_constants, load_run, normalise
from examples.training.checkpoint import load
from examples.training.run_folder import RunFolder
from examples.training.statistics import over_runs
from examples.training.tables import number
from tests.examples.rl.fakes import FakeEnvironment
from tests.examples.rl.training import begun
from tests.examples.runs import cells_of


@pytest.fixture
def paths(trained, tmp_path) -> tuple[Path, ...]:
    return tuple(shutil.copytree(trained / name, tmp_path / name) for name in ("s0", "s2"))


@pytest.fixture
def made(monkeypatch) -> Iterator[list]:
    """What was asked for: a fake game is played in place of any, with levels of its own."""
    asked, played = [], []

    def make(games, count, seed, *, mode, levels=(0, 0), threads=0):
        asked.append((games, count, seed, mode, levels, threads))
        played.append(FakeEnvironment(count, seed=1000 * len(games) + levels[0]))
        return played[-1]

    monkeypatch.setattr(evaluate_module, "make_environment", make)
    yield asked
    assert all(environment.closed for environment in played)


def mean_and_half(values) -> dict[str, float]:
    values = [float(value) for value in values]
    half = 1.96 * statistics.stdev(values) / math.sqrt(len(values))
    return {"mean": pytest.approx(statistics.fmean(values)), "interval_95": pytest.approx(half)}


def test_a_run_of_the_cue_task(paths, capsys):
    path = paths[0]
    options = Evaluation(runs=(path,), episodes=30, environments=7, seed=3, random=True)
    result = evaluate(options)
    out = capsys.readouterr().out
    assert evaluate(options) == result, "evaluation is not reproducible"
    output = path / "evaluation-random-episodes30-environments7-seed3.json"
    assert json.loads(output.read_text(), parse_constant=pytest.fail) == result
    [run] = result["runs"]
    about = {"run": str(path), "core": "lstm", "training_seed": 0, "frames": 40}
    assert about.items() <= run.items()
    about = {"episodes": 30, "environments": 7, "seed": 3, "seeds": [], "games": ["cue"], "mode": "easy"}
    assert about.items() <= result.items()
    assert result["splits"] == {"new episodes": {"levels": None, "unseen": True}}

    agent, weights = load_run(RunFolder(path)).model, load(RunFolder(path).checkpoint)["agent"]
    assert all(torch.equal(value, weights[name]) for name, value in agent.state_dict().items())
    players = [
        (run, "greedy", agent),
        (run, "sampled", agent),
        (result["random"], "sampled", RandomPolicy(4)),
    ]
    means = set()
    for part, policy, player in players:
        environment = make_environment("cue", 7, 3)
        episodes = play_episodes(player, environment, 30, greedy=policy == "greedy", seed=3)
        assert part["games"]["cue"]["new episodes"][policy] == {
            "episodes": 30,
            "return": mean_and_half(episodes.returns),
            "length": mean_and_half(episodes.lengths),
        }
        means.add(episodes.returns.mean())
    assert list(result["random"]["games"]["cue"]["new episodes"]) == ["sampled"]
    assert len(means) == 3, "who plays and how makes no difference here"

    assert output.with_suffix(".md").read_text() == out
    found = run["games"]["cue"]["new episodes"]["sampled"]["return"]
    assert ["s0 (lstm), sampled", number(found)] in cells_of(out)
    with Image.open(output.with_suffix(".png")) as image:
        assert image.size[0] > 300


def test_seeds_are_summarised(paths):
    joint = evaluate(Evaluation(runs=paths, episodes=20))
    assert not (paths[0] / "evaluation.json").exists()
    alone = [evaluate(Evaluation(runs=(path,), episodes=20))["runs"][0] for path in paths]
    assert joint["runs"] == alone
    [group] = joint["seeds"]
    about = {"runs": [str(path) for path in paths], "core": "lstm", "frames": 40}
    games = over_runs([run["games"] for run in alone])
    assert group == {**about, "games": games}
    found = games["cue"]["new episodes"]
    assert max(found[policy]["return"]["sd"] for policy in ("greedy", "sampled")) > 0, "seeds are alike"
    written = paths[0].parent / "s0+s2-evaluation-episodes20.json"
    assert json.loads(written.read_text()) == joint
    titles = [row[0] for row in cells_of(written.with_suffix(".md").read_text())]
    assert titles[-2:] == ["lstm, 2 seeds, greedy", "lstm, 2 seeds, sampled"]


def test_games_of_levels(settings, made):
    """By game and split, and over the test splits and the games."""
    folder = begun(settings, "two", games=("maze", "heist"), levels=1100)
    output = settings.runs / "elsewhere" / "numbers.json"
    options = Evaluation(
        runs=(folder.path,), episodes=12, environments=50, seed=3, environment_threads=2, output=output,
        policies=("greedy",),
    )  # fmt: skip
    result = evaluate(options)
    splits = {"train": (0, 1100), "1000": (1000, 200), "1200": (1200, 200), "1400": (1400, 200)}
    assert made[1:] == [
        (game, 12, 3, "easy", levels, 2) for game in ("maze", "heist") for levels in splits.values()
    ]
    assert json.loads(output.read_text()) == result
    assert all(output.with_suffix(suffix).exists() for suffix in (".md", ".png"))
    assert result["splits"]["1000"] == {"levels": [1000, 200], "unseen": False}
    assert result["splits"]["1200"] == {"levels": [1200, 200], "unseen": True}

    agent, played = load_run(folder).model, {}
    for game in ("maze", "heist"):
        for split, (start, _) in splits.items():
            environment = FakeEnvironment(12, seed=1000 * len(game) + start)
            played[game, split] = play_episodes(agent, environment, 12, greedy=True, seed=3).returns
        tests = [played[game, split] for split in ("1000", "1200", "1400")]
        played[game, "test"] = np.concatenate(tests)
    [run] = result["runs"]
    for (game, split), returns in played.items():
        found = run["games"][game][split]["greedy"]
        assert found["return"] == mean_and_half(returns)
        assert found["normalised"] == mean_and_half(normalise(returns, game, "easy"))
        assert found["episodes"] == len(returns) == (36 if split == "test" else 12)
    for split in (*splits, "test"):
        parts = [mean_and_half(normalise(played[game, split], game, "easy")) for game in ("maze", "heist")]
        means, halves = ([part[key].expected for part in parts] for key in ("mean", "interval_95"))
        assert run["mean_over_games"][split]["greedy"]["normalised"] == {
            "mean": pytest.approx(sum(means) / 2),
            "interval_95": pytest.approx(math.sqrt(halves[0] ** 2 + halves[1] ** 2) / 2),
        }
    assert len({float(returns.mean()) for returns in played.values()}) > 6, "all are alike"


def test_without_constants_nothing_is_normalised(settings, made):
    folder = begun(settings, "memory", games=("maze", "heist"), mode="memory")
    [run] = evaluate(Evaluation(runs=(folder.path,), episodes=4, splits=("train", "1000")))["runs"]
    assert "mean_over_games" not in run
    for parts in run["games"].values():
        assert list(parts) == ["train", "1000"], "one test split is all of them"
        assert all("normalised" not in values for part in parts.values() for values in part.values())


def test_acting_at_random_alone(paths):
    result = evaluate(Evaluation(runs=paths[:1], policies=(), random=True, episodes=4))
    assert result["runs"] == []
    tables = paths[0] / "evaluation-no_policies-random-episodes4.md"
    assert [row[0] for row in cells_of(tables.read_text())] == ["cue", "random policy"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"games": ("heist",)}, r"--games is \('maze',\) in .*one and \('heist',\) in .*other"),
        ({"mode": "hard"}, "--mode is easy in .*one and hard in .*other"),
        ({"start_level": 5}, "--start-level is 0 in .*one and 5 in .*other"),
        ({"levels": 7}, "--levels is 200 in .*one and 7 in .*other; evaluate them one by one"),
    ],
)
def test_runs_of_other_games_or_levels_are_refused(settings, made, changes, message):
    games = {"games": ("maze",)}
    runs = [begun(settings, "one", **games), begun(settings, "other", **(games | changes))]
    message = "must have the same games, mode and training levels, but " + message
    with pytest.raises(ValueError, match=message):
        evaluate(Evaluation(runs=tuple(run.path for run in runs)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"runs": ()}, "give the folder of a run"),
        ({"policies": ()}, "nothing to evaluate; give --policies, or --random"),
        ({"episodes": 1}, "--episodes must be at least 2, got 1"),
        ({"environments": 0}, "--environments must be at least 1, got 0"),
        ({"seed": -1}, "--seed must be at least 0, got -1"),
        ({"threads": -1}, "--threads must be at least 0, got -1"),
        ({"environment_threads": -1}, "--environment-threads must be at least 0, got -1"),
        ({"splits": ()}, "--splits must name at least one"),
        ({"output": Path("../s2/evaluation.json")}, "would replace .*s2.*evaluation.json"),
    ],
)
def test_options_that_do_not_fit_are_named_before_anything_is_played(paths, monkeypatch, changes, message):
    monkeypatch.setattr(evaluate_module, "play_episodes", lambda *given: pytest.fail("it was played"))
    if "output" in changes:
        changes = {"output": paths[0] / changes["output"]}
    with pytest.raises(ValueError, match=message):
        evaluate(Evaluation(**({"runs": paths} | changes)))


def test_the_command_line(tmp_path):
    command = [sys.executable, "-m", "examples.rl.evaluate", str(tmp_path)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 1
    assert "Traceback" not in process.stderr
    assert "give the folder of a run" in process.stderr


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "evaluation"),
        ({"episodes": 4}, "evaluation-episodes4"),
        ({"episodes": 4, "environments": 2}, "evaluation-episodes4-environments2"),
        ({"episodes": 4, "seed": 2}, "evaluation-episodes4-seed2"),
        ({"episodes": 4, "policies": ("greedy",)}, "evaluation-greedy-episodes4"),
        ({"episodes": 4, "splits": ("train",), "random": True}, "evaluation-train-random-episodes4"),
    ],
)
def test_other_choices_leave_the_runs_own_evaluation_alone(changes, name):
    assert Evaluation(runs=(Path("runs/a"),), **changes).file == f"{name}.json"
    assert RunFolder(Path("runs/a")).evaluation.name == "evaluation.json"


# Cobbe et al. 2020, appendix C: all of the easy distribution, some of the hard one.
PUBLISHED = {
    "easy": """
bigfish 1 40, bossfight .5 13, caveflyer 3.5 12, chaser .5 13, climber 2 12.6, coinrun 5 10,
dodgeball 1.5 19, fruitbot -1.5 32.4, heist 3.5 10, jumper 3 10, leaper 3 10, maze 5 10,
miner 1.5 13, ninja 3.5 10, plunder 4.5 30, starpilot 2.5 64
""",
    "hard": "bigfish 0 40, starpilot 1.5 35, maze 4 10, heist 2 10, dodgeball 1.5 19, miner 1.5 20",
}


def test_the_published_constants():
    """The least is 0, the largest 1, and between it is straight."""
    for mode, text in PUBLISHED.items():
        rows = [part.split() for part in text.split(",")]
        assert mode == "hard" or [game for game, *_ in rows] == list(MODES)
        for game, *ends in rows:
            least, largest = map(float, ends)
            returns = np.array([least, largest, (least + largest) / 2, 2 * least - largest], np.float32)
            assert has_constants(game, mode)
            found = normalise(returns, game, mode)
            assert found.dtype == np.float64
            np.testing.assert_allclose(found, [0, 1, 0.5, -1], atol=1e-6, err_msg=f"{game} {mode}")
