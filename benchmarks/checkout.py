"""Processes that time the packages of several checkouts in turns.

Each checkout has a process of its own, which lives all the time and answers questions about the rows of a
program: their results, or the time of a call.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Rows = dict[str, Callable[[], Any]]


def serve(rows: Rows) -> None:
    """Answer on standard output what standard input asks.

    Two values: the name of a row, and seconds to spend for the time of one call, or None for its results.
    For None as the name the names of all rows.
    """
    for line in sys.stdin:
        name, seconds = json.loads(line)
        call = rows.get(name, tuple)
        if name is None:
            answer: Any = list(rows)
        elif seconds is None:
            results = call()
            results = results if isinstance(results, tuple) else (results,)
            answer = [np.asarray(getattr(a, "detach", lambda a=a: a)()).tolist() for a in results]
        else:
            timer = timeit.Timer(call)
            number = max(1, int(seconds / max(1e-7, timer.timeit(3) / 3)))
            answer = timer.timeit(number) / number
        print(json.dumps(answer), flush=True)


class Checkout:
    """A process that runs rows on the package of one checkout.

    `program` is a file with a function `rows(*arguments) -> Rows`. It can import that checkout's packages.
    """

    def __init__(self, root: Path, program: Path, *arguments: str) -> None:
        environment = os.environ | {"PYTHONPATH": str(root.resolve()), "PYTHONDONTWRITEBYTECODE": "1"}
        here = str(Path(__file__).resolve())
        code = (
            f"import runpy; rows = runpy.run_path({str(program.resolve())!r})['rows'](*{arguments!r}); "
            f"runpy.run_path({here!r})['serve'](rows)"
        )
        command = [sys.executable, "-P", "-c", code]
        self.process = subprocess.Popen(
            command, env=environment, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Checkout:
        return self

    def __exit__(self, *raised: object) -> None:
        self.process.communicate()  # closes its input, at which it ends

    def ask(self, name: str | None = None, seconds: float | None = None) -> Any:
        """The answer to one question, see `serve`."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([name, seconds]) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())
