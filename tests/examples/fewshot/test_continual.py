"""Learning without forgetting: which queries are asked of which state, and what is made of the answers."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from examples.fewshot.continual import ContinualTraining
from examples.fewshot.data.classes import ImageClasses, Splits
from examples.fewshot.data.episodes import EpisodeSampler
from examples.fewshot.data.sequences import task_seed
from examples.fewshot.evaluate import Evaluation, evaluate, load_run
from examples.fewshot.models import FewShotLearner
from examples.fewshot.settings import Settings, build_learner
from examples.fewshot.tasks import Term
from examples.fewshot.validation import make_validation
from examples.training.objective import Share
from examples.training.statistics import mean_and_interval
from tests.examples.fewshot.conftest import patterns
from tests.examples.fewshot.test_evaluate import begun
from tests.examples.fewshot.test_sequential import joined, numbered
from tests.examples.runs import cells_of

TASKS = (2, 3)


@pytest.fixture
def settings(settings):
    return dataclasses.replace(
        settings, protocol="continual", second_data="textures", k_shot=2, dropout=0.0, pools=0
    )


@pytest.fixture
def domains(splits):
    return [splits.train, splits.validation, patterns(9, 6, 7)]


def of_tasks(settings: Settings, tasks: int) -> Settings:
    return dataclasses.replace(settings, third_data="digits" if tasks == 3 else None)


def by_hand(learner: FewShotLearner, tasks: list, read: list[int], asked: int, first_shot: bool):
    """Logits (B, Q, N) of a term, each query at the end of a sequence of its own that is read from scratch.

    ``tasks`` hold (support, labels, query) of each domain.
    """
    found = []
    for sequence in range(len(tasks[0][0])):
        parts = [(tasks[task][0][sequence], tasks[task][1][sequence]) for task in read]
        if first_shot:
            support, labels = tasks[asked][0][sequence], tasks[asked][1][sequence].tolist()
            first = [i for i, label in enumerate(labels) if label not in labels[:i]]
            parts.append((support[first], torch.tensor(labels)[first]))
        for query in tasks[asked][2][sequence]:
            features = torch.cat([part[0] for part in parts] + [query[None]])
            shown = torch.cat([part[1] for part in parts] + [torch.zeros(1, dtype=torch.int64)])
            logits, _ = learner.read(features[None], shown[None], return_states=False)
            found.append(logits[0, -1])
    return torch.stack(found).unflatten(0, tasks[0][2].shape[:2])


def hand_terms(order: list[int], backward: bool, first_shots: bool) -> list[tuple[list[int], int, bool]]:
    """What was read, what is asked, and whether after one image of each class of it."""
    terms = []
    for last in range(len(order)):
        if first_shots:
            terms.append((order[:last], order[last], True))
        terms += [
            (order[: last + 1], order[asked], False) for asked in range(0 if backward else last, last + 1)
        ]
    return terms


@pytest.mark.parametrize("tasks", TASKS)
@pytest.mark.parametrize(("backward", "first_shots"), [(True, True), (False, True), (True, False)])
@pytest.mark.parametrize("core", ["srwm", "deltanet"])
def test_loss_and_gradients_are_those_of_queries_that_are_read_one_by_one(
    settings, domains, tasks, backward, first_shots, core
):
    settings = dataclasses.replace(
        of_tasks(settings, tasks),
        core=core,
        train_encoder=True,
        batch_size=2,
        queries=2,
        backward_terms=backward,
        first_shot_terms=first_shots,
    )
    torch.manual_seed(0)
    learner = build_learner(settings).double()
    objective = ContinualTraining(learner, domains[:tasks], settings)
    batch = objective.dataset(Share())[1]
    batch["images"] = batch["images"].double()
    trained = list(learner.parameters())
    values = objective(batch)
    gradients = torch.autograd.grad(values["loss"], trained)

    features = learner.encode(batch["images"])
    read = [
        (features[batch["support"][:, t]], batch["support_labels"][:, t], features[batch["query"][:, t]])
        for t in range(tasks)
    ]
    terms = hand_terms(batch["order"].tolist(), backward, first_shots)
    count = (tasks * (tasks + 1) // 2 if backward else tasks) + (tasks if first_shots else 0)
    assert len(terms) == count
    losses, right = [], {"current": [], "backward": [], "first_shot": []}
    for before, asked, first_shot in terms:
        logits, labels = (
            by_hand(learner, read, before, asked, first_shot),
            batch["query_labels"][:, asked],
        )
        losses.append(F.cross_entropy(logits.flatten(0, 1), labels.flatten()))
        kind = "first_shot" if first_shot else "current" if asked == before[-1] else "backward"
        right[kind].append((logits.argmax(dim=-1) == labels).double().mean())
    expected = torch.stack(losses).mean()
    torch.testing.assert_close(values["loss"], expected, rtol=1e-12, atol=0)
    for found, wanted in zip(gradients, torch.autograd.grad(expected, trained), strict=True):
        error = (found - wanted).abs().max()
        assert error <= 1e-9 * max(wanted.abs().max(), 1e-2)
    means = {f"accuracy_{kind}": float(torch.stack(of).mean()) for kind, of in right.items() if of}
    means["accuracy"] = float(torch.stack(right["current"] + right["backward"]).mean())
    assert {name: float(value) for name, value in values.items() if name != "loss"} == pytest.approx(means)


def test_terms_are_known_by_the_domains_that_were_read():
    assert Term(1, (0, 2, 1)).backward is False
    assert Term(0, (0, 2, 1)).backward is True
    assert Term(2, (0, 1), first_shot=True).backward is False


@pytest.mark.parametrize("tasks", TASKS)
@pytest.mark.parametrize("pools", [0, 4])
def test_a_step_is_the_same_for_any_number_of_processes_and_micro_batches(settings, domains, pools, tasks):
    settings = dataclasses.replace(of_tasks(settings, tasks), pools=pools, queries=3)
    objective = ContinualTraining(build_learner(settings), domains[:tasks], settings)
    orders = set()
    for step in range(40):
        [whole] = joined(objective, lambda rank: Share(), step)
        orders.add(tuple(whole["order"].tolist()))
        if step not in (0, 3):
            continue
        assert whole["support"].shape == (8, tasks, 6)
        assert whole["query"].shape == (8, tasks, 3)
        for processes, accumulation in ((2, 1), (1, 2), (2, 2)):
            parts = joined(
                objective,
                lambda rank, p=processes, a=accumulation: Share(rank=rank, processes=p, accumulation=a),
                step,
            )
            assert all(torch.equal(part["order"], whole["order"]) for part in parts)
            for name in ("support", "query"):
                labels = torch.cat([part[f"{name}_labels"] for part in parts])
                assert torch.equal(labels, whole[f"{name}_labels"])
                images = torch.cat([part["images"][part[name]] for part in parts])
                assert torch.equal(images, whole["images"][whole[name]])
    assert orders == set(itertools.permutations(range(tasks))), "an order never comes"


@pytest.mark.parametrize("pools", [0, 4])
def test_each_task_holds_images_of_its_domain_and_classes(settings, pools):
    settings = dataclasses.replace(of_tasks(settings, 3), pools=pools, augment=False)
    shifts = (0, 72, 144)
    domains = [numbered(patterns(12, 6, seed), shift) for seed, shift in enumerate(shifts)]
    objective = ContinualTraining(build_learner(settings), domains, settings)
    drawn = []
    for step in range(3):
        batch = objective.dataset(Share())[step]
        shown, asked = (
            (255 * batch["images"][batch[name]][..., 0, 0, 0]).round().long()
            for name in ("support", "query")
        )
        for task, shift in enumerate(shifts):
            for row, labels, queries, answers in zip(
                shown[:, task].tolist(),
                batch["support_labels"][:, task].tolist(),
                asked[:, task].tolist(),
                batch["query_labels"][:, task].tolist(),
                strict=True,
            ):
                assert len(set(row)) == 6, "an image is shown twice"
                assert not set(row) & set(queries), "a query was shown with its label"
                named = {(number - shift) // 6: label for number, label in zip(row, labels, strict=True)}
                assert sorted(named.values()) == [0, 1, 2]
                assert [named[(number - shift) // 6] for number in queries] == answers
                drawn.append(tuple(number - shift for number in row))
    assert len(set(drawn)) == len(drawn), "two tasks draw the same numbers"


def test_images_of_two_shapes_are_refused(settings, domains):
    grey = domains[0]
    coloured = dataclasses.replace(grey, channels=3)
    with pytest.raises(ValueError, match=r"one shape, got \(1, 28, 28\) and \(3, 28, 28\); load them with"):
        ContinualTraining(build_learner(settings), [grey, coloured], settings)


@pytest.fixture
def moving(settings):
    """A learner whose answers, though it has learnt nothing, depend on what it has read."""
    return dataclasses.replace(settings, input_gain=200.0, beta_init=2.0, test_queries=8)


def matrix_by_hand(run, classes: list[ImageClasses], order: tuple[int, ...], seed: int, episodes: range):
    """(E, T, T) of a run's learner: each query of each sequence at the end of a sequence of its own."""
    loaded = load_run(run)
    learner, settings = loaded.model.eval(), loaded.settings
    accuracy = np.full((len(episodes), len(order), len(order)), np.nan)
    for row, episode in enumerate(episodes):
        tasks, answers = [], []
        for task, domain in enumerate(classes):
            sampler = EpisodeSampler(
                domain,
                n_way=3,
                k_shot=settings.k_shot,
                n_query=settings.test_queries,
                seed=task_seed(seed, task),
            )
            drawn = sampler.batch(episode, 1)
            with torch.no_grad():
                encoded = learner.encode(drawn.support), drawn.support_labels, learner.encode(drawn.query)
            tasks.append(encoded)
            answers.append(drawn.query_labels)
        for last in range(len(order)):
            for place, asked in enumerate(order[: last + 1]):
                with torch.no_grad():
                    logits = by_hand(learner, tasks, list(order[: last + 1]), asked, first_shot=False)
                accuracy[row, place, last] = (logits.argmax(dim=-1) == answers[asked]).double().mean()
    return accuracy


@pytest.mark.parametrize("tasks", TASKS)
def test_the_matrix_of_an_evaluation(moving, splits, tasks, capsys, drawn):
    settings = of_tasks(dataclasses.replace(moving, test_episodes=8), tasks)
    names = ["glyphs", "textures", "digits"][:tasks]
    run = begun(settings)
    others = [dataclasses.replace(splits, test=part) for part in (splits.train, patterns(7, 6, 9))]
    data = [splits, *others][:tasks]
    result = evaluate(Evaluation(runs=(run.path,)), data)
    assert result == json.loads(run.evaluation.read_text())
    assert (result["data"], result["sequences"], result["queries"]) == (names, 8, 8)
    assert list(result["matrices"]) == [", ".join(order) for order in itertools.permutations(names)]
    table = cells_of(capsys.readouterr().out)
    forgotten = []
    for order in itertools.permutations(range(tasks)):
        expected = matrix_by_hand(run, [part.test for part in data], order, 1, range(8))
        forgotten.append(not np.array_equal(expected[:, 0, 0], expected[:, 0, -1]))
        in_order = [names[task] for task in order]
        matrix = result["matrices"][", ".join(in_order)]
        assert list(matrix) == in_order
        assert ["", *(f"after {name}" for name in in_order)] in table
        for place, asked in enumerate(in_order):
            assert list(matrix[asked]) == in_order[place:], "a task is asked about that was not read yet"
            for last in range(place, tasks):
                mean, half = mean_and_interval(expected[:, place, last])
                found = matrix[asked][in_order[last]]
                assert found == {"mean": pytest.approx(mean), "interval_95": pytest.approx(half)}
    assert any(forgotten), "else the test would see nothing"
    assert (run.path / "tasks.png").exists()
    panels = drawn[0].axes
    titles = [name.replace(", ", ", then ") for name in result["matrices"]]
    assert [axes.get_title() for axes in panels] == titles
    for axes, matrix in zip(panels, result["matrices"].values(), strict=True):
        lines = {one.get_label(): one for one in axes.lines}
        for place, (asked, after) in enumerate(matrix.items()):
            line = lines[f"asked about {asked}"]
            assert line.get_xdata().round().tolist() == list(range(place, tasks))
            np.testing.assert_allclose(line.get_ydata(), [values["mean"] for values in after.values()])


def test_a_validation_has_all_orders_and_decides_by_all_entries(moving, splits):
    settings = dataclasses.replace(moving, validation_episodes=5)
    run = begun(settings)
    other = Splits(splits.train, splits.test, splits.test)
    found = make_validation(settings, [splits, other])(load_run(run).model)
    classes = [splits.validation, other.validation]
    matrices = np.concatenate(
        [
            matrix_by_hand(run, classes, (0, 1), settings.seed, range(2)),
            matrix_by_hand(run, classes, (1, 0), settings.seed, range(2, 5)),
        ]
    )
    mean = matrices.mean(axis=0)
    assert found == {
        "accuracy": pytest.approx((mean[0, 0] + mean[1, 1] + mean[0, 1]) / 3),
        "current": pytest.approx((mean[0, 0] + mean[1, 1]) / 2),
        "backward": pytest.approx(mean[0, 1]),
    }


def test_several_runs_are_summarised(settings, splits, capsys):
    runs = [begun(dataclasses.replace(settings, name=f"s{seed}", seed=seed)) for seed in range(2)]
    joint = evaluate(Evaluation(runs=tuple(run.path for run in runs), episodes=4), [splits, splits])
    of_runs = [part["matrices"]["textures, glyphs"]["textures"]["glyphs"]["mean"] for part in joint["runs"]]
    summary = joint["summary"]["matrices"]["textures, glyphs"]["textures"]["glyphs"]
    assert summary["mean"] == pytest.approx(np.mean(of_runs))
    rows = [row[0] for row in cells_of(capsys.readouterr().out)]
    assert "textures, glyphs: textures after glyphs" in rows
    assert (runs[0].path.parent / "s0+s1-evaluation-episodes4.png").exists()
