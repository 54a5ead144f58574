"""Evaluate a run on unseen classes: ``python -m examples.fewshot.evaluate --help``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from .data import load_splits
from .data.classes import ImageClasses, Splits
from .data.episodes import EpisodeSampler
from .data.folder import read_folder
from .gallery import draw_gallery
from .models import FewShotLearner
from .protocol import mean_and_interval, score
from .run_folder import RunFolder, load, write_json
from .settings import Settings, build_learner, load_settings


@dataclass(frozen=True)
class Evaluation:
    """Accuracy of a trained learner, of nearest neighbour on its encoder, and of chance."""

    run: tyro.conf.Positional[Path]
    """Folder of the run. Its best.pt is evaluated, or checkpoint.pt while there is none."""
    data: Literal["run", "folder"] = "run"
    """run: the test classes of the run's own data; folder: all classes below --root."""
    root: Path | None = None
    """With --data folder: a folder in Omniglot's layout, alphabet/character/*.png."""
    k_shot: int | None = None
    """Labelled examples of each class; by default as in training."""
    episodes: int | None = None
    """Episodes; by default as the run's --test-episodes."""
    queries: int | None = None
    """Queries of each episode; by default as the run's --test-queries."""
    augment: bool | None = None
    """Distort the images at random; by default as the run's --augment-evaluation."""
    seed: int = 1
    """Decides which episodes are drawn."""
    output: Path | None = None
    """Where the numbers go; by default evaluation.json in the run's folder, or with --data folder
    evaluation-<name of the root>.json."""
    threads: int = 0
    """Threads for PyTorch; 0 leaves its own choice."""


def evaluate(options: Evaluation, splits: Splits | None = None) -> dict[str, Any]:
    """Evaluate, print a table, write the numbers and a picture of some episodes.

    Parameters
    ----------
    options : what to evaluate.
    splits : the data of the run, if they are at hand.

    Returns
    -------
    What is written to the output file.
    """
    if (options.data == "folder") != (options.root is not None):
        raise ValueError(
            f"evaluate: --root belongs to --data folder, got --data {options.data} and "
            f"--root {options.root}"
        )
    if options.threads:
        torch.set_num_threads(options.threads)
    folder = RunFolder(options.run)
    learner, settings, step = load_learner(folder)
    classes = _classes(options, settings, splits)
    sampler = EpisodeSampler(
        classes,
        n_way=settings.n_way,
        k_shot=_given(options.k_shot, settings.k_shot),
        n_query=_given(options.queries, settings.test_queries),
        seed=options.seed,
        augment=_given(options.augment, settings.augment_evaluation),
    )
    scores = score(learner, sampler, _given(options.episodes, settings.test_episodes))
    rows = {
        "learner": mean_and_interval(scores.learner),
        "nearest_neighbour": mean_and_interval(scores.nearest),
    }
    result = {
        "data": settings.data if options.data == "run" else str(options.root),
        "alphabets": sorted(set(classes.alphabets)),
        "classes": len(classes.names),
        "n_way": sampler.n_way,
        "k_shot": sampler.k_shot,
        "episodes": len(scores.learner),
        "queries": sampler.n_query,
        "augment": sampler.augment,
        "seed": options.seed,
        "step": step,
        **{name: {"mean": mean, "interval_95": half} for name, (mean, half) in rows.items()},
        "chance": 1 / sampler.n_way,
    }
    write_json(_output(options, folder), result)
    draw_gallery(learner, sampler, _picture(options, folder))
    print(_table(result))
    return result


def load_learner(folder: RunFolder) -> tuple[FewShotLearner, Settings, int]:
    """The run's best weights so far, its settings, and the step of the weights.

    Raises
    ------
    FileNotFoundError : if the folder holds no checkpoint.
    """
    path = folder.best if folder.best.exists() else folder.checkpoint
    if not path.exists():
        raise FileNotFoundError(
            f"evaluate: found neither {folder.best} nor {folder.checkpoint}; "
            "give the folder of a run, such as runs/fewshot"
        )
    state = load(path)
    settings = load_settings(state["settings"])
    learner = build_learner(settings)
    learner.load_state_dict(state["learner"])
    return learner, settings, state["progress"]["step"]


def _classes(options: Evaluation, settings: Settings, splits: Splits | None) -> ImageClasses:
    if options.root is not None:
        return read_folder(options.root, min_images=_given(options.k_shot, settings.k_shot) + 1)
    if splits is None:
        splits = load_splits(settings.data, root=settings.root)
    return splits.test


def _given(value: Any, default: Any) -> Any:
    return default if value is None else value


def _output(options: Evaluation, folder: RunFolder) -> Path:
    if options.output is not None:
        return options.output
    if options.root is not None:
        return folder.path / f"evaluation-{options.root.resolve().name}.json"
    return folder.evaluation


def _picture(options: Evaluation, folder: RunFolder) -> Path:
    output = _output(options, folder)
    return folder.episodes if output == folder.evaluation else output.with_suffix(".png")


def _table(result: dict[str, Any]) -> str:
    lines = [
        f"{result['n_way']}-way {result['k_shot']}-shot, {result['episodes']:,} episodes of "
        f"{result['classes']} classes never seen in training",
        f"  ({', '.join(result['alphabets'])})",
        "                                        accuracy   95 % interval",
    ]
    for name, key in (
        ("self-referential learner", "learner"),
        ("nearest neighbour (cosine, same encoder)", "nearest_neighbour"),
    ):
        mean, half = 100 * result[key]["mean"], 100 * result[key]["interval_95"]
        lines.append(f"{name:40}{mean:7.2f} %     ± {half:.2f} %")
    lines.append(f"{'chance':40}{100 * result['chance']:7.2f} %")
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    options = tyro.cli(Evaluation, prog="python -m examples.fewshot.evaluate")
    try:
        evaluate(options)
    except (ValueError, OSError) as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main()
