import dataclasses
import itertools
import json
import math
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from scipy import stats

from examples.fewshot import evaluate as evaluate_module
from examples.fewshot.data.classes import ImageClasses, Normalisation, Splits
from examples.fewshot.data.episodes import EpisodeSampler
from examples.fewshot.data.sequences import SequenceSampler
from examples.fewshot.domains import describe_data
from examples.fewshot.evaluate import Evaluation, load_run
from examples.fewshot.models import FewShotLearner, build_learner
from examples.fewshot.protocol import score, score_sequences
from examples.training.checkpoint import describe, load, save
from examples.training.run_folder import RunFolder
from examples.training.statistics import mean_and_interval
from examples.training.tables import percent
from tests.examples.runs import cells_of

SEQUENTIAL = {"protocol": "sequential", "second_data": "textures", "k_shot": 3, "max_trim": 4, "pools": 0}
CONTINUAL = {"protocol": "continual", "second_data": "textures", "k_shot": 2, "pools": 0}


@pytest.fixture(autouse=True)
def shown(monkeypatch) -> list[ImageClasses]:
    """What a gallery would show; it takes a second to draw, and whole runs, in test_train, draw it."""
    shown = []

    def draw_gallery(learner, sampler, classes, path):
        shown.append(classes)
        path.touch()

    monkeypatch.setattr(evaluate_module, "draw_gallery", draw_gallery)
    return shown


def begun(settings, **changes) -> RunFolder:
    """A run that has only begun, with weights of its seed."""
    settings = dataclasses.replace(settings, **changes)
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
    return [begun(settings, name=f"seed-{seed}", seed=seed) for seed in range(3)]


def evaluate(runs: RunFolder | list[RunFolder], *domains: Splits, **options) -> dict:
    runs = runs if isinstance(runs, list) else [runs]
    options = Evaluation(runs=tuple(run.path for run in runs), **options)
    return evaluate_module.evaluate(options, list(domains) or None)


def written(run: RunFolder, name: str) -> dict:
    return json.loads((run.path / f"{name}.json").read_text())


@pytest.mark.parametrize("split", ["test", "validation"])
def test_evaluation_is_reproducible_and_says_what_was_measured(run, splits, capsys, split):
    options = {"episodes": 60, "queries": 3, "on_validation": split == "validation"}
    result = evaluate(run, splits, **options)
    assert result == evaluate(run, splits, **options)
    name = f"evaluation-{'validation-' * (split == 'validation')}episodes60-queries3"
    assert result == written(run, name)
    assert (run.path / f"{name}.png").exists()
    assert not run.evaluation.exists()

    sampler = EpisodeSampler(getattr(splits, split), n_way=3, k_shot=1, n_query=3, seed=1)
    scores = score(load_run(run).model, sampler, 60)
    for name, values in scores.items():
        assert result[name] == mean_and_interval(values)
    assert (result["episodes"], result["chance"], result["split"]) == (60, 1 / 3, split)
    assert ["learner", percent(result["learner"])] in cells_of(capsys.readouterr().out)
    assert evaluate(run, splits, **options, seed=2)["nearest_neighbour"] != result["nearest_neighbour"]


def test_accuracy_against_the_number_of_shots(run, splits, capsys):
    result = evaluate(run, splits, k_shots=(1, 5, 2))
    assert [part["k_shot"] for part in result["k_shots"]] == [1, 5, 2]
    assert result["k_shots"] == [evaluate(run, splits, k_shot=k_shot) for k_shot in (1, 5, 2)]
    assert written(run, "evaluation-shots") == result
    assert (run.path / "evaluation-shots.png").exists()
    assert capsys.readouterr().out.count("3-way 5-shot, 12 episodes") == 2


def test_several_runs_are_summarised_by_students_t(seeds, splits, capsys):
    joint = evaluate(seeds, splits)
    alone = [evaluate(run, splits) for run in seeds]
    assert joint["runs"] == [{"run": str(run.path), **part} for run, part in zip(seeds, alone, strict=True)]
    for name in ("learner", "nearest_neighbour"):
        means = [part[name]["mean"] for part in alone]
        half = stats.t.ppf(0.975, 2) * statistics.stdev(means) / math.sqrt(3)
        expected = {"mean": statistics.fmean(means), "sd": statistics.stdev(means)}
        assert joint["summary"][name] == pytest.approx({**expected, "interval_95": half, "count": 3})
    file = seeds[0].path.parent / "seed-0+seed-1+seed-2-evaluation.json"
    assert json.loads(file.read_text()) == joint
    head, *rows = cells_of(file.with_suffix(".md").read_text())
    assert head == ["over 3 runs", "mean ± 95 % interval (Student's t)", "sd"]
    learner = joint["summary"]["learner"]
    assert rows[0] == ["1-shot: learner", percent(learner), f"{100 * learner['sd']:.2f} %"]
    assert "over 3 runs" in capsys.readouterr().out


def test_the_published_interval_of_one_run_and_of_several(seeds, splits, capsys):
    joint = evaluate(seeds, splits, episodes=12, interval="published", tests=3, k_shots=(1, 2))
    sampler = EpisodeSampler(splits.test, n_way=3, k_shot=1, n_query=2, seed=1)
    tests = score(load_run(seeds[0]).model, sampler, 12)["learner"].reshape(3, 4).mean(axis=1).tolist()
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


@pytest.mark.parametrize(
    ("changes", "read", "label"),
    [
        (
            SEQUENTIAL,
            lambda result: result["orders"]["glyphs first"]["total"],
            "glyphs first: both tasks",
        ),
        (
            CONTINUAL,
            lambda result: result["matrices"]["textures, glyphs"]["textures"]["glyphs"],
            "textures, glyphs: textures after glyphs",
        ),
        # Each may have an encoder of its own.
        ({"encoder_from": Path("runs/leader")}, lambda result: result["learner"], "1-shot: learner"),
    ],
)
def test_several_runs_of_every_protocol(settings, splits, capsys, changes, read, label):
    runs = [begun(settings, name=f"s{seed}", seed=seed, **changes) for seed in range(2)]
    domains = [splits, splits] if "second_data" in changes else [splits]
    joint = evaluate(runs, *domains, episodes=4)
    means = [read(part)["mean"] for part in joint["runs"]]
    assert read(joint["summary"])["mean"] == pytest.approx(statistics.fmean(means))
    assert read(joint["summary"])["count"] == 2
    assert label in [cells[0] for cells in cells_of(capsys.readouterr().out)]
    of_episodes = "learner" in joint["summary"]
    assert (runs[0].path.parent / "s0+s1-evaluation-episodes4.png").exists() == (not of_episodes)


def test_runs_that_are_not_seeds_of_one_are_not_summarised(seeds, settings, splits):
    """Neither of two kinds, nor of one seed, whose spread would say nothing about other seeds."""
    other = begun(settings, name="other", d_model=8, seed=7)
    with pytest.raises(ValueError, match=r"differ in their seed alone, .* --d-model: was 16, now 8"):
        evaluate([seeds[0], other], splits)
    with pytest.raises(ValueError, match=r"from .*seed-0 to .*seed-0: --seed is the same; evaluate them"):
        evaluate([seeds[0], seeds[0]], splits)


def test_sequences_in_both_orders(settings, splits, capsys):
    other = splits._replace(test=splits.train)
    run = begun(settings, **SEQUENTIAL)
    result = evaluate(run, splits, other)
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
            total = mean_and_interval(scores.correct[:, half].mean(axis=1))
            assert found["tasks"][task]["total"] == pytest.approx(total)
            by_shot = scores.at_shots(number).mean(axis=0)
            assert found["tasks"][task]["shots"]["mean"] == pytest.approx(by_shot)
    out = capsys.readouterr().out
    assert "after 0 labels of the class" in out
    assert ["both tasks", percent(result["orders"]["glyphs first"]["total"])] in cells_of(out)


def test_classes_of_few_images_repeat_them_in_distorted_sequences_alone(settings, splits):
    run = begun(settings, **SEQUENTIAL)
    options = {"k_shot": 7, "episodes": 2}  # each class has 6 images
    assert evaluate(run, splits, splits, **options)["images_repeat"] is True
    with pytest.raises(ValueError, match=r"7 images of a class are drawn and one is left, but .* has 6"):
        evaluate(run, splits, splits, **options, augment=False)


def test_a_folder_is_read_as_the_run_was_trained(settings, tmp_path, monkeypatch, shown):
    """In colour, of another size, normalised; the normalisation is that of the run's data."""
    for character, image in itertools.product("wxyz", "012"):
        path = tmp_path / "writing" / "runes" / character / f"{image}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.linear_gradient("L").save(path)
    normalisation = Normalisation(mean=(0.5,), std=(0.25,))
    images = np.zeros((1, 1, 32, 32), np.uint8)
    train = ImageClasses(images, np.array([0, 1]), ("a",), ("A",), normalisation)
    monkeypatch.setattr(evaluate_module, "load_domains", lambda settings: [Splits(train, train, train)])
    run = begun(settings, image_size=32, channels=3, normalise="correct")
    result = evaluate(run, data="folder", root=tmp_path / "writing")
    assert shown[0].picture_shape == (3, 32, 32)
    assert shown[0].normalisation == normalisation
    assert (result["classes"], result["alphabets"], result["split"]) == (4, ["runes"], "all")
    assert written(run, "evaluation-writing") == result
    assert (run.path / "evaluation-writing.png").exists()
    assert not run.evaluation.exists()


FOLDER = {"data": "folder", "root": Path("images")}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "folder"}, "--data folder needs --root"),
        (FOLDER | {"second_root": Path("x")}, "--second-root is of .* own data, leave out --data folder"),
        (FOLDER | {"third_root": Path("x")}, "--third-root is of .* own data, leave out --data folder"),
        (FOLDER | {"on_validation": True}, "--on-validation takes .* own data, leave out --data folder"),
        ({"k_shot": 1, "k_shots": (1, 2)}, "--k-shot and --k-shots exclude each other"),
        ({"runs": ()}, "give the folder of a run"),
        ({"interval": "published", "tests": 1}, "--tests must be at least 2, got 1"),
        ({"interval": "published", "episodes": 13}, r"multiple of --tests \(5\) .* published, got 13"),
        ({"episodes": 1}, "--episodes must be at least 2, .* got 1"),
        ({"seed": -1}, r"seed \(--seed\) must be non-negative, got -1"),
    ],
)
def test_options_that_do_not_fit_are_named(run, changes, message):
    with pytest.raises(ValueError, match=message):
        evaluate_module.evaluate(Evaluation(**({"runs": (run.path,)} | changes)))


@pytest.mark.parametrize("changes", [{"k_shots": (1, 2)}, FOLDER])
def test_shots_and_folders_are_not_for_sequences(settings, splits, changes):
    with pytest.raises(ValueError, match="--k-shots are of runs that answer episodes"):
        evaluate(begun(settings, **SEQUENTIAL), splits, splits, **changes)


@pytest.mark.parametrize(("told", "expected"), [("true", "cpu"), ("false", "cuda")])
def test_evaluation_computes_where_training_would(run, splits, monkeypatch, told, expected):
    monkeypatch.setenv("ACCELERATE_USE_CPU", told)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    moved = []
    monkeypatch.setattr(FewShotLearner, "to", lambda learner, device: moved.append(torch.device(device)))
    AcceleratorState._reset_state(reset_partial_state=True)  # which remembers where others computed
    try:
        evaluate(run, splits)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    assert [device.type for device in moved] == [expected]


def test_other_choices_leave_the_runs_own_evaluation_alone(run, splits, settings):
    evaluate(run, splits)
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
        evaluate(run, splits, **changes)
        assert (run.path / f"evaluation-{name}.json").exists(), name
        left |= {f"evaluation-{name}{suffix}" for suffix in (".json", ".md", ".png")}
    assert (run.evaluation.read_text(), run.episodes.stat().st_mtime_ns) == before
    evaluate(run, splits, episodes=settings.test_episodes, k_shot=settings.k_shot, augment=True)
    assert {path.name for path in run.path.iterdir()} == left, "what is usual is the run's own"
    assert run.evaluation.read_text() == before[0]


def test_the_output_is_looked_at_before_anything_is_measured(seeds, splits, monkeypatch, tmp_path):
    output = tmp_path / "a" / "b" / "numbers.json"
    result = evaluate(seeds[0], splits, output=output)
    assert json.loads(output.read_text()) == result
    assert output.with_suffix(".png").exists()
    assert not seeds[0].evaluation.exists()
    monkeypatch.setattr(evaluate_module, "score", lambda *given: pytest.fail("it was measured"))
    for runs, output, message in (
        (seeds[:1], seeds[0].metrics, "would replace .*metrics.json; choose another"),
        (seeds[:2], seeds[1].evaluation, "would replace .*seed-1.*evaluation.json"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate(runs, splits, output=output)


def test_a_run_whose_data_have_moved(settings, splits, monkeypatch):
    asked = []

    def load_domains(settings):
        asked.append((settings.root, settings.second_root))
        return [splits] * (2 if settings.second_data else 1)

    monkeypatch.setattr(evaluate_module, "load_domains", load_domains)
    old, new = Path("old"), Path("new")
    one = begun(settings, root=old)
    evaluate(one)
    evaluate(one, root=new)
    evaluate(begun(settings, name="two", root=old, second_root=old, **SEQUENTIAL), second_root=new)
    assert asked == [(old, None), (new, None), (old, new)]
    assert one.evaluation.exists(), "it is the run's own evaluation wherever the data are"


def test_a_run_is_not_evaluated_on_other_data(run, splits):
    save({**load(run.checkpoint), "data": describe_data([splits])}, run.checkpoint)
    evaluate(run, splits)
    other = splits._replace(test=splits.train)
    with pytest.raises(ValueError, match=r"evaluate: .* was trained on other data: .*; give --root the"):
        evaluate(run, other, root=Path("new"))
