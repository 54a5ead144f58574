"""Evaluate runs on unseen classes: ``python -m examples.fewshot.evaluate --help``."""

import contextlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from ..training import evaluation
from ..training.command_line import run_with_options
from ..training.program import use_threads
from ..training.run_folder import RunFolder
from ..training.statistics import mean_and_interval, over_runs, student_interval
from . import published
from .data.classes import ImageClasses, Splits
from .data.folder import read_folder
from .data.sequences import Order
from .domains import check_same_data, domain_names, load_domains
from .gallery import draw_gallery
from .models import FewShotLearner, build_learner
from .plots import draw_result
from .protocol import (
    episode_sampler,
    score,
    score_sequences,
    score_tasks,
    sequence_sampler,
    task_samplers,
)
from .settings import Settings
from .tables import result_table, run_table

Run = evaluation.Run[Settings, FewShotLearner]

# The settings of a run that an option changes in its evaluation.
_CHOICES = {
    "k_shot": "k_shot",
    "test_episodes": "episodes",
    "test_queries": "queries",
    "augment_evaluation": "augment",
}


@dataclass(frozen=True)
class Evaluation:
    """Accuracy of trained learners on classes that they have never seen."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of one or several runs; in each, best.pt is evaluated, or checkpoint.pt while there is
    none. Several runs differ in their seed alone: their mean, standard deviation and 95 % interval
    are given too."""
    data: Literal["run", "folder"] = "run"
    """run: the test classes of the run's own data; folder: all classes below --root."""
    root: Path | None = None
    """With --data folder: a folder in Omniglot's layout, alphabet/character/*.png. With --data run: where
    the run's own data are now, if they have moved."""
    second_root: Path | None = None
    """With --data run: where those of its --second-data are now, if they have moved."""
    third_root: Path | None = None
    """With --data run: where those of its --third-data are now, if they have moved."""
    on_validation: bool = False
    """Evaluate on the validation classes instead of the test's, as is right while settings are chosen."""
    k_shot: int | None = None
    """Labelled examples of each class; by default as in training."""
    k_shots: tuple[int, ...] = ()
    """Several numbers of labelled examples: accuracy against them, as a table and a picture."""
    episodes: int | None = None
    """Episodes, or sequences in each order of the tasks, at least 2; by default as the run's
    --test-episodes. The published evaluation runs two batches more than it says: of 5 tests of 1,000
    batches of 16, 80,160."""
    interval: Literal["student", "published"] = "student"
    """student: a 95 % interval, over the episodes of one run and by Student's t over several; published:
    1.96 * s / n, s with divisor n, over n runs, and in each over the means of --tests parts of its
    episodes, which is far too narrow."""
    tests: int = 5
    """With --interval published: into how many tests a run's episodes are divided."""
    queries: int | None = None
    """Queries of each episode; by default as the run's --test-queries."""
    augment: bool | None = None
    """Distort the images at random; by default as the run's --augment-evaluation."""
    seed: int = 1
    """Decides which episodes are drawn."""
    output: Path | None = None
    """Where the numbers go, a .json file; the table and a picture go beside it. By default
    evaluation.json in the run's folder, and with other data, shots, episodes or seeds a file beside it
    whose name says so; of several runs, beside the first run's folder."""
    threads: int = 0
    """Threads for PyTorch; 0 leaves its own choice."""

    def check(self) -> None:
        """Raise ValueError for options that do not fit together."""
        if not self.runs:
            raise ValueError("evaluate: give the folder of a run, such as runs/fewshot")
        if self.data == "folder":
            if self.root is None:
                raise ValueError("evaluate: --data folder needs --root, the folder of the images")
            for flag, what, given in (
                ("--second-root", "is of", self.second_root),
                ("--third-root", "is of", self.third_root),
                ("--on-validation", "takes", self.on_validation or None),
            ):
                if given is not None:
                    raise ValueError(f"evaluate: {flag} {what} the run's own data, leave out --data folder")
        if self.k_shots and self.k_shot is not None:
            raise ValueError("evaluate: --k-shot and --k-shots exclude each other; give one")
        if self.interval == "published" and self.tests < 2:
            raise ValueError(f"evaluate: --tests must be at least 2, got {self.tests}")
        if self.episodes is not None and self.episodes < 2:
            raise ValueError(
                "evaluate: --episodes must be at least 2, for an interval around their mean, got "
                f"{self.episodes}"
            )

    def chosen(self, settings: Settings) -> Settings:
        """Those of a run, with what the options say otherwise, by which it is evaluated."""
        given = {setting: getattr(self, option) for setting, option in _CHOICES.items()}
        given = {setting: value for setting, value in given.items() if value is not None}
        return replace(settings, seed=self.seed, **given)

    def file(self, settings: Settings) -> str:
        """Name of the numbers' file: it says what was chosen otherwise than in a run of these settings."""
        parts = [self.root.resolve().name] if self.data == "folder" and self.root is not None else []
        parts += ["validation"] * self.on_validation + ["shots"] * bool(self.k_shots)
        chosen = self.chosen(settings)
        for setting, option in _CHOICES.items():
            value = getattr(chosen, setting)
            if value != getattr(settings, setting) and option != "augment":
                parts.append(f"{option.removeprefix('k_')}{value}")
        parts += [f"seed{self.seed}"] * (self.seed != 1)
        if chosen.augment_evaluation != settings.augment_evaluation:
            parts.append("augmented" if self.augment else "plain")
        if self.interval == "published":
            parts.append(f"published{self.tests}")
        return "-".join(["evaluation", *parts]) + ".json"


def evaluate(options: Evaluation, domains: Sequence[Splits] | None = None) -> dict[str, Any]:
    """Evaluate, print tables, write the numbers and a picture.

    ``domains`` are the data of the runs, if they are at hand: one splits, or one of each task. Returned is
    what is written to the output file: of one run its numbers, of several "runs", a list of them, and
    "summary", in which each number is the mean, standard deviation and interval over the runs.
    """
    options.check()
    use_threads(options.threads)
    runs = [_where_data_are(options, load_run(RunFolder(path))) for path in options.runs]
    _check_alike(options, runs)
    settings = runs[0].settings
    output = evaluation.output_file(options.output, runs, options.file(settings))
    with contextlib.ExitStack() as reserved:
        reserved.enter_context(evaluation.reserve(output, [run.folder for run in runs]))
        for run in runs:
            reserved.enter_context(evaluation.reserve(_own_output(options, run), [run.folder]))
        classes = _load_classes(options, runs, domains)
        results = [_evaluate_run(options, run, classes) for run in runs]
        if len(runs) == 1:
            return results[0]
        rule = published.interval if options.interval == "published" else student_interval
        summary = over_runs(results, rule)
        joint = {"runs": [{"run": str(run.folder.path), **r} for run, r in zip(runs, results, strict=True)]}
        joint |= {"summary": summary}
        evaluation.write(output, joint, run_table(len(runs), summary))
        mean = f"mean of {len(runs)} runs"
        draw_result({mean: summary}, _title(settings), settings.k_shot, output.with_suffix(".png"))
    return joint


def load_run(folder: RunFolder) -> Run:
    """A run with its best weights so far; see `evaluation.load_run`."""
    return evaluation.load_run(folder, Settings, build_learner, "learner")


def _where_data_are(options: Evaluation, run: Run) -> Run:
    """The run with its data where they are now."""
    given = {name: getattr(options, name) for name in ("root", "second_root", "third_root")}
    moved = {name: root for name, root in given.items() if root is not None and options.data == "run"}
    return replace(run, settings=replace(run.settings, **moved))


def _own_output(options: Evaluation, run: Run) -> Path:
    """The file of one run's numbers."""
    given = options.output if len(options.runs) == 1 else None
    return evaluation.output_file(given, [run], options.file(run.settings))


def _check_alike(options: Evaluation, runs: list[Run]) -> None:
    settings = options.chosen(runs[0].settings)
    if settings.reads_several_tasks and (options.data == "folder" or options.k_shots):
        raise ValueError(
            "evaluate: --data folder and --k-shots are of runs that answer episodes, "
            f"but {runs[0].folder.path} answers sequences of several tasks; leave them out"
        )
    if options.interval == "published" and settings.test_episodes % options.tests:
        raise ValueError(
            f"evaluate: --episodes must be a multiple of --tests ({options.tests}) for --interval "
            f"published, got {settings.test_episodes}"
        )
    for other in runs[1:]:
        others = evaluation.other_than_seed(runs[0], other)
        if others:
            raise ValueError(
                f"evaluate: runs that are summarised may differ in their seed alone, but from "
                f"{runs[0].folder.path} to {other.folder.path}: {'; '.join(others)}; "
                "evaluate them one by one"
            )


def _load_classes(
    options: Evaluation, runs: Sequence[Run], domains: Sequence[Splits] | None
) -> list[ImageClasses]:
    """What the runs are evaluated on; a folder in the shape and normalisation that they were trained on."""
    settings = runs[0].settings
    if options.data == "folder" and options.root is not None:
        shots = max(options.k_shots, default=options.chosen(settings).k_shot)
        channels, size, _ = settings.picture_shape
        classes = read_folder(options.root, image_size=size, min_images=shots + 1)
        normalised = settings.normalise != "none"  # by what may have to be measured on the run's data
        like = load_domains(settings)[0].train.normalisation if normalised else None
        return [replace(classes, channels=channels, normalisation=like)]
    domains = load_domains(settings) if domains is None else domains
    for run in runs:
        check_same_data("evaluate", run.data, domains, run.folder.best_or_last_path)
    return [splits.validation if options.on_validation else splits.test for splits in domains]


def _evaluate_run(options: Evaluation, run: Run, classes: list[ImageClasses]) -> dict[str, Any]:
    """Of one run: its numbers, which are also written, drawn and printed."""
    output, settings = _own_output(options, run), options.chosen(run.settings)
    run = replace(run, settings=settings)
    if settings.protocol == "sequential":
        result = _score_sequences(options, run, classes)
    elif settings.protocol == "continual":
        result = _score_tasks(options, run, classes)
    elif options.k_shots:
        of_shots = [replace(run, settings=replace(settings, k_shot=k_shot)) for k_shot in options.k_shots]
        result = {"k_shots": [_score_episodes(options, of, classes) for of in of_shots]}
    else:
        result = _score_episodes(options, run, classes)
    evaluation.write(output, result, result_table(result))
    picture = output.with_suffix(".png")
    if output.resolve() == run.folder.evaluation.resolve():
        of_form = {"orders": run.folder.positions, "matrices": run.folder.tasks}
        picture = next((path for key, path in of_form.items() if key in result), run.folder.episodes)
    rows = {f"run {settings.name}": result}
    if not draw_result(rows, _title(settings), settings.k_shot, picture):
        draw_gallery(run.model.cpu(), episode_sampler(settings, classes[0]), classes[0], picture)
    return result


def _title(settings: Settings) -> str:
    return f"{settings.n_way}-way {settings.k_shot}-shot: {', '.join(domain_names(settings))}"


def _score_episodes(options: Evaluation, run: Run, classes: list[ImageClasses]) -> dict[str, Any]:
    sampler = episode_sampler(run.settings, classes[0])
    scores = score(run.model, sampler, run.settings.test_episodes)
    numbers = {name: _values(values, options) for name, values in scores.items()}
    counts = {"episodes": run.settings.test_episodes, "queries": sampler.n_query}
    return _result(options, run, classes, counts, numbers)


def _score_sequences(options: Evaluation, run: Run, classes: list[ImageClasses]) -> dict[str, Any]:
    """ "orders": which task is first -> what can be told of its sequences."""
    s = run.settings
    names, count = domain_names(s), s.test_episodes
    orders = {}
    leaders: tuple[Order, Order] = ("first", "second")
    for leader, order in enumerate(leaders):
        scores = score_sequences(run.model, sequence_sampler(s, classes, order), count)
        orders[f"{names[leader]} first"] = {
            "switch": s.n_way * s.k_shot,
            "total": _values(scores.of_sequences(), options),
            "tasks": {
                names[task]: {
                    "total": _values(scores.of_sequences(task), options),
                    "shots": _values(scores.at_shots(task), options),
                }
                for task in (leader, 1 - leader)
            },
            "positions": _values(scores.correct.astype(np.float64), options),
            "counting_labels": {
                "total": _values(scores.of_counting.of_sequences(), options),
                "shots": _values(scores.of_counting.at_shots(), options),
                "positions": _values(scores.counted, options),
            },
        }
    # Only where they are distorted: without, the sampler has refused too few.
    images_repeat = any(int(domain.sizes.min()) <= s.k_shot for domain in classes)
    counts = {"sequences": count, "images_repeat": images_repeat}
    return _result(options, run, classes, counts, {"orders": orders})


def _score_tasks(options: Evaluation, run: Run, classes: list[ImageClasses]) -> dict[str, Any]:
    """ "matrices": order -> task that is asked -> last task that was read -> accuracy; "later": task -> its
    accuracy after so many later tasks, the mean over the orders."""
    s = run.settings
    names, count = domain_names(s), s.test_episodes
    samplers = task_samplers(s, classes)
    matrices = {}
    later: dict[str, list[list[np.ndarray]]] = {name: [[] for _ in names] for name in names}
    for order in itertools.permutations(range(len(classes))):
        accuracy = score_tasks(run.model, samplers, order, range(count))  # (E, T, T)
        in_order = [names[task] for task in order]
        matrices[", ".join(in_order)] = {
            asked: {
                after: _values(accuracy[:, place, place + later], options)
                for later, after in enumerate(in_order[place:])
            }
            for place, asked in enumerate(in_order)
        }
        for place, asked in enumerate(in_order):
            for number, of_number in enumerate(later[asked][: len(in_order) - place]):
                of_number.append(accuracy[:, place, place + number])
    means = {
        name: [_values(np.mean(of_orders, axis=0), options) for of_orders in of_task]
        for name, of_task in later.items()
    }
    counts = {"sequences": count, "queries": s.test_queries}
    return _result(options, run, classes, counts, {"matrices": matrices, "later": means})


def _result(
    options: Evaluation,
    run: Run,
    classes: list[ImageClasses],
    counts: dict[str, Any],
    numbers: dict[str, Any],
) -> dict[str, Any]:
    """What was measured, on what: numbers of one data set, lists of several."""
    s = run.settings
    of_data: dict[str, Any]
    if s.reads_several_tasks:
        of_data = {"data": domain_names(s), "classes": [len(domain.names) for domain in classes]}
    else:
        of_data = {
            "data": str(options.root) if options.data == "folder" else domain_names(s)[0],
            "alphabets": sorted(set(classes[0].alphabets)),
            "classes": len(classes[0].names),
        }
    split = "validation" if options.on_validation else "test"
    return {
        **of_data,
        "split": "all" if options.data == "folder" else split,
        "n_way": s.n_way,
        "k_shot": s.k_shot,
        **counts,
        "augment": s.augment_evaluation,
        "seed": s.seed,
        "step": run.progress.get("step", 0),
        "interval": options.interval,
        **numbers,
        "chance": 1 / s.n_way,
    }


def _values(values: np.ndarray, options: Evaluation) -> dict[str, Any]:
    """Mean and interval of values (E, ...), one for each episode."""
    if options.interval == "published":
        return published.mean_and_interval(values, options.tests)
    return mean_and_interval(values)


if __name__ == "__main__":
    run_with_options(evaluate, "examples.fewshot.evaluate", Evaluation)
