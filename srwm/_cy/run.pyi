from collections.abc import Callable
from typing import Any

class Ready:
    plan: Any
    library: Any
    arrays: tuple[Any, ...]
    addresses: tuple[int, ...]
    def __init__(
        self, plan: Any, library: Any, arrays: tuple[Any, ...], addresses: tuple[int, ...]
    ) -> None: ...
    def forward(self, save: bool, return_state: bool, num_threads: int | None) -> list[Any]: ...
    def backward(
        self,
        saved: Any,
        incoming: tuple[Any, ...],
        num_threads: int | None,
        check: Callable[[Any], None],
    ) -> tuple[Any, ...]: ...

def known(
    find: Callable[[Any], Any], library: Any, op: Any, arrays: tuple[Any, ...], backend: str | None
) -> Ready | None: ...
