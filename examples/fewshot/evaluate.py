"""Evaluate runs on unseen classes: ``python -m examples.fewshot.evaluate --help``."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
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
from .data.episodes import EpisodeSampler
from .data.folder import read_folder
from .data.lazy import with_copies
from .data.sequences import Order, SequenceSampler, task_seed
from .domains import check_same_data, domain_names, load_domains
from .gallery import draw_gallery
from .models import FewShotLearner
from .plots import draw_positions, draw_shots, draw_tasks, values_of
from .protocol import score, score_sequences, score_tasks
from .settings import Settings, build_learner, picture_shape
from .tables import episode_table, run_table, sequence_table, task_table

Run = evaluation.Run[Settings, FewShotLearner]


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
        if self.data == "folder" and self.root is None:
            raise ValueError("evaluate: --data folder needs --root, the folder of the images")
        for place in ("second", "third"):
            if self.data == "folder" and getattr(self, f"{place}_root") is not None:
                raise ValueError(
                    f"evaluate: --{place}-root is of the run's own data, leave out --data folder"
                )
        if self.on_validation and self.data == "folder":
            raise ValueError("evaluate: --on-validation takes the run's own data, leave out --data folder")
        if self.k_shots and self.k_shot is not None:
            raise ValueError("evaluate: --k-shot and --k-shots exclude each other; give one")
        if self.interval == "published" and self.tests < 2:
            raise ValueError(f"evaluate: --tests must be at least 2, got {self.tests}")
        if self.episodes is not None and self.episodes < 2:
            raise ValueError(
                "evaluate: --episodes must be at least 2, for an interval around their mean, got "
                f"{self.episodes}"
            )

    def file(self, settings: Settings) -> str:
        """Name of the numbers' file: it says what was chosen otherwise than in a run of these settings."""
        parts = [self.root.resolve().name] if self.data == "folder" and self.root is not None else []
        parts += ["validation"] * self.on_validation + ["shots"] * bool(self.k_shots)
        for name, chosen, usual in (
            ("shot", self.k_shot, settings.k_shot),
            ("episodes", self.episodes, settings.test_episodes),
            ("queries", self.queries, settings.test_queries),
            ("seed", self.seed, 1),
        ):
            if chosen not in (None, usual):
                parts.append(f"{name}{chosen}")
        if self.augment not in (None, settings.augment_evaluation):
            parts.append("augmented" if self.augment else "plain")
        if self.interval == "published":
            parts.append(f"published{self.tests}")
        return "-".join(["evaluation", *parts]) + ".json"


def evaluate(options: Evaluation, domains: Sequence[Splits] | None = None) -> dict[str, Any]:
    """Evaluate, print tables, write the numbers and a picture.

    Parameters
    ----------
    options : what to evaluate.
    domains : the data of the runs, if they are at hand: one splits, or one of each task of a sequence.

    Returns
    -------
    What is written to the output file: of one run its numbers, of several "runs", a list of them, and
    "summary", in which each number is the mean, standard deviation and interval over the runs.

    Raises
    ------
    ValueError, OSError : for options, runs or data that do not fit together.
    """
    options.check()
    use_threads(options.threads)
    runs = [_where_data_are(options, load_run(RunFolder(path))) for path in options.runs]
    _check_alike(options, runs)
    folders = [run.folder for run in runs]
    output = evaluation.output_file(options.output, runs, options.file(runs[0].settings))
    with contextlib.ExitStack() as reserved:
        reserved.enter_context(evaluation.reserve(output, folders, is_of_all=len(runs) > 1))
        for run in runs:
            own = evaluation.reserve(_own_output(options, run), [run.folder], is_of_all=False)
            reserved.enter_context(own)
        classes = _load_classes(options, runs, domains)
        results = [_evaluate_run(options, run, classes) for run in runs]
        if len(runs) == 1:
            return results[0]
        rule = published.interval if options.interval == "published" else student_interval
        summary = over_runs(results, rule)
        joint = {"runs": [{"run": str(run.folder.path), **r} for run, r in zip(runs, results, strict=True)]}
        joint |= {"summary": summary}
        evaluation.write(output, joint, run_table(results, summary))
        _draw(summary, runs[0].settings, output.with_suffix(".png"), f"mean of {len(runs)} runs")
    return joint


def _load_classes(
    options: Evaluation, runs: Sequence[Run], domains: Sequence[Splits] | None
) -> list[ImageClasses]:
    """What the runs are evaluated on."""
    settings = runs[0].settings
    if options.data == "folder" and options.root is not None:
        return [_read_folder(options, settings, options.root)]
    domains = load_domains(settings) if domains is None else domains
    for run in runs:
        check_same_data("evaluate", run.data, domains, run.folder.best_or_last_path)
    return [splits.validation if options.on_validation else splits.test for splits in domains]


def load_run(folder: RunFolder) -> Run:
    """A run with its best weights so far; see `evaluation.load_run`."""
    return evaluation.load_run(folder, Settings, build_learner, "learner")


def _where_data_are(options: Evaluation, run: Run) -> Run:
    """The run with its data where they are now."""
    if options.data != "run":
        return run
    settings = dataclasses.replace(
        run.settings,
        root=_given(options.root, run.settings.root),
        second_root=_given(options.second_root, run.settings.second_root),
        third_root=_given(options.third_root, run.settings.third_root),
    )
    return dataclasses.replace(run, settings=settings)


def _own_output(options: Evaluation, run: Run) -> Path:
    """The file of one run's numbers."""
    given = options.output if len(options.runs) == 1 else None
    return evaluation.output_file(given, [run], options.file(run.settings))


def _check_alike(options: Evaluation, runs: list[Run]) -> None:
    settings = runs[0].settings
    if settings.reads_several_tasks and (options.data == "folder" or options.k_shots):
        raise ValueError(
            "evaluate: --data folder and --k-shots are of runs that answer episodes, "
            f"but {runs[0].folder.path} answers sequences of several tasks; leave them out"
        )
    episodes = _given(options.episodes, settings.test_episodes)
    if options.interval == "published" and episodes % options.tests:
        raise ValueError(
            f"evaluate: --episodes must be a multiple of --tests ({options.tests}) for --interval "
            f"published, got {episodes}"
        )
    for other in runs[1:]:
        others = evaluation.other_than_seed(runs[0], other)
        if others:
            raise ValueError(
                f"evaluate: runs that are summarised may differ in their seed alone, but from "
                f"{runs[0].folder.path} to {other.folder.path}: {'; '.join(others)}; "
                "evaluate them one by one"
            )


def _read_folder(options: Evaluation, settings: Settings, root: Path) -> ImageClasses:
    """The images of a folder in the shape and normalisation that the runs were trained on."""
    shots = max(options.k_shots, default=_given(options.k_shot, settings.k_shot))
    channels, size, _ = picture_shape(settings)
    classes = read_folder(root, image_size=size, min_images=shots + 1)
    normalised = settings.normalise != "none"  # by numbers that may have to be measured on the run's data
    like = load_domains(settings)[0].train.normalisation if normalised else None
    return dataclasses.replace(classes, channels=channels, normalisation=like)


def _evaluate_run(options: Evaluation, run: Run, classes: list[ImageClasses]) -> dict[str, Any]:
    """Of one run: its numbers, which are also written, drawn and printed."""
    settings = run.settings
    if settings.protocol == "sequential":
        result = _score_sequences(options, run, classes)
        table = sequence_table(result)
    elif settings.protocol == "continual":
        result = _score_tasks(options, run, classes)
        table = task_table(result)
    elif options.k_shots:
        results = [_score_episodes(options, run, classes[0], shots) for shots in options.k_shots]
        result = {"k_shots": results}
        table = "\n\n".join(map(episode_table, results))
    else:
        result = _score_episodes(options, run, classes[0], _given(options.k_shot, settings.k_shot))
        table = episode_table(result)
    output = _own_output(options, run)
    evaluation.write(output, result, table)
    picture = output.with_suffix(".png")
    if output.resolve() == run.folder.evaluation.resolve():
        of_form = {"orders": run.folder.positions, "matrices": run.folder.tasks}
        picture = next((path for key, path in of_form.items() if key in result), run.folder.episodes)
    if result.keys() & {"orders", "matrices", "k_shots"}:
        _draw(result, settings, picture, f"run {settings.name}")
    else:
        sampler = _sampler(options, settings, classes[0], result["k_shot"])
        draw_gallery(run.model.cpu(), sampler, classes[0], picture)
    return result


def _score_episodes(options: Evaluation, run: Run, classes: ImageClasses, k_shot: int) -> dict[str, Any]:
    settings = run.settings
    sampler = _sampler(options, settings, classes, k_shot)
    scores = score(run.model, sampler, _given(options.episodes, settings.test_episodes))
    return {
        "data": str(options.root) if options.data == "folder" else domain_names(settings)[0],
        "split": _split(options),
        "alphabets": sorted(set(classes.alphabets)),
        "classes": len(classes.names),
        "n_way": sampler.n_way,
        "k_shot": sampler.k_shot,
        "episodes": len(scores.learner),
        "queries": sampler.n_query,
        "augment": sampler.augment,
        "seed": options.seed,
        "step": run.progress.get("step", 0),
        "interval": options.interval,
        "learner": _values(scores.learner, options),
        "nearest_neighbour": _values(scores.nearest, options),
        "chance": 1 / sampler.n_way,
    }


def _sampler(options: Evaluation, settings: Settings, classes: ImageClasses, k_shot: int) -> EpisodeSampler:
    return EpisodeSampler(
        classes,
        n_way=settings.n_way,
        k_shot=k_shot,
        n_query=_given(options.queries, settings.test_queries),
        seed=options.seed,
        augment=_given(options.augment, settings.augment_evaluation),
    )


def _score_sequences(options: Evaluation, run: Run, classes: list[ImageClasses]) -> dict[str, Any]:
    settings = run.settings
    names = domain_names(settings)
    k_shot = _given(options.k_shot, settings.k_shot)
    augment = _given(options.augment, settings.augment_evaluation)
    enough = [with_copies(domain, k_shot + 1) if augment else domain for domain in classes]
    count = _given(options.episodes, settings.test_episodes)
    orders = {}
    named: tuple[Order, Order] = ("first", "second")
    for leader, order in enumerate(named):
        sampler = SequenceSampler(
            *enough,
            n_way=settings.n_way,
            k_shot=k_shot,
            seed=options.seed,
            order=order,
            batch_size=count,
            unknown_label=settings.unknown_label,
            augment=augment,
        )
        scores = score_sequences(run.model, sampler, count)
        orders[f"{names[leader]} first"] = {
            "switch": settings.n_way * k_shot,
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
    return {
        "data": names,
        "split": _split(options),
        "classes": [len(domain.names) for domain in classes],
        "n_way": settings.n_way,
        "k_shot": k_shot,
        "sequences": count,
        "augment": augment,
        "images_repeat": any(e is not c for e, c in zip(enough, classes, strict=True)),
        "seed": options.seed,
        "step": run.progress.get("step", 0),
        "interval": options.interval,
        "orders": orders,
        "chance": 1 / settings.n_way,
    }


def _score_tasks(options: Evaluation, run: Run, classes: list[ImageClasses]) -> dict[str, Any]:
    """ "matrices": order -> task that is asked -> last task that was read -> accuracy."""
    settings = run.settings
    names = domain_names(settings)
    k_shot = _given(options.k_shot, settings.k_shot)
    samplers = []
    for task, domain in enumerate(classes):
        of_task = dataclasses.replace(options, seed=task_seed(options.seed, task))
        samplers.append(_sampler(of_task, settings, domain, k_shot))
    count = _given(options.episodes, settings.test_episodes)
    matrices = {}
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
    return {
        "data": names,
        "split": _split(options),
        "classes": [len(domain.names) for domain in classes],
        "n_way": settings.n_way,
        "k_shot": k_shot,
        "sequences": count,
        "queries": samplers[0].n_query,
        "augment": samplers[0].augment,
        "seed": options.seed,
        "step": run.progress.get("step", 0),
        "interval": options.interval,
        "matrices": matrices,
        "chance": 1 / settings.n_way,
    }


def _values(values: np.ndarray, options: Evaluation) -> dict[str, Any]:
    """Mean and interval over the first axis: of values (E,), or of each column of values (E, n)."""
    if values.ndim > 1:
        columns = [_values(column, options) for column in values.T]
        return {key: [column[key] for column in columns] for key in ("mean", "interval_95")}
    if options.interval == "published":
        mean, half = published.mean_and_interval(values, options.tests)
    else:
        mean, half = mean_and_interval(values)
    return {"mean": mean, "interval_95": half}


def _draw(result: dict[str, Any], settings: Settings, path: Path, of: str) -> None:
    """The picture of sequences, tasks or several numbers of shots; other results have none."""
    if "orders" in result:
        draw_positions(
            result["orders"],
            names=domain_names(settings),
            chance=result["chance"],
            title=f"Two {result['n_way']}-way tasks of {result['k_shot']} images a class, each label shown "
            f"one image late ({of})",
            path=path,
        )
    elif "matrices" in result:
        draw_tasks(
            result["matrices"],
            names=domain_names(settings),
            chance=result["chance"],
            title=f"{result['n_way']}-way tasks of {result['k_shot']} images a class, read one after the "
            f"other ({of})",
            path=path,
        )
    elif "k_shots" in result:
        parts = result["k_shots"]
        draw_shots(
            [part["k_shot"] for part in parts],
            {
                "learner": values_of(parts, "learner"),
                "nearest neighbour, same encoder": values_of(parts, "nearest_neighbour"),
            },
            trained=settings.k_shot,
            chance=parts[0]["chance"],
            title=f"{settings.n_way}-way {parts[0]['data']} ({of})",
            path=path,
        )


def _split(options: Evaluation) -> str:
    return "all" if options.data == "folder" else "validation" if options.on_validation else "test"


def _given(value: Any, default: Any) -> Any:
    return default if value is None else value


if __name__ == "__main__":
    run_with_options(evaluate, "examples.fewshot.evaluate", Evaluation)
