"""A process that takes all measurements of one number of threads."""

from __future__ import annotations

import multiprocessing
import os
import sys

import torch
from tqdm import tqdm

from benchmarks.measure import measure
from benchmarks.plan import Measurement
from benchmarks.results import Results
from benchmarks.threads import confined

INTERRUPTED = 130  # the exit status that shells give for Ctrl-C


def work(results: Results, todo: list[Measurement], rounds: int) -> None:
    """Take the measurements, each kept as soon as it is there."""
    torch.set_num_threads(todo[0].threads)
    # How long compiling takes is reported: it must not be found done on disk.
    os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"
    try:
        bar = tqdm(todo, desc=f"{todo[0].threads} thread(s)", unit="row", disable=None)
        for measurement in bar:
            bar.set_postfix_str(measurement.key)
            if bar.disable:  # a log, not a terminal
                print(measurement.key, flush=True)
            results.add(measurement, measure(measurement, rounds))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def in_own_process(results: Results, todo: list[Measurement], rounds: int) -> None:
    """`work` in a fresh process, confined to as many threads as it measures; exits where it failed."""
    with confined(todo[0].threads):
        process = multiprocessing.get_context("spawn").Process(target=work, args=(results, todo, rounds))
        process.start()
        try:
            process.join()
        except KeyboardInterrupt:
            process.join()  # it has had the same signal; some compilers crash on it, which is no news
            print(f"interrupted: what is finished is in {results.path}; --resume goes on from there")
            sys.exit(INTERRUPTED)
    if process.exitcode != 0:
        sys.exit(f"the measuring process ended with exit status {process.exitcode}")
