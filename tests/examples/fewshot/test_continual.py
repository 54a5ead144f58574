"""Learning without forgetting: which queries are asked of which state, and what is made of the answers."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from examples.fewshot.continual import ContinualTraining
from examples.fewshot.data.classes import ImageClasses
from examples.fewshot.data.episodes import EpisodeSampler
from examples.fewshot.data.sequences import task_seed
from examples.fewshot.evaluate import Evaluation, evaluate, load_run
from examples.fewshot.models import FewShotLearner, build_learner
from examples.fewshot.protocol import make_validation
from examples.fewshot.settings import Settings
from examples.training.objective import Share
from examples.training.statistics import mean_and_interval
from tests.examples.fewshot.conftest import patterns
from tests.examples.fewshot.test_evaluate import begun
from tests.examples.runs import cells_of

both = pytest.mark.parametrize("tasks", [2, 3])


def of_tasks(settings: Settings, tasks: int, **changes) -> Settings:
    own = {"protocol": "continual", "second_data": "textures", "k_shot": 2, "dropout": 0.0, "pools": 0}
    return dataclasses.replace(settings, **own, third_data="digits" if tasks == 3 else None, **changes)


def by_hand(learner: FewShotLearner, tasks: list, read: list[int], asked: int, first_shot: bool = False):
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


@both
@pytest.mark.parametrize(("backward", "first_shots"), [(True, True), (False, True), (True, False)])
@pytest.mark.parametrize("core", ["srwm", "deltanet"])
def test_loss_and_gradients_are_those_of_queries_that_are_read_one_by_one(
    settings, splits, tasks, backward, first_shots, core
):
    terms_asked = {"backward_terms": backward, "first_shot_terms": first_shots}
    settings = of_tasks(
        settings, tasks, core=core, train_encoder=True, batch_size=2, queries=2, **terms_asked
    )
    torch.manual_seed(0)
    learner = build_learner(settings).double()
    domains = [splits.train, splits.validation, patterns(9, 6, 7)][:tasks]
    objective = ContinualTraining(learner, domains, settings)
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
    order = batch["order"].tolist()
    losses, right = [], {"current": [], "backward": [], "first_shot": []}
    for last, task in enumerate(order):
        before = order[: last + 1]
        terms = [("backward", before, asked) for asked in before[:-1] if backward]
        terms += [("current", before, task)] + [("first_shot", before[:-1], task)] * first_shots
        for kind, earlier, asked in terms:
            logits = by_hand(learner, read, earlier, asked, kind == "first_shot")
            labels = batch["query_labels"][:, asked]
            losses.append(F.cross_entropy(logits.flatten(0, 1), labels.flatten()))
            right[kind].append((logits.argmax(dim=-1) == labels).double().mean())
    expected = torch.stack(losses).mean()
    torch.testing.assert_close(values["loss"], expected, rtol=1e-12, atol=0)
    for found, wanted in zip(gradients, torch.autograd.grad(expected, trained), strict=True):
        error = (found - wanted).abs().max()
        assert error <= 1e-9 * max(wanted.abs().max(), 1e-2)
    means = {f"accuracy_{kind}": float(torch.stack(of).mean()) for kind, of in right.items() if of}
    means["accuracy"] = float(torch.stack(right["current"] + right["backward"]).mean())
    assert {name: float(value) for name, value in values.items() if name != "loss"} == pytest.approx(means)


# So the answers of a learner that has learnt nothing depend on what it has read.
MOVING = {"input_gain": 200.0, "beta_init": 2.0, "test_queries": 8}


def matrix_by_hand(run, classes: list[ImageClasses], order: tuple[int, ...], seed: int, episodes: range):
    """(E, T, T) of a run's learner: each query of each sequence at the end of a sequence of its own."""
    loaded = load_run(run)
    learner, settings = loaded.model.eval(), loaded.settings
    asked = {"n_way": 3, "k_shot": settings.k_shot, "n_query": settings.test_queries}
    accuracy = np.full((len(episodes), len(order), len(order)), np.nan)
    for row, episode in enumerate(episodes):
        drawn = [
            EpisodeSampler(domain, **asked, seed=task_seed(seed, task)).batch(episode, 1)
            for task, domain in enumerate(classes)
        ]
        with torch.no_grad():
            tasks = [
                (learner.encode(of.support), of.support_labels, learner.encode(of.query)) for of in drawn
            ]
            for last in range(len(order)):
                for place, task in enumerate(order[: last + 1]):
                    right = by_hand(learner, tasks, list(order[: last + 1]), task).argmax(dim=-1)
                    right = right == drawn[task].query_labels
                    accuracy[row, place, last] = right.double().mean()
    return accuracy


@both
def test_the_matrix_of_an_evaluation(settings, splits, tasks, capsys, drawn):
    run = begun(of_tasks(settings, tasks, **MOVING, test_episodes=8))
    names = ["glyphs", "textures", "digits"][:tasks]
    others = [splits._replace(test=part) for part in (splits.train, patterns(7, 6, 9))]
    data = [splits, *others][:tasks]
    result = evaluate(Evaluation(runs=(run.path,)), data)
    assert result == json.loads(run.evaluation.read_text())
    assert (result["data"], result["sequences"], result["queries"]) == (names, 8, 8)
    assert list(result["matrices"]) == [", ".join(order) for order in itertools.permutations(names)]
    table = cells_of(capsys.readouterr().out)
    forgotten, later = [], {}
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
                later.setdefault((asked, last - place), []).append(expected[:, place, last])
                of_task = mean_and_interval(expected[:, place, last])
                assert matrix[asked][in_order[last]] == pytest.approx(of_task)
    for (asked, number), of_orders in later.items():
        of_task = mean_and_interval(np.mean(of_orders, axis=0))
        assert result["later"][asked][number] == pytest.approx(of_task)
    assert any(forgotten), "else the test would see nothing"
    assert (run.path / "tasks.png").exists()
    shown = {f"asked about {task}": means for task, means in result["later"].items()}
    if tasks == 2:
        shown = {
            f"{order.replace(', ', ', then ')}: asked about {task}": [*after.values()]
            for order, matrix in result["matrices"].items()
            for task, after in matrix.items()
        }
    panels = {axes.get_title(): axes for axes in drawn[0].axes}
    assert panels.keys() == shown.keys()
    for title, values in shown.items():
        [line] = [line for line in panels[title].lines if line.get_label() == f"run {settings.name}"]
        assert line.get_xdata().tolist() == list(range(tasks - len(values), tasks))
        np.testing.assert_allclose(line.get_ydata(), [of["mean"] for of in values])


def test_a_validation_has_all_orders_and_decides_by_all_entries(settings, splits):
    settings = of_tasks(settings, 2, **MOVING, validation_episodes=5)
    run = begun(settings)
    classes = [splits.validation, splits.test]
    found = make_validation(settings, classes)(load_run(run).model)
    parts = (((0, 1), range(2)), ((1, 0), range(2, 5)))
    matrices = [matrix_by_hand(run, classes, order, settings.seed, part) for order, part in parts]
    (own, later), (_, last) = np.concatenate(matrices).mean(axis=0)
    expected = {"accuracy": (own + last + later) / 3, "current": (own + last) / 2, "backward": later}
    assert found == pytest.approx(expected)
