"""Work that some processes do before or for the others: all of them get its result, or its error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

T = TypeVar("T")


def from_main(accelerator: Accelerator, read: Callable[[], T]) -> T:
    """What ``read`` returns on the main process, the only one to call it.

    Raises
    ------
    ValueError, OSError : as ``read``, on every process, or the others would wait for ever.
    """
    if accelerator.num_processes == 1:
        return read()
    outcome: Any = _attempt(read) if accelerator.is_main_process else None
    [outcome] = broadcast_object_list([outcome])
    if isinstance(outcome, Exception):
        raise outcome
    result: T = outcome
    return result


def on_main(accelerator: Accelerator, work: Callable[[], object]) -> None:
    """Let the main process do something, and the others wait until it has.

    Raises
    ------
    ValueError, OSError : as ``work``, on every process.
    """
    if accelerator.num_processes == 1:
        work()
        return
    outcome = _attempt(work) if accelerator.is_main_process else None
    # All hear from all, so none leaves the group while another is still sending to it.
    for error in gather_object([outcome if isinstance(outcome, Exception) else None]):
        if error is not None:
            raise error


def local_main_first(accelerator: Accelerator, load: Callable[[], T]) -> T:
    """What ``load`` returns on each process; one of each machine goes first, and the others find its files.

    Raises
    ------
    ValueError, OSError : as ``load`` on any process, on every process.
    """
    if accelerator.num_processes == 1:
        return load()
    outcome: Any = None
    for is_first in (True, False):
        if accelerator.is_local_main_process == is_first:
            outcome = _attempt(load)
        failed = isinstance(outcome, Exception)
        for error in gather_object([outcome if failed else None]):
            if error is not None:
                raise error
    result: T = outcome
    return result


def _attempt(work: Callable[[], T]) -> T | Exception:
    try:
        return work()
    except (ValueError, OSError) as error:
        return error
