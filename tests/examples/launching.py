"""Jobs that several processes do together, on this machine, for the tests."""

import gc
import json
import os
import socket
import struct
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo  # which a run imports late; once for all
import torch.distributed.tensor

from examples.training.settings import RunSettings

ROOT = Path(__file__).parents[2]


@contextmanager
def in_a_terminal(command: list[str]) -> Iterator[tuple[subprocess.Popen[str], Callable[[], str]]]:
    """A program whose errors and bars go to a terminal, and what reads there; it ends with the block.

    What is read of a program that has ended, or has a traceback, fails the test.
    """
    fcntl, pty, termios = map(pytest.importorskip, ("fcntl", "pty", "termios"))  # not on Windows
    mine, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))  # its rows and columns
    shown = ""

    def read() -> str:
        nonlocal shown
        try:
            text = os.read(mine, 1000).decode()
        except OSError:  # what Linux says of a terminal that nothing writes to any more
            text = ""
        shown += text
        assert text, f"the program ended: {shown}"
        assert "Traceback" not in shown, shown
        return text

    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=its, text=True) as process:
        os.close(its)
        try:
            yield process, read
        finally:
            process.kill()
            os.close(mine)


def launch(module: str, jobs: dict[str, tuple[str, RunSettings]], out: Path, *arguments: str) -> None:
    """Run every job in the same two processes; the results of rank r are in ``out``/<job>-<r>.pt.

    Parameters
    ----------
    module : whose program calls `do_jobs`.
    jobs : name -> (which of the module's jobs, its settings).
    arguments : of the module, after ``out``.
    """
    text = json.dumps({name: (what, settings.record()) for name, (what, settings) in jobs.items()})
    subprocess.run(
        [sys.executable, "-W", "error", "-m", module, str(out), *arguments],
        cwd=ROOT,
        input=text,
        text=True,
        timeout=900,  # a hang, however busy the machine is
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
    )


def do_jobs(
    known: Mapping[str, Callable[[Any], dict[str, Any]]], load: Callable[[dict[str, Any]], RunSettings]
) -> None:
    """Fork the processes: importing everything in each would take most of the time.

    Parameters
    ----------
    known : the module's jobs by name, settings -> what is saved.
    load : reads recorded settings.
    """
    out, processes = Path(sys.argv[1]), 2
    jobs = json.load(sys.stdin)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    gc.freeze()  # a collection then passes over all that was imported
    children = []
    for rank in range(processes):
        child = os.fork()
        if child == 0:
            os.environ |= {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(processes),
                "LOCAL_WORLD_SIZE": str(processes),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }
            status, groups = 1, []
            try:
                for name, (what, recorded) in jobs.items():
                    torch.save(known[what](load(recorded)), out / f"{name}-{rank}.pt")
                    # Held to the end, which is without that of an interpreter: where the last reference to
                    # a process group goes, PyTorch 2.13 joins its threads while it holds the lock that
                    # they may wait for. Such a process was seen to hang.
                    groups += [torch.distributed.group.WORLD]
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        children.append(child)
    statuses = [os.waitpid(child, 0)[1] for child in children]
    assert statuses == [0] * processes, statuses
