from collections.abc import Callable
from typing import NamedTuple

SHARED_BYTES: int

class Limits(NamedTuple):
    threads_per_block: int
    shared_bytes_per_block: int
    registers_per_block: int
    threads_per_multiprocessor: int
    multiprocessors: int

ARCHITECTURES: dict[int, Limits]

class Storage(NamedTuple):
    type: str
    real: str
    macro: str
    bytes: int

STORAGES: dict[str, Storage]

class Config(NamedTuple):
    kernel: str
    options: tuple[str, ...]
    group: int
    groups: int
    tiles: int
    working: int
    blocks: int
    registers: int
    shared_bytes: int
    dynamic_bytes: int
    cached_bytes: int
    @property
    def threads(self) -> int: ...

class Kernels(NamedTuple):
    columns: Callable[[int, int], int]
    saved: Callable[[int, int], int]
    forward: Callable[..., Config]
    forward_views: int
    backward_views: int
    shares: int
    staged: int

class Replayed(NamedTuple):
    columns: Callable[[int, int], int]
    row: Callable[[int, int], int]
    forward_views: int
    backward_views: int
    forward_vectors: Callable[[int, int], int]
    backward_vectors: Callable[[int, int], int]
    vector: Callable[[int], int] = ...
    kept_vector: Callable[[int], int] = ...
    sums: Callable[[int], int] = ...

OPERATORS: dict[str, Kernels | Replayed]

def grid(config: Config, items: int, multiprocessors: int) -> int: ...
def saved_entries(operator: str, L: int, D: int, Do: int) -> int: ...
def forward(
    operator: str, D: int, Do: int, storage: str, limits: Limits, state: str | None = None
) -> Config: ...
def backward(
    operator: str,
    D: int,
    Do: int,
    storage: str,
    limits: Limits,
    sums: bool = False,
    state: str | None = None,
) -> Config: ...
def add_partial_sums(storage: str) -> Config: ...
