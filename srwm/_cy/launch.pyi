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

class Plan(NamedTuple):
    kernel: str
    options: tuple[str, ...]
    team: int
    teams: int
    tiles: int
    rest: int
    blocks: int
    registers: int
    shared_bytes: int
    dynamic_bytes: int
    cached_bytes: int
    @property
    def threads(self) -> int: ...

def grid(plan: Plan, items: int, multiprocessors: int) -> int: ...
def forward(D: int, Do: int, storage: str, limits: Limits, state: str | None = None) -> Plan: ...
def backward(
    D: int, Do: int, storage: str, limits: Limits, sums: bool = False, state: str | None = None
) -> Plan: ...
def delta_forward(D: int, Do: int, storage: str, limits: Limits, state: str | None = None) -> Plan: ...
def delta_backward(
    D: int, Do: int, storage: str, limits: Limits, sums: bool = False, state: str | None = None
) -> Plan: ...
def sum_pieces(storage: str) -> Plan: ...
