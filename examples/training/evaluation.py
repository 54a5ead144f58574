"""What evaluations of runs have in common: loading them, which belong together, where the results go."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from torch import nn

from .accelerator import choose_device
from .files import check_writable, write_json
from .run_folder import RunFolder
from .settings import RunSettings
from .weights import load_weights

S = TypeVar("S", bound=RunSettings)
M = TypeVar("M", bound=nn.Module)

# Settings in which runs that are summarised together differ.
_OF_A_SEED = {"--seed", "--encoder-from"}


@dataclass(frozen=True)
class Run(Generic[S, M]):
    """A trained model and where it came from."""

    folder: RunFolder
    model: M
    settings: S
    progress: dict[str, Any]  # how far the training was when the weights were saved
    data: Any  # what the run's checkpoint says of its data


def load_run(folder: RunFolder, kind: type[S], build: Callable[[S], M], weights: str) -> Run[S, M]:
    """A run with its best weights, or the last while there are none, where it would be trained. The
    checkpoint calls them `weights`. Raises as `RunFolder.best_or_last`.
    """
    state = folder.best_or_last(kind)
    settings = kind.from_record(state["settings"])
    model = build(settings)
    load_weights(model, state.get(weights), folder.best_or_last_path)
    model.to(choose_device())
    return Run(folder, model, settings, state["progress"], state.get("data"))


def other_than_seed(one: Run[S, M], other: Run[S, M]) -> list[str]:
    """What is in the way of summarising two runs as seeds of one: other settings, or the same seed."""
    changes = other.settings.changes(one.settings.record())
    named = {change.partition(":")[0]: change for change in changes}
    same = [] if "--seed" in named else ["--seed is the same"]
    return [change for name, change in named.items() if name not in _OF_A_SEED] + same


def alike_but_for_seed(runs: Sequence[Run[S, M]]) -> list[list[int]]:
    """The numbers of runs that are seeds of one, together."""
    groups: list[list[int]] = []
    for number, run in enumerate(runs):
        for group in groups:
            if not any(other_than_seed(runs[member], run) for member in group):
                group.append(number)
                break
        else:
            groups.append([number])
    return groups


def output_file(given: Path | None, runs: Sequence[Run[S, M]], name: str) -> Path:
    """The file of the numbers: what was given, or one of this name in the run's folder.

    That of several runs is beside the first one's folder.
    """
    if given is not None:
        return given
    first = runs[0].folder.path
    if len(runs) == 1:
        return first / name
    return first.parent / f"{'+'.join(run.folder.path.name for run in runs)}-{name}"


@contextmanager
def reserve(output: Path, runs: Sequence[RunFolder]) -> Iterator[None]:
    """Make sure, before anything is measured, that the numbers can be written and replace nothing else.

    Within the block no other program can train the run in whose folder the file lies, if there is one, or
    evaluate into that folder. A file of several runs together is not one run's own.
    """
    if output.suffix != ".json":
        raise ValueError(f"evaluate: --output must end in .json, got {output}")
    around = RunFolder(output.parent)
    made = {output.with_suffix(suffix).resolve() for suffix in (".json", ".md", ".png")}
    for run in (*runs, around):
        files = run.files_of_training + [run.evaluation] * (len(runs) > 1)
        for file in files:
            if file.resolve() in made:
                raise ValueError(f"evaluate: --output {output} would replace {file}; choose another name")
    if around.checkpoint.exists():
        around.claim()  # which lasts as long as `around`
    check_writable(output)
    yield


def write(output: Path, result: dict[str, Any], table: str) -> None:
    """Write the numbers, and beside them the table, which is printed too."""
    write_json(output, result)
    output.with_suffix(".md").write_text(table + "\n")
    print(table)
