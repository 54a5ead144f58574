"""Where the numbers of an evaluation go, and the tables and pictures beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .run_folder import RunFolder, check_writable


@contextmanager
def reserve(output: Path, runs: Sequence[RunFolder], *, is_of_all: bool) -> Iterator[None]:
    """Make sure, before anything is measured, that the numbers can be written and replace nothing else.

    Within the block no other program can train the run in whose folder the file lies, if there is one, or
    evaluate into that folder.

    Parameters
    ----------
    output : the file of the numbers.
    runs : what is evaluated.
    is_of_all : whether the file is of several runs together, and not the one run's own.

    Raises
    ------
    ValueError : for a file that is not .json, or where a run has a file.
    OSError : if nothing can be written there, or another program is at work there.
    """
    if output.suffix != ".json":
        raise ValueError(f"evaluate: --output must end in .json, got {output}")
    around = RunFolder(output.parent)
    made = {output.with_suffix(suffix).resolve() for suffix in (".json", ".md", ".png")}
    for run in (*runs, around):
        files = run.files_of_training + [run.evaluation] * is_of_all
        for file in files:
            if file.resolve() in made:
                raise ValueError(f"evaluate: --output {output} would replace {file}; choose another name")
    if around.checkpoint.exists():
        around.claim()  # which lasts as long as `around`
    check_writable(output)
    yield
