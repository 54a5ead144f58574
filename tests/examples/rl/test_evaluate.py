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
import tyro
from PIL import Image
from scipy import stats

from examples.rl import evaluate as evaluate_module
from examples.rl.environments import make_environment
from examples.rl.episodes import play_episodes
from examples.rl.evaluate import Evaluation, evaluate, load_run
from examples.rl.normalisation import normalise
from examples.rl.random_policy import RandomPolicy
from examples.training.run_folder import RunFolder, load
from examples.training.tables import number
from tests.examples.rl.fakes import FakeEnvironment
from tests.examples.rl.training import begun
from tests.examples.runs import cells_of


@pytest.fixture
def folders(trained, tmp_path) -> list[RunFolder]:
    return [RunFolder(shutil.copytree(trained / name, tmp_path / name)) for name in ("s0", "s2")]


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


def test_a_run_of_the_cue_task(folders, capsys):
    folder = folders[0]
    options = Evaluation(runs=(folder.path,), episodes=30, environments=7, random=True)
    result = evaluate(options)
    out = capsys.readouterr().out
    assert evaluate(options) == result, "evaluation is not reproducible"
    output = folder.path / "evaluation-random-episodes30-environments7.json"
    assert json.loads(output.read_text(), parse_constant=pytest.fail) == result
    [run] = result["runs"]
    assert (run["run"], run["core"], run["training_seed"]) == (str(folder.path), "lstm", 0)
    assert run["frames"] == 40
    assert result["splits"] == {"new episodes": {"levels": None, "unseen": True}}
    assert (result["episodes"], result["environments"], result["seed"]) == (30, 7, 1)
    assert result["seeds"] == []

    agent = load_run(folder).model
    players = [
        (run, "greedy", agent),
        (run, "sampled", agent),
        (result["random"], "sampled", RandomPolicy(4)),
    ]
    for part, policy, player in players:
        episodes = play_episodes(
            player, make_environment("cue", 7, 1), 30, greedy=policy == "greedy", seed=1
        )
        assert part["games"]["cue"]["new episodes"][policy] == {
            "episodes": 30,
            "return": mean_and_half(episodes.returns),
            "length": mean_and_half(episodes.lengths),
        }
    assert list(result["random"]["games"]["cue"]["new episodes"]) == ["sampled"]
    means = [part["games"]["cue"]["new episodes"][policy]["return"]["mean"] for part, policy, _ in players]
    assert len(set(means)) == 3, "who plays and how makes no difference here"

    written = output.with_suffix(".md").read_text()
    assert written == out
    found = run["games"]["cue"]["new episodes"]["sampled"]["return"]
    assert ["s0 (lstm), sampled", number(found)] in cells_of(written)
    with Image.open(output.with_suffix(".png")) as image:
        assert image.size[0] > 300


def test_the_agent_is_the_trained_one(folders):
    run = load_run(folders[0])
    weights = load(folders[0].checkpoint)["agent"]
    assert all(torch.equal(value, weights[name]) for name, value in run.model.state_dict().items())
    assert run.settings.record() == load(folders[0].checkpoint)["settings"]


def test_other_levels_and_actions_by_another_seed(folders):
    results = [
        evaluate(Evaluation(runs=(folders[0].path,), episodes=40, seed=seed))["runs"][0]["games"]
        for seed in (1, 2)
    ]
    assert results[0] != results[1]


def test_seeds_are_summarised_by_students_t(folders):
    paths = tuple(folder.path for folder in folders)
    joint = evaluate(Evaluation(runs=paths, episodes=20))
    assert not folders[0].evaluation.exists()
    alone = [evaluate(Evaluation(runs=(path,), episodes=20))["runs"][0] for path in paths]
    assert joint["runs"] == alone
    [group] = joint["seeds"]
    assert group["runs"] == [str(path) for path in paths]
    assert (group["core"], group["frames"]) == ("lstm", 40)
    assert "training_seed" not in group
    sds = []
    for policy in ("greedy", "sampled"):
        found = group["games"]["cue"]["new episodes"][policy]
        means = [run["games"]["cue"]["new episodes"][policy]["return"]["mean"] for run in alone]
        sd = statistics.stdev(means)
        sds.append(sd)
        assert found["return"] == {
            "mean": pytest.approx(statistics.fmean(means)),
            "sd": pytest.approx(sd),
            "interval_95": pytest.approx(stats.t.ppf(0.975, 1) * sd / math.sqrt(2)),
            "count": 2,
        }
    assert max(sds) > 0, "the seeds are alike"
    written = paths[0].parent / "s0+s2-evaluation-episodes20.json"
    assert json.loads(written.read_text()) == joint
    titles = [row[0] for row in cells_of(written.with_suffix(".md").read_text())]
    assert titles[-2:] == ["lstm, 2 seeds, greedy", "lstm, 2 seeds, sampled"]


def test_runs_that_differ_in_more_are_no_seeds_and_neither_are_runs_of_the_same_seed(settings, made):
    runs = [
        begun(settings, "a", games=("maze",), seed=0),
        begun(settings, "b", games=("maze",), seed=1, entropy_cost=0.5),
        begun(settings, "c", games=("maze",), seed=2),
        begun(settings, "d", games=("maze",), seed=0),
        begun(settings, "e", games=("maze",), seed=3, entropy_cost=0.5),
        begun(settings, "f", games=("maze",), seed=2),
    ]
    paths = tuple(run.path for run in runs)
    options = Evaluation(runs=paths, episodes=4, policies=("greedy",), splits=("train",))
    result = evaluate(options)
    a, b, c, d, e, f = map(str, paths)
    assert [group["runs"] for group in result["seeds"]] == [[a, c], [b, e], [d, f]]


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
    assert output.with_suffix(".md").exists()
    assert output.with_suffix(".png").exists()
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
    options = Evaluation(runs=(folder.path,), episodes=4, splits=("train", "1000"))
    [run] = evaluate(options)["runs"]
    assert "mean_over_games" not in run
    for parts in run["games"].values():
        assert list(parts) == ["train", "1000"], "one test split is all of them"
        assert all("normalised" not in values for part in parts.values() for values in part.values())


def test_acting_at_random_alone(folders):
    result = evaluate(Evaluation(runs=(folders[0].path,), policies=(), random=True, episodes=4))
    assert result["runs"] == []
    tables = folders[0].path / "evaluation-no_policies-random-episodes4.md"
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
    runs = [
        begun(settings, "one", games=("maze",)),
        begun(settings, "other", **({"games": ("maze",)} | changes)),
    ]
    with pytest.raises(
        ValueError, match="must have the same games, mode and training levels, but " + message
    ):
        evaluate(Evaluation(runs=tuple(run.path for run in runs)))


def test_options_that_do_not_fit_are_named(folders):
    for changes, message in (
        ({"runs": ()}, "give the folder of a run"),
        ({"policies": ()}, "nothing to evaluate; give --policies, or --random"),
        ({"episodes": 1}, "--episodes must be at least 2, got 1"),
        ({"environments": 0}, "--environments must be at least 1, got 0"),
        ({"seed": -1}, "--seed must be at least 0, got -1"),
        ({"threads": -1}, "--threads must be at least 0, got -1"),
        ({"environment_threads": -1}, "--environment-threads must be at least 0, got -1"),
        ({"splits": ()}, "--splits must name at least one"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate(Evaluation(**({"runs": (folders[0].path,)} | changes)))
    assert not folders[0].evaluation.exists()


def test_the_command_line(tmp_path):
    options = tyro.cli(Evaluation, args=["runs/a", "runs/b", "--splits", "train", "1400", "--random"])
    assert options == Evaluation(
        runs=(Path("runs/a"), Path("runs/b")), splits=("train", "1400"), random=True
    )
    process = subprocess.run(
        [sys.executable, "-m", "examples.rl.evaluate", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 1
    assert "Traceback" not in process.stderr
    assert "give the folder of a run" in process.stderr


def test_other_choices_leave_the_runs_own_evaluation_alone(folders):
    folder = folders[0]
    own = folder.path / Evaluation(runs=(folder.path,)).file
    assert own == folder.evaluation
    own.write_text("mine")
    for changes, name in (
        ({"episodes": 4}, "episodes4"),
        ({"episodes": 4, "environments": 2}, "episodes4-environments2"),
        ({"episodes": 4, "seed": 2}, "episodes4-seed2"),
        ({"episodes": 4, "policies": ("greedy",)}, "greedy-episodes4"),
        ({"episodes": 4, "splits": ("train",), "random": True}, "train-random-episodes4"),
    ):
        evaluate(Evaluation(runs=(folder.path,), **changes))
        for suffix in (".json", ".md", ".png"):
            assert (folder.path / f"evaluation-{name}{suffix}").exists(), name
    assert own.read_text() == "mine"


def test_an_output_that_would_replace_something_else_is_refused_before_anything_is_played(
    folders, monkeypatch
):
    monkeypatch.setattr(evaluate_module, "play_episodes", lambda *given: pytest.fail("it was played"))
    paths = tuple(folder.path for folder in folders)
    for runs, output, message in (
        (paths[:1], folders[0].config, "would replace .*config.json; choose another"),
        (paths, folders[1].evaluation, "would replace .*s2.*evaluation.json"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate(Evaluation(runs=runs, output=output))
