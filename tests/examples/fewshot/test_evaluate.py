import dataclasses
import itertools
import json
import math
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch
import tyro
from accelerate.state import AcceleratorState
from PIL import Image
from scipy import stats

from examples.fewshot import evaluate as evaluate_module
from examples.fewshot.data.classes import ImageClasses, Normalisation, Splits
from examples.fewshot.data.episodes import EpisodeSampler
from examples.fewshot.data.sequences import SequenceSampler
from examples.fewshot.domains import describe_data
from examples.fewshot.evaluate import Evaluation, evaluate, load_run
from examples.fewshot.models import FewShotLearner
from examples.fewshot.protocol import score, score_sequences
from examples.fewshot.settings import build_learner
from examples.training.run_folder import RunFolder, describe, load, save
from examples.training.statistics import mean_and_interval
from examples.training.tables import percent
from tests.examples.runs import cells_of


@pytest.fixture(autouse=True)
def _no_gallery(monkeypatch):
    """It takes a second to draw; whole runs, in test_train, draw it."""
    monkeypatch.setattr(
        evaluate_module, "draw_gallery", lambda learner, sampler, classes, path: path.touch()
    )


def begun(settings) -> RunFolder:
    """A run that has only begun, with weights of its seed."""
    folder = RunFolder(settings.folder)
    torch.manual_seed(settings.seed)
    learner = build_learner(settings).state_dict()
    folder.begin(settings, {**describe(settings), "progress": {"step": 0}, "learner": learner})
    return folder


@pytest.fixture
def run(settings) -> RunFolder:
    return begun(settings)


@pytest.fixture
def seeds(settings) -> list[RunFolder]:
    return [begun(dataclasses.replace(settings, name=f"seed-{seed}", seed=seed)) for seed in range(3)]


@pytest.fixture
def sequential(settings):
    return dataclasses.replace(
        settings, protocol="sequential", second_data="textures", k_shot=3, max_trim=4, pools=0
    )


def test_evaluation_is_reproducible_and_says_what_was_measured(run, splits, capsys):
    options = Evaluation(runs=(run.path,), episodes=60, queries=3)
    result = evaluate(options, [splits])
    assert result == evaluate(options, [splits])
    assert result == json.loads((run.path / "evaluation-episodes60-queries3.json").read_text())
    assert (run.path / "evaluation-episodes60-queries3.png").exists()

    learner = load_run(run).model
    sampler = EpisodeSampler(splits.test, n_way=3, k_shot=1, n_query=3, seed=1)
    scores = score(learner, sampler, 60)
    for name, values in (("learner", scores.learner), ("nearest_neighbour", scores.nearest)):
        mean, half = mean_and_interval(values)
        assert result[name] == {"mean": mean, "interval_95": half}
    assert result["episodes"] == 60
    assert result["chance"] == 1 / 3
    assert result["split"] == "test"
    out = capsys.readouterr().out
    assert ["learner", percent(result["learner"])] in cells_of(out)


def test_other_episodes_by_another_seed(run, splits):
    one = evaluate(Evaluation(runs=(run.path,), seed=1, augment=False), [splits])
    other = evaluate(Evaluation(runs=(run.path,), seed=2, augment=False), [splits])
    assert one["nearest_neighbour"] != other["nearest_neighbour"]


def test_the_validation_classes_instead_of_the_tests(run, splits):
    result = evaluate(Evaluation(runs=(run.path,), on_validation=True, episodes=100), [splits])
    learner = load_run(run).model
    sampler = EpisodeSampler(splits.validation, n_way=3, k_shot=1, n_query=2, seed=1)
    scores = score(learner, sampler, 100)
    assert result["learner"]["mean"] == scores.learner.mean()
    assert result["nearest_neighbour"]["mean"] == scores.nearest.mean()
    assert result["split"] == "validation"
    assert not run.evaluation.exists()
    assert json.loads((run.path / "evaluation-validation-episodes100.json").read_text()) == result


def test_more_shots_than_in_training(run, splits):
    result = evaluate(Evaluation(runs=(run.path,), k_shot=4), [splits])
    assert result["k_shot"] == 4


def test_accuracy_against_the_number_of_shots(run, splits, capsys):
    result = evaluate(Evaluation(runs=(run.path,), k_shots=(1, 5, 2)), [splits])
    assert [part["k_shot"] for part in result["k_shots"]] == [1, 5, 2]
    for part in result["k_shots"]:
        options = Evaluation(runs=(run.path,), k_shot=part["k_shot"])
        assert part == evaluate(options, [splits]), "as one by one"
    assert json.loads((run.path / "evaluation-shots.json").read_text()) == result
    assert (run.path / "evaluation-shots.png").exists()
    assert capsys.readouterr().out.count("3-way 5-shot, 12 episodes") == 2


def test_several_runs_are_summarised_by_students_t(seeds, splits, capsys):
    joint = evaluate(Evaluation(runs=tuple(run.path for run in seeds)), [splits])
    alone = [evaluate(Evaluation(runs=(run.path,)), [splits]) for run in seeds]
    assert [{k: v for k, v in part.items() if k != "run"} for part in joint["runs"]] == alone
    assert [part["run"] for part in joint["runs"]] == [str(run.path) for run in seeds]
    for name in ("learner", "nearest_neighbour"):
        means = [part[name]["mean"] for part in alone]
        summary = joint["summary"][name]
        assert summary["count"] == 3
        assert summary["mean"] == pytest.approx(statistics.fmean(means))
        assert summary["sd"] == pytest.approx(statistics.stdev(means))
        half = stats.t.ppf(0.975, 2) * statistics.stdev(means) / math.sqrt(3)
        assert summary["interval_95"] == pytest.approx(half)
    written = seeds[0].path.parent / "seed-0+seed-1+seed-2-evaluation.json"
    assert json.loads(written.read_text()) == joint
    head, *rows = cells_of(written.with_suffix(".md").read_text())
    assert head == ["over 3 runs", "mean ± 95 % interval (Student's t)", "sd"]
    learner = joint["summary"]["learner"]
    assert rows[0] == ["1-shot: learner", percent(learner), f"{100 * learner['sd']:.2f} %"]
    assert "over 3 runs" in capsys.readouterr().out


def test_the_published_interval_of_one_run_and_of_several(seeds, splits, capsys):
    paths = tuple(run.path for run in seeds)
    options = Evaluation(runs=paths, episodes=12, interval="published", tests=3, k_shots=(1, 2))
    joint = evaluate(options, [splits])
    learner = load_run(seeds[0]).model
    tests = []
    for first in (0, 4, 8):
        sampler = EpisodeSampler(splits.test, n_way=3, k_shot=1, n_query=2, seed=1)
        tests.append(score(learner, sampler, first + 4).learner[first:].mean())
    alone = joint["runs"][0]["k_shots"][0]
    assert alone["interval"] == "published"
    assert alone["learner"]["mean"] == pytest.approx(statistics.fmean(tests))
    assert alone["learner"]["interval_95"] == pytest.approx(1.96 * statistics.pstdev(tests) / 3)
    means = [part["k_shots"][0]["learner"]["mean"] for part in joint["runs"]]
    half = joint["summary"]["k_shots"][0]["learner"]["interval_95"]
    assert half == pytest.approx(1.96 * statistics.pstdev(means) / 3)
    out = capsys.readouterr().out
    assert "95 %" not in out
    assert out.count("1.96 sd / n, as published") == 3 * 2 + 1


def test_runs_of_two_kinds_are_not_summarised(run, settings, splits):
    other = begun(dataclasses.replace(settings, name="other", d_model=8))
    with pytest.raises(
        ValueError, match=r"differ in their seed alone, but from .* --d-model: was 16, now 8"
    ):
        evaluate(Evaluation(runs=(run.path, other.path)), [splits])


def test_runs_of_one_seed_are_not_summarised(seeds, splits):
    """Their spread would say nothing about other seeds."""
    with pytest.raises(ValueError, match=r"from .*seed-0 to .*seed-0: --seed is the same; evaluate them"):
        evaluate(Evaluation(runs=(seeds[0].path, seeds[0].path)), [splits])


def test_seeds_may_have_encoders_of_their_own(settings, splits):
    runs = [
        begun(dataclasses.replace(settings, name=f"s{n}", seed=n, encoder_from=Path(f"runs/leader-{n}")))
        for n in range(2)
    ]
    joint = evaluate(Evaluation(runs=tuple(run.path for run in runs)), [splits])
    assert joint["summary"]["learner"]["count"] == 2


def test_sequences_in_both_orders(sequential, splits, capsys):
    other = dataclasses.replace(splits, test=splits.train)
    run = begun(sequential)
    result = evaluate(Evaluation(runs=(run.path,)), [splits, other])
    assert result == json.loads(run.evaluation.read_text())
    assert (run.path / "positions.png").exists()
    assert result["sequences"] == 12
    assert result["images_repeat"] is False
    assert list(result["orders"]) == ["glyphs first", "textures first"]

    learner = load_run(run).model
    for leader, (order, name) in enumerate((("first", "glyphs"), ("second", "textures"))):
        sampler = SequenceSampler(splits.test, other.test, n_way=3, k_shot=3, seed=1, order=order)
        scores = score_sequences(learner, sampler, 12)
        found = result["orders"][f"{name} first"]
        assert found["switch"] == 9
        assert found["positions"]["mean"] == pytest.approx(scores.correct.mean(axis=0))
        assert found["total"]["mean"] == pytest.approx(scores.correct.mean())
        tasks = {"glyphs": 0, "textures": 1}
        assert list(found["tasks"]) == sorted(tasks, key=lambda task, first=name: task != first)
        for task, number in tasks.items():
            half = slice(9) if number == leader else slice(9, None)
            mean, interval = mean_and_interval(scores.correct[:, half].mean(axis=1))
            assert found["tasks"][task]["total"] == {
                "mean": pytest.approx(mean),
                "interval_95": pytest.approx(interval),
            }
            by_shot = scores.at_shots(number).mean(axis=0)
            assert found["tasks"][task]["shots"]["mean"] == pytest.approx(by_shot)
    out = capsys.readouterr().out
    assert "after 0 labels of the class" in out
    assert ["both tasks", percent(result["orders"]["glyphs first"]["total"])] in cells_of(out)


def test_sequences_of_several_runs(sequential, splits, monkeypatch):
    monkeypatch.setattr(evaluate_module, "draw_positions", lambda orders, *, path, **others: path.touch())
    runs = [begun(dataclasses.replace(sequential, name=f"s{seed}", seed=seed)) for seed in range(2)]
    joint = evaluate(Evaluation(runs=tuple(run.path for run in runs), episodes=4), [splits, splits])
    totals = [part["orders"]["glyphs first"]["total"]["mean"] for part in joint["runs"]]
    summary = joint["summary"]["orders"]["glyphs first"]
    assert summary["total"]["mean"] == pytest.approx(statistics.fmean(totals))
    assert len(summary["positions"]["interval_95"]) == 18
    assert (runs[0].path.parent / "s0+s1-evaluation-episodes4.png").exists()


def test_classes_of_few_images_repeat_them_in_distorted_sequences_alone(sequential, splits, monkeypatch):
    monkeypatch.setattr(evaluate_module, "draw_positions", lambda orders, **others: None)
    run = begun(sequential)
    options = Evaluation(runs=(run.path,), k_shot=7, episodes=2)  # each class has 6 images
    assert evaluate(options, [splits, splits])["images_repeat"] is True
    with pytest.raises(ValueError, match="k_shot=7 needs at least 8 images"):
        evaluate(dataclasses.replace(options, augment=False), [splits, splits])


def test_a_folder_of_images(run, tmp_path):
    rng = np.random.default_rng(0)
    for character in "wxyz":
        for image in range(3):
            path = tmp_path / "writing" / "runes" / character / f"{image}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.where(rng.random((28, 28)) < 0.1, 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    result = evaluate(Evaluation(runs=(run.path,), data="folder", root=tmp_path / "writing"))
    assert result["classes"] == 4
    assert result["alphabets"] == ["runes"]
    assert result["split"] == "all"
    assert json.loads((run.path / "evaluation-writing.json").read_text()) == result
    assert (run.path / "evaluation-writing.png").exists()
    assert not run.evaluation.exists()


def test_a_folder_is_read_as_the_run_was_trained(settings, tmp_path, monkeypatch):
    """In colour, of another size, normalised; the normalisation is that of the run's data."""
    coloured = dataclasses.replace(settings, image_size=32, channels=3, normalise="correct")
    for character, image in itertools.product("wxyz", "012"):
        path = tmp_path / "writing" / "runes" / character / f"{image}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.linear_gradient("L").save(path)
    normalisation = Normalisation(mean=(0.5,), std=(0.25,))
    train = ImageClasses(
        np.zeros((1, 1, 32, 32), np.uint8), np.array([0, 1]), ("a",), ("A",), normalisation
    )
    monkeypatch.setattr(evaluate_module, "load_domains", lambda settings: [Splits(train, train, train)])
    seen = []
    monkeypatch.setattr(
        evaluate_module, "draw_gallery", lambda learner, sampler, classes, path: seen.append(classes)
    )
    evaluate(Evaluation(runs=(begun(coloured).path,), data="folder", root=tmp_path / "writing"))
    assert seen[0].picture_shape == (3, 32, 32)
    assert seen[0].normalisation == normalisation


def test_options_that_do_not_fit_are_named(run, tmp_path):
    for changes, message in (
        ({"data": "folder"}, "--data folder needs --root"),
        ({"data": "folder", "root": tmp_path, "second_root": tmp_path}, "leave out --data folder"),
        ({"data": "folder", "root": tmp_path, "on_validation": True}, "leave out --data folder"),
        ({"k_shot": 1, "k_shots": (1, 2)}, "--k-shot and --k-shots exclude each other"),
        ({"runs": ()}, "give the folder of a run"),
        ({"interval": "published", "tests": 1}, "--tests must be at least 2, got 1"),
        ({"interval": "published", "episodes": 13}, r"multiple of --tests \(5\) .* published, got 13"),
        ({"episodes": 1}, "--episodes must be at least 2, .* got 1"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate(Evaluation(**({"runs": (run.path,)} | changes)))


def test_shots_are_not_swept_in_sequences(sequential, splits):
    run = begun(sequential)
    with pytest.raises(ValueError, match="--k-shots are of runs that answer episodes"):
        evaluate(Evaluation(runs=(run.path,), k_shots=(1, 2)), [splits, splits])


def test_the_command_line_takes_several_runs_and_shots():
    options = tyro.cli(Evaluation, args=["runs/a", "runs/b", "--k-shots", "1", "5", "--seed", "3"])
    assert options == Evaluation(runs=(Path("runs/a"), Path("runs/b")), k_shots=(1, 5), seed=3)


@pytest.mark.parametrize(("told", "expected"), [("true", "cpu"), ("false", "cuda")])
def test_evaluation_computes_where_training_would(run, splits, monkeypatch, told, expected):
    monkeypatch.setenv("ACCELERATE_USE_CPU", told)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    moved = []
    monkeypatch.setattr(FewShotLearner, "to", lambda learner, device: moved.append(torch.device(device)))
    AcceleratorState._reset_state(reset_partial_state=True)  # which remembers where others computed
    try:
        evaluate(Evaluation(runs=(run.path,)), [splits])
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    assert [device.type for device in moved] == [expected]


def test_settings_come_from_the_checkpoint(run, settings):
    loaded = load_run(run)
    recorded = loaded.settings
    assert recorded == settings
    assert loaded.progress["step"] == 0
    assert dataclasses.asdict(recorded) == dataclasses.asdict(settings)


def test_other_choices_leave_the_runs_own_evaluation_alone(run, splits, settings):
    evaluate(Evaluation(runs=(run.path,)), [splits])
    before = run.evaluation.read_text(), run.episodes.stat().st_mtime_ns
    left = {path.name for path in run.path.iterdir()}
    for changes, name in (
        ({"episodes": 8}, "episodes8"),
        ({"k_shot": 2}, "shot2"),
        ({"queries": 3}, "queries3"),
        ({"seed": 2}, "seed2"),
        ({"augment": False}, "plain"),
        ({"interval": "published", "tests": 3}, "published3"),
        ({"k_shots": (1, 2), "episodes": 8}, "shots-episodes8"),
    ):
        evaluate(Evaluation(runs=(run.path,), **changes), [splits])
        assert (run.path / f"evaluation-{name}.json").exists(), name
        left |= {f"evaluation-{name}{suffix}" for suffix in (".json", ".md", ".png")}
    assert (run.evaluation.read_text(), run.episodes.stat().st_mtime_ns) == before
    usual = {"episodes": settings.test_episodes, "k_shot": settings.k_shot, "augment": True}
    evaluate(Evaluation(runs=(run.path,), **usual), [splits])
    assert {path.name for path in run.path.iterdir()} == left, "what is usual is the run's own"
    assert run.evaluation.read_text() == before[0]


def test_an_output_that_would_replace_something_else_is_refused_before_anything_is_measured(
    seeds, splits, monkeypatch
):
    monkeypatch.setattr(evaluate_module, "score", lambda *given: pytest.fail("it was measured"))
    for runs, output, message in (
        (seeds[:1], seeds[0].metrics, "would replace .*metrics.json; choose another"),
        (seeds[:2], seeds[1].evaluation, "would replace .*seed-1.*evaluation.json"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate(Evaluation(runs=tuple(run.path for run in runs), output=output), [splits])


def test_an_output_in_a_folder_that_is_not_there(run, splits, tmp_path):
    output = tmp_path / "a" / "b" / "numbers.json"
    result = evaluate(Evaluation(runs=(run.path,), output=output), [splits])
    assert json.loads(output.read_text()) == result
    assert output.with_suffix(".png").exists()
    assert not run.evaluation.exists()


def test_a_run_whose_data_have_moved(settings, sequential, splits, monkeypatch):
    asked = []

    def load_domains(settings):
        asked.append((settings.root, settings.second_root))
        return [splits] * (2 if settings.second_data else 1)

    monkeypatch.setattr(evaluate_module, "load_domains", load_domains)
    monkeypatch.setattr(evaluate_module, "draw_positions", lambda orders, **others: None)
    one = begun(dataclasses.replace(settings, root=Path("old")))
    evaluate(Evaluation(runs=(one.path,)))
    evaluate(Evaluation(runs=(one.path,), root=Path("new")))
    two = begun(dataclasses.replace(sequential, name="two", root=Path("old"), second_root=Path("old 2")))
    evaluate(Evaluation(runs=(two.path,), second_root=Path("new 2")))
    old, new = Path("old"), Path("new")
    assert asked == [(old, None), (new, None), (old, Path("new 2"))]
    assert one.evaluation.exists(), "it is the run's own evaluation wherever the data are"


def test_a_run_is_not_evaluated_on_other_data(run, splits):
    state = load(run.checkpoint)
    save({**state, "data": describe_data([splits])}, run.checkpoint)
    evaluate(Evaluation(runs=(run.path,)), [splits])
    other = dataclasses.replace(splits, test=splits.train)
    with pytest.raises(ValueError, match=r"evaluate: .* was trained on other data, .*; give --root the"):
        evaluate(Evaluation(runs=(run.path,), root=Path("new")), [other])
