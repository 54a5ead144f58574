"""Work that some processes do before or for the others: all of them get its result, or its error."""

from collections.abc import Callable
from typing import Any, TypeVar

from accelerate import Accelerator
from accelerate.utils import gather_object

T = TypeVar("T")


def from_main(accelerator: Accelerator, work: Callable[[], T]) -> T:
    """What ``work`` returns on the main process, the only one to call it. Its ValueError or OSError is
    raised on every process, or the others would wait for ever.
    """
    result: T = _from_all(_attempt(work) if accelerator.is_main_process else None)[0]
    return result


def local_main_first(accelerator: Accelerator, load: Callable[[], T]) -> T:
    """What ``load`` returns on each process; one of each machine goes first, and the others find its files.
    A ValueError or OSError on any process is raised on every one.
    """
    outcome: Any = None
    for is_first in (True, False):
        if accelerator.is_local_main_process == is_first:
            outcome = _attempt(load)
        _from_all(outcome if isinstance(outcome, Exception) else None)
    result: T = outcome
    return result


def _attempt(work: Callable[[], T]) -> T | Exception:
    try:
        return work()
    except (ValueError, OSError) as error:
        return error


def _from_all(outcome: Any) -> list[Any]:
    """The outcomes of all processes. All hear from all, so none leaves the group while another is still
    sending to it.
    """
    outcomes = gather_object([outcome])
    for found in outcomes:
        if isinstance(found, Exception):
            raise found
    return list(outcomes)
