"""Evaluation: what is measured, written and refused; tables and pictures."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from examples.rl import evaluate as evaluation
from examples.rl.environments import make_environment
from examples.rl.episodes import Episodes, play_episodes
from examples.rl.evaluate import Evaluation, evaluate, load_run
from examples.rl.settings import Settings
from examples.rl.train import main
from examples.training.run_folder import RunFolder
from examples.training.statistics import mean_and_interval

CUE = Settings(
    core="srwm",
    d_model=8,
    n_heads=2,
    n_layers=1,
    d_ff=8,
    channels=(4,),
    n_features=8,
    batch_size=4,
    unroll=5,
    frames=40,
    report_every=1,
    threads=1,
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Two seeds of an SRWM, and an LSTM."""
    folder = tmp_path_factory.mktemp("runs")
    for name, changes in (("a", {"seed": 1}), ("b", {"seed": 2}), ("c", {"core": "lstm", "lstm_size": 8})):
        assert main(dataclasses.replace(CUE, name=name, runs=folder, **changes)) == 0
    return folder


def test_a_run_by_hand(runs, capsys):
    result = evaluate(Evaluation(runs=(runs / "a",), episodes=20, environments=8, seed=5, random=True))
    agent = load_run(RunFolder(runs / "a")).agent
    for policy in ("greedy", "sampled"):
        episodes = play_episodes(
            agent, make_environment("cue", 8, 5), 20, greedy=policy == "greedy", seed=5
        )
        values = result["runs"][0]["games"]["cue"]["new episodes"][policy]
        for name, of_episodes in (("return", episodes.returns), ("length", episodes.lengths)):
            mean, half = mean_and_interval(of_episodes)
            assert values[name] == {"mean": mean, "interval_95": half}
        assert values["episodes"] == 20
    assert "normalised" not in values
    assert result["runs"][0]["core"] == "srwm"
    assert result["runs"][0]["training_seed"] == 1
    assert result["runs"][0]["frames"] == 40
    chance = result["random"]["games"]["cue"]["new episodes"]
    assert list(chance) == ["sampled"]
    assert "mean_over_games" not in result["runs"][0]

    folder = RunFolder(runs / "a")
    assert json.loads(folder.evaluation.read_text()) == result
    table = folder.evaluation.with_suffix(".md").read_text()
    assert capsys.readouterr().out.startswith(table)
    value = result["runs"][0]["games"]["cue"]["new episodes"]["greedy"]["return"]
    assert f"| a (srwm), greedy | {value['mean']:.2f} ± {value['interval_95']:.2f} |" in table
    assert "| random policy | " in table
    with Image.open(folder.evaluation.with_suffix(".png")) as image:
        assert image.size[0] > 500


def test_several_runs_and_their_seeds(runs, tmp_path):
    output = tmp_path / "made" / "all.json"
    result = evaluate(
        Evaluation(
            runs=(runs / "a", runs / "c", runs / "b"),
            policies=("sampled",),
            episodes=10,
            environments=5,
            output=output,
        )
    )
    assert [run["core"] for run in result["runs"]] == ["srwm", "lstm", "srwm"]
    [group] = result["seeds"]
    assert [Path(run).name for run in group["runs"]] == ["a", "b"]
    first, _, second = (run["games"]["cue"]["new episodes"]["sampled"]["return"] for run in result["runs"])
    over = group["games"]["cue"]["new episodes"]["sampled"]["return"]
    means = np.array([first["mean"], second["mean"]])
    assert over["mean"] == pytest.approx(means.mean())
    assert over["interval_95"] == pytest.approx(12.706 * means.std(ddof=1) / np.sqrt(2), rel=1e-3)
    assert output.exists()
    assert output.with_suffix(".png").exists()
    assert "| srwm, 2 seeds, sampled |" in output.with_suffix(".md").read_text()


def test_numbers_of_several_runs_go_beside_the_first(runs):
    evaluate(Evaluation(runs=(runs / "a", runs / "b"), policies=("greedy",), episodes=4, environments=2))
    assert (runs / "a+b-evaluation.json").exists()


def test_games_are_normalised_and_test_splits_joined(monkeypatch):
    """The 200 episodes of each split have returns that tell which split and game they are of."""
    asked = []

    class Closing:
        def close(self):
            pass

    def make(game, count, seed, *, mode, levels, threads):
        asked.append((game, levels))
        return Closing()

    def play(options, environment, agent, policy, title):
        game, levels = asked[-1]
        base = {"maze": 5.0, "coinrun": 10.0}[game] + levels[0] / 1000
        return Episodes(np.array([base - 1, base + 1]), np.array([10, 20]))

    monkeypatch.setattr(evaluation, "make_environment", make)
    monkeypatch.setattr(evaluation, "_play", play)
    settings = Settings(games=("maze", "coinrun"))
    splits = evaluation.splits_of(settings, ("train", "1000", "1400"))
    found = evaluation._measure(
        Evaluation(runs=(Path("x"),), episodes=2), settings, splits, None, ("sampled",), "n"
    )
    assert asked == [(g, (s, 200)) for g in ("maze", "coinrun") for s in (0, 1000, 1400)]
    half = 1.96 * np.sqrt(2) / np.sqrt(2)
    maze = found["games"]["maze"]
    assert list(maze) == ["train", "1000", "1400", "test"]
    assert maze["1000"]["sampled"]["return"] == {"mean": 6.0, "interval_95": pytest.approx(half)}
    assert maze["1000"]["sampled"]["normalised"] == {
        "mean": pytest.approx(1 / 5),
        "interval_95": pytest.approx(half / 5),
    }
    assert maze["test"]["sampled"]["episodes"] == 4
    assert maze["test"]["sampled"]["return"]["mean"] == pytest.approx((6.0 + 6.4) / 2)
    over = found["mean_over_games"]["train"]["sampled"]["normalised"]
    assert over["mean"] == pytest.approx((0 + 1) / 2)
    assert over["interval_95"] == pytest.approx(np.sqrt(2) * half / 5 / 2)

    # Tables and the picture of several games, with normalised returns.
    result = {"games": ["maze", "coinrun"], "mode": "easy", "episodes": 2, "runs": [], "random": found}
    tables = evaluation.return_tables(result, splits)
    assert "| maze, easy | train: levels 0–199, seen in training | 1000: levels 1000–1199 |" in tables
    assert "| random policy | 5.00 ± 1.96 (0.00 ± 0.39) | 6.00 ± 1.96 (0.20 ± 0.39) |" in tables
    assert "| random policy | 0.50 ± 0.28 |" in tables.split("normalised, mean over games")[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"runs": ()}, "give the folder of a run"),
        ({"policies": ()}, "nothing to evaluate"),
        ({"episodes": 1}, "--episodes must be at least 2, got 1"),
        ({"environments": 0}, "--environments must be at least 1, got 0"),
        ({"seed": -1}, "--seed must be at least 0"),
    ],
)
def test_options_that_do_not_fit(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(Evaluation(runs=(Path("runs/x"),)), **change).check()


def test_runs_that_cannot_be_compared(runs, tmp_path):
    other = dataclasses.replace(CUE, name="d", runs=tmp_path, levels=7)
    assert main(other) == 0
    with pytest.raises(ValueError, match=r"--levels is 200 in .*a and 7 in .*d; evaluate them one by one"):
        evaluate(Evaluation(runs=(runs / "a", tmp_path / "d"), episodes=4, environments=2))
    with pytest.raises(FileNotFoundError, match="give the folder of a run"):
        evaluate(Evaluation(runs=(tmp_path / "none",), episodes=4))
