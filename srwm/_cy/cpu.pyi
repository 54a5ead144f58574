from collections.abc import Callable
from typing import Any

from srwm._layouts import Call, Layout

WORK_PER_THREAD: int
WORK_PER_MEMBER: int

Kernels = Callable[[str, str], Any]
Room = Callable[[int], tuple[int, Any]]

def entries_saved(kernels: Kernels, call: Call) -> int: ...
def by_entry(lead: tuple[int, ...], own: tuple[int, ...]) -> Any: ...
def forget() -> None: ...
def order_of(lead: tuple[int, ...], initial_lead: tuple[int, ...]) -> Any: ...
def gathering_of(
    lead: tuple[int, ...],
    initial_lead: tuple[int, ...],
    own: tuple[int, ...],
    side_by_side: int,
    lanes: int,
) -> Any: ...

class Forward:
    N: int
    def __init__(self, kernels: Kernels, call: Call, save: bool) -> None: ...
    def side_by_side(self, threads: int) -> int: ...
    def __call__(
        self,
        operands: tuple[int, ...],
        outputs: tuple[int, ...],
        saved: int,
        num_threads: int | Callable[[], int],
        stream: int,
        empty: Room,
    ) -> None: ...

class Backward:
    def __init__(self, kernels: Kernels, call: Call, incoming: tuple[Layout | None, ...]) -> None: ...
    def __call__(
        self,
        operands: tuple[int, ...],
        saved: int,
        incoming: tuple[int, ...],
        gradients: tuple[int, ...],
        num_threads: int | Callable[[], int],
        stream: int,
        empty: Room,
    ) -> None: ...
