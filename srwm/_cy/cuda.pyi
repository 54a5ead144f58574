from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from srwm._cy import launch
from srwm._layouts import Call, Layout
from srwm.operators.spec import Operator

MOST_CHUNKS: int
CHUNKS_BYTES: int

Empty = Callable[[int], tuple[int, Any]]

class Driver(Protocol):
    def limits(self) -> launch.Limits: ...
    def kernel(self, config: launch.Config, stream: int) -> Any: ...
    def launch(
        self, kernel: Any, blocks: int, threads: int, shared_bytes: int, stream: int, extra: int
    ) -> None: ...

class View(NamedTuple):
    lead: tuple[int, ...]
    row: int = 0
    entry: int = 0

def view_of(layout: Layout | None, lead: tuple[int, ...], core: int) -> View: ...
def order_by_sharing(lead: tuple[int, ...], own: tuple[int, ...]) -> tuple[list[int], int]: ...
def sizes(
    op: str, lead: tuple[int, ...], order: Sequence[int], counts: Sequence[int], views: Sequence[View]
) -> bytes: ...
def saved_of(call: Call) -> tuple[tuple[int, ...], str]: ...
def configs_of(
    operator: Operator, D: int, Do: int, dtype: str, limits: launch.Limits
) -> list[launch.Config]: ...

class Forward:
    def __init__(self, driver: Driver, call: Call) -> None: ...
    def __call__(
        self,
        operands: Sequence[int],
        outputs: Sequence[int],
        saved: int,
        num_threads: Any = None,
        stream: int = 0,
        empty: Empty | None = None,
    ) -> None: ...

class Backward:
    def __init__(self, driver: Driver, call: Call, incoming: Sequence[Layout | None]) -> None: ...
    def __call__(
        self,
        operands: Sequence[int],
        saved: int,
        incoming: Sequence[int],
        gradients: Sequence[int],
        num_threads: Any = None,
        stream: int = 0,
        empty: Empty | None = None,
    ) -> None: ...
