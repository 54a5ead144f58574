"""The path of each warp of a block through a kernel's compiled instructions, and the cycles of all warps.

Loops of the kernels that keep their state in memory have bounds that the instructions compute. So this
carries out the instructions on integers and predicates, for the 32 lanes of a warp at a time, from the
kernel's first instruction to its last. Numbers that come from floating-point arithmetic or from memory are
unknown (None), and so is what an instruction writes that is not modelled here. Where the way of a warp
depends on one, and memory or a barrier lies on it, that is an error. The call has no flags and no state, as
most calls in training.
"""

from __future__ import annotations

import heapq
import operator
import re
import struct
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from itertools import takewhile
from typing import Any, NamedTuple

import numpy as np

LANES = 32
WORD = 1 << 32
LINE = 128  # bytes: of the L1 cache, and of shared memory in a cycle
PARAMETERS = 0x210  # where they begin in constant bank 0, of sm_90
SPECIAL = {"SR_CTAID.X": 0, "SR_CgaCtaId": 0}

# A number where all lanes have the same word, an array of 32 words, or None: unknown. Predicates likewise.
Word = Any


@cache
def read_as(operand: str) -> tuple[str, Any]:
    """What an operand is: its kind, and a register, a number or an operand within it."""
    operand = operand.removesuffix(".reuse")
    if operand in ("RZ", "URZ", "SRZ"):
        return "number", 0
    if re.fullmatch(r"-?0x[0-9a-f]+|-?\d+", operand):
        return "number", int(operand, 0) % WORD
    if operand.startswith(("-", "~")):
        return operand[0], operand[1:]
    if operand.startswith(("R", "UR")):
        return "register", operand
    constant = re.fullmatch(r"c\[0x0\]\[(?:(R\d+)\+)?(0x[0-9a-f]+)\]", operand)
    return ("constant", (constant[1], int(constant[2], 0))) if constant else ("unknown", None)


@cache
def parts(opcode: str) -> tuple[str, ...]:
    """An opcode and its kinds."""
    return tuple(opcode.split("."))


@cache
def is_predicate(operand: str) -> bool:
    """Whether an operand is a predicate."""
    return re.match(r"!?U?P", operand) is not None


MEMORY_AND_BARRIERS = {"LD", "LDG", "LDS", "ST", "STG", "STS", "BAR"}
LONGEST = 2_000_000  # instructions of a warp; one that comes to more has gone astray

COMPARED: Mapping[str, Callable[[Any, Any], Any]] = {
    "EQ": operator.eq,
    "NE": operator.ne,
    "LT": operator.lt,
    "LE": operator.le,
    "GT": operator.gt,
    "GE": operator.ge,
}


class Event(NamedTuple):
    """An instruction that a warp has come to."""

    at: int  # its place in the listing
    hit: bool | None  # of global memory: whether the L1 cache has it
    transfers: int  # cycles for which it has the memory pipe


class Memory:
    """What the warps of a block have come to in global memory, and constants."""

    def __init__(self, constants: bytes, uncached: int | None) -> None:
        self.constants = np.frombuffer(constants, np.uint32).astype(np.uint64)
        self.uniform = self.constants.tolist()
        self.uncached = uncached  # the upper word of addresses that never stay in the L1 cache
        self.lines: set[int] = set()
        self.conflicts: dict[Any, int] = {}


def constants_of(given: list[bool], sizes: bytes) -> bytes:
    """Constant bank 0 of a call: array i, if it is given, begins at address i + 1 times 2^32."""
    bank = bytearray(PARAMETERS)
    struct.pack_into("6I", bank, 0, 0, 1, 1, 1, 1, 1)  # a grid of one block
    bank += struct.pack(f"{len(given)}q", *((i + 1) * WORD * is_given for i, is_given in enumerate(given)))
    return bytes(bank) + sizes


class Warp:
    """A warp that carries out a listing."""

    def __init__(self, instructions: Any, number: int, memory: Memory) -> None:
        self.code, self.memory = instructions, memory
        self.at = {i.label: n for n, i in enumerate(instructions) if i.label}
        self.of: dict[str, Word] = {}
        self.thread = np.arange(LANES, dtype=np.uint64) + np.uint64(LANES * number)
        self.mask: Any = True  # the lanes that go on: all, or an array
        self.apart: list[
            tuple[int, Any]
        ] = []  # places and lanes that wait until the others have come together
        self.meeting: dict[str, tuple[int, Any]] = {}

    # ---- operands

    def word(self, operand: str) -> Word:
        """The value of an operand, a word."""
        kind, what = read_as(operand)
        if kind == "register":
            return self.of.get(what)
        if kind == "number":
            return what
        if kind == "constant":
            return self.constant(*what)
        if kind == "unknown" or (value := self.word(what)) is None:
            return None
        return (WORD - value) % WORD if kind == "-" else WORD - 1 - value

    def constant(self, register: str | None, offset: int) -> Word:
        """A word of constant bank 0."""
        bank = self.memory.constants
        if register is None:
            return self.memory.uniform[offset // 4]
        index = self.of.get(register)
        if index is None:
            return None
        index = (index + offset) // 4
        if isinstance(index, int):
            return self.memory.uniform[index]
        return bank[np.minimum(index, len(bank) - 1).astype(np.int64)]

    def long(self, operand: str) -> Word:
        """The value of a pair of registers."""
        operand = operand.removesuffix(".reuse")
        low = self.word(operand)
        is_register = read_as(operand)[0] == "register"
        high = self.of.get(pair(operand)[1]) if is_register else 0
        return None if low is None or high is None else high * WORD + low

    def predicate(self, operand: str) -> Any:
        """The value of a predicate."""
        if operand.startswith("!"):
            value = self.predicate(operand[1:])
            return None if value is None else opposite(value)
        return True if operand in ("PT", "UPT") else self.of.get(operand)

    def put(self, register: str, value: Any, lanes: Any) -> None:
        """Write a register or predicate, in these lanes."""
        if register in ("RZ", "URZ", "PT", "UPT"):
            return
        if value is not None:
            old = self.of.get(register)
            if lanes is not True and old is not None:
                value = chosen(lanes, value, old)
            if isinstance(value, np.ndarray) and (value == value[0]).all():
                value = value[0].item()
        self.of[register] = value

    # ---- instructions

    def run(self) -> list[Event]:
        """Its path. RuntimeError: where it goes is unknown, or it does not end."""
        events: list[Event] = []
        n = 0
        while n is not None:
            if len(events) == LONGEST:
                raise RuntimeError(
                    f"a warp does not end: after {LONGEST} instructions {self.code[n].frames}"
                )
            events.append(Event(n, None, 0))
            n = self.step(n, events)
        return events

    def step(self, n: int, events: list[Event]) -> Any:
        """Carry out instruction n; the next one, or None at the end."""
        i = self.code[n]
        base, *kinds = parts(i.opcode)
        guard = self.predicate(i.guard) if i.guard else True
        lanes = self.mask if guard is None or guard is True else both(self.mask, guard)
        if i.opcode == "BRA.DIV":  # of lanes that are apart, where all are needed
            if self.mask is not True:
                raise RuntimeError(f"lanes are apart at {i.frames}")
            return n + 1
        if base == "BRA":
            return self.branch(n, i, guard, lanes)
        if base == "BSSY":
            self.meeting[i.operands[0]] = (len(self.apart), False)
        elif base == "BSYNC" or i.opcode == "WARPSYNC.ALL":
            meeting = i.operands[0] if base == "BSYNC" else ""
            depth, come = self.meeting.pop(meeting, (0, False))
            come = simple(come | self.mask)
            if len(self.apart) > depth:
                self.meeting[meeting] = (depth, come)
                n, self.mask = self.apart.pop()
                return n
            self.mask = come
        elif base == "EXIT":
            if guard is None:
                raise RuntimeError(f"lanes may end or not at {i.frames}")
            self.mask = both(self.mask, opposite(lanes))
            if self.mask is False:
                if not self.apart:
                    return None
                n, self.mask = self.apart.pop()
                return n
        elif base == "BAR" and self.apart:
            raise RuntimeError(f"lanes are apart at the barrier {i.frames}")
        elif lanes is not False:
            self.carry_out(n, i, base, kinds, lanes, events)
            if guard is None:
                for register in i.writes:
                    self.of[register] = None
        return n + 1

    def branch(self, n: int, i: Any, guard: Any, lanes: Any) -> int:
        """The next instruction after a branch; lanes that go the other way wait."""
        target = self.at[i.target]
        for operand in i.operands[:-1]:
            of_operand = self.predicate(operand)
            guard = None if guard is None or of_operand is None else both(guard, of_operand)
        if guard is None:  # depends on a number: slow paths, for infinite ones and the like, are avoided
            bases = {parts(other.opcode)[0] for other in self.code[n + 1 : target]}
            if target <= n or bases & MEMORY_AND_BARRIERS:
                raise RuntimeError(f"which way a warp goes is unknown: {i.guard} {i.opcode} at {i.frames}")
            return target if "CALL" in bases else n + 1
        taken = both(self.mask, guard)
        stay = both(self.mask, opposite(guard))
        if stay is False:
            return target
        if taken is False or i.opcode == "BRA.U":  # which all lanes take or none
            return n + 1
        if target > n:
            self.apart.append((target, taken))
            self.mask = stay
            return n + 1
        self.apart.append((n + 1, stay))
        self.mask = taken
        return target

    def carry_out(self, n: int, i: Any, base: str, kinds: Any, lanes: Any, events: list[Event]) -> None:
        """Any other instruction."""
        operands = i.operands
        if base in ("LDS", "STS"):
            events[-1] = Event(n, None, self.conflicts(n, i, lanes))
            for register in i.writes:  # the only whole numbers in shared memory: where sequence 0 begins
                self.put(register, 0 if "64" in kinds else None, lanes)
            return
        if base in ("LD", "LDG", "ST", "STG"):
            events[-1] = self.to_memory(n, i, lanes)
        do = getattr(self, f"do_{base.removeprefix('U').lower()}", None)
        results = (do and do(operands, kinds)) or {}
        for register, value in (dict.fromkeys(i.writes) | results).items():  # the others become unknown
            self.put(register, value, lanes)

    def conflicts(self, n: int, i: Any, lanes: Any) -> int:
        """Cycles for which an access has shared memory: the most different words in one bank."""
        key = (n, lanes is True)
        if key not in self.memory.conflicts:
            place = next(o for o in i.operands if o.startswith("["))
            address = self.address(place)
            cycles = 1
            if address is not None:
                wide = 4 if ".128" in i.opcode else 2 if ".64" in i.opcode else 1
                words = np.unique(of_lanes(address, lanes) // 4 + np.arange(wide, dtype=np.uint64)[:, None])
                cycles = int(np.bincount((words % LANES).astype(int)).max())
            self.memory.conflicts[key] = cycles
        return self.memory.conflicts[key]

    def address(self, place: str) -> Word:
        """The address in brackets."""
        total: Word = 0
        for part in summands(place):
            value = self.long(part[:-3]) if part.endswith(".64") else self.word(part)
            if value is None:
                return None
            total = total + value - (WORD if part.startswith("-") else 0)
        return total

    def to_memory(self, n: int, i: Any, lanes: Any) -> Event:
        """An access to global memory."""
        address = self.address(next(o for o in i.operands if "[" in o))
        if address is None:
            return Event(n, False, 1)
        lines = set((of_lanes(address, lanes) // LINE).tolist())
        hit = lines <= self.memory.lines
        self.memory.lines |= lines
        wide = 4 if ".128" in i.opcode else 2 if ".64" in i.opcode else 1
        cycles = max(len(lines), wide if len(lines) > 1 else 1)
        if self.memory.uncached == next(iter(lines)) * LINE // WORD:
            return Event(n, False, 2 * cycles)
        return Event(n, hit, cycles)

    # Results by register; None: unknown.

    def do_s2r(self, o: Any, kinds: Any) -> Any:
        return {o[0]: self.thread if o[1] == "SR_TID.X" else SPECIAL.get(o[1], 0)}

    do_s2ur = do_s2r

    def do_cs2r(self, o: Any, kinds: Any) -> Any:
        return dict.fromkeys(pair(o[0]), 0)

    def do_mov(self, o: Any, kinds: Any) -> Any:
        return {o[0]: self.word(o[1])}

    do_r2ur = do_mov

    def do_p2r(self, o: Any, kinds: Any) -> Any:  # a bit of each predicate in the mask
        value, mask = self.word(o[2]), int(o[3], 0)
        values = {1 << k: self.predicate(f"P{k}") for k in range(7) if mask >> k & 1}
        if kinds or value is None or any(v is None for v in values.values()):
            return None
        value = value & (WORD - 1 ^ mask)
        for bit, predicate in values.items():
            value = value | chosen(predicate, bit, 0)
        return {o[0]: value}

    def do_ldc(self, o: Any, kinds: Any) -> Any:
        if "64" not in kinds:
            return {o[0]: self.word(o[1])}
        found = re.fullmatch(r"c\[0x0\]\[(?:(R\d+)\+)?(0x[0-9a-f]+)\]", o[1])
        if found is None:
            return None
        first = int(found[2], 0)
        return {r: self.constant(found[1], first + 4 * k) for k, r in enumerate(pair(o[0]))}

    def do_hfma2(self, o: Any, kinds: Any) -> Any:  # a constant: two halves
        high, low = (int(np.float16(float(a)).view(np.uint16)) for a in o[3:5])
        return {o[0]: high << 16 | low}

    def _sum(self, o: Any, values: list[Any]) -> Any:
        """A sum of words that may be 2^32, into a register and carries."""
        if any(v is None for v in values):
            return None
        total = sum(values[1:], values[0])
        carries = takewhile(is_predicate, o[1:])
        return {o[0]: total % WORD} | {carry: total >= k * WORD for k, carry in enumerate(carries, 1)}

    def _whole(self, operand: str) -> Any:
        """A word to be added: minus a is 2^32 - a, so that the carry tells whether b >= a."""
        if operand.startswith("-") and not operand.startswith("-0x"):
            value = self.word(operand[1:])
            return None if value is None else WORD - value
        return self.word(operand)

    def do_iadd3(self, o: Any, kinds: Any) -> Any:
        words = [a for a in o[1:] if not is_predicate(a)]
        values = [self._whole(a) for a in words]
        if "X" in kinds:
            values += [self._carry(a) for a in o[-2:]]
        return self._sum(o, values)

    def _carry(self, operand: str) -> Any:
        value = self.predicate(operand)
        return None if value is None else int(value) if isinstance(value, bool) else value.astype(np.uint64)

    def do_viadd(self, o: Any, kinds: Any) -> Any:
        return self._sum(o[:1], [self.word(o[1]), self.word(o[2])])

    def do_imad(self, o: Any, kinds: Any) -> Any:
        to, *carries = o[0], *takewhile(is_predicate, o[1:])
        o = o[len(carries) :]
        a, b = self.word(o[1]), self.word(o[2])
        if a is None or b is None:
            return None
        if "WIDE" in kinds or "HI" in kinds:
            c = self.long(o[3])
            if c is None:
                return None
            if "U32" not in kinds:
                a, b = signed(a), signed(b)
            product = in_64_bits(a * b)
            total = in_64_bits(product + c)
            results = dict.fromkeys(carries, total < product)
            if "HI" in kinds:
                return results | {to: total // WORD}
            low, high = pair(to)
            return results | {low: total % WORD, high: total // WORD}
        c = self.word(o[3])
        carry = self._carry(o[4]) if "X" in kinds else 0
        if c is None or carry is None:
            return None
        return {to: (a * b % WORD + c + carry) % WORD}

    def do_lea(self, o: Any, kinds: Any) -> Any:
        words = [a for a in o[1:] if not is_predicate(a)]
        shift = int(words[-1], 0)
        a, b = self.word(words[0]), self._whole(words[1])
        if a is None or b is None:
            return None
        if "HI" not in kinds:
            return self._sum(o, [(a << shift) % WORD, b])
        upper = (a >> 31) * (WORD - 1) if "SX32" in kinds else self.word(words[2])
        carry = self._carry(o[-1]) if "X" in kinds else 0
        if upper is None or carry is None:
            return None
        return self._sum(o, [in_64_bits((upper * WORD + a) << shift) // WORD, b, carry])

    def do_shf(self, o: Any, kinds: Any) -> Any:
        low, by, high = (self.word(a) for a in o[1:4])
        if by is None or high is None or (low is None and not ("R" in kinds and "HI" in kinds)):
            return None
        long = high * WORD + (0 if low is None else low)
        if kinds[0] == "L":
            if "U32" in kinds and "HI" not in kinds:
                return {o[0]: (low << by) % WORD}
            long = in_64_bits(long << by)
            return {o[0]: long // WORD if "HI" in kinds else long % WORD}
        if "S32" in kinds or "S64" in kinds:
            long = long - (high >> 31) * (1 << 64) if isinstance(long, int) else long.astype(np.int64)
        shifted = in_64_bits(long >> (by if isinstance(by, int) else by.astype(np.int64)))
        return {o[0]: shifted // WORD if "HI" in kinds else shifted % WORD}

    def do_sel(self, o: Any, kinds: Any) -> Any:
        a, b, which = self.word(o[1]), self.word(o[2]), self.predicate(o[3])
        return None if a is None or b is None or which is None else {o[0]: chosen(which, a, b)}

    def do_lop3(self, o: Any, kinds: Any) -> Any:
        to, *rest = o
        results = {}
        predicate = None
        if to.startswith(("P", "UP")):
            predicate, to, *rest = o
        values = [self.word(a) for a in rest[:3]]
        if any(v is None for v in values):
            return None
        value = looked_up(int(rest[3], 0), values, WORD - 1)
        results[to] = value
        if predicate is not None:
            results[predicate] = value != 0
        return results

    def do_plop3(self, o: Any, kinds: Any) -> Any:
        values = [self.predicate(a) for a in o[2:5]]
        if any(v is None for v in values):
            return None
        return {o[0]: simple(looked_up(int(o[5], 0), values, True))}

    def do_prmt(self, o: Any, kinds: Any) -> Any:
        a, b, which = self.word(o[1]), self.word(o[3]), self.word(o[2])
        if which == 0x7610 and b is None:
            b = 0  # the lower half is replaced, and nothing reads the upper one
        if a is None or b is None or which is None:
            return None
        bytes_of_both, value = b * WORD + a, 0
        for k in range(4):
            place = which >> (4 * k)
            byte = (bytes_of_both >> (place % 8 * 8)) & 255
            if place & 8:  # its sign
                byte = (byte >> 7) * 255
            value = value + (byte << (8 * k))
        return {o[0]: value}

    def _joined(self, o: Any, kinds: Any, result: Any) -> Any:
        """Of a comparison and another predicate, which may decide alone."""
        other, is_or = self.predicate(o[4]), "OR" in kinds
        if isinstance(other, bool) and other == is_or:
            return {o[0]: other, o[1]: other}
        if result is None or other is None:
            return None
        join = operator.or_ if is_or else operator.and_
        return {o[0]: simple(join(result, other)), o[1]: simple(join(opposite(result), other))}

    def do_isetp(self, o: Any, kinds: Any) -> Any:
        return self._joined(o, kinds, self._compared(o, kinds))

    def _compared(self, o: Any, kinds: Any) -> Any:
        a, b = self.word(o[2]), self.word(o[3])
        if a is None or b is None:
            return None
        if "U32" not in kinds:
            a, b = signed(a), signed(b)
        compare = kinds[0]
        if "EX" not in kinds:
            return COMPARED[compare](a, b)
        lower = self.predicate(o[5])  # of the upper words, with what the lower ones gave
        if lower is None:
            return None
        result = lower if compare == "NE" else (a == b) & lower
        if compare != "EQ":
            strict = {"LE": "LT", "GE": "GT"}.get(compare, compare)
            result = result | COMPARED[strict](a, b)
        return result

    def do_dsetp(self, o: Any, kinds: Any) -> Any:  # of the settings
        values = [self.long(a) for a in o[2:4]]
        if any(v is None for v in values) or kinds[0] not in ("NEU", "EQ"):
            return self._joined(o, kinds, None)
        a, b = (struct.unpack("d", struct.pack("Q", int(of_lanes(v, True)[0])))[0] for v in values)
        return self._joined(o, kinds, (a == b) == (kinds[0] == "EQ"))

    def do_i2f(self, o: Any, kinds: Any) -> Any:  # of a division
        value = self.word(o[1])
        if value is None or "U32" not in kinds:
            return None
        return {o[0]: np.atleast_1d(value).astype(np.float32).view(np.uint32).astype(np.uint64)}

    def do_mufu(self, o: Any, kinds: Any) -> Any:
        value = self.word(o[1]) if kinds == ["RCP"] else None
        if value is None:
            return None
        with np.errstate(all="ignore"):
            inverse = np.float32(1) / np.atleast_1d(value).astype(np.uint32).view(np.float32)
        return {o[0]: inverse.view(np.uint32).astype(np.uint64)}

    def do_f2i(self, o: Any, kinds: Any) -> Any:
        value = self.word(o[1])
        if value is None or "U32" not in kinds:
            return None
        a = np.atleast_1d(value).astype(np.uint32).view(np.float32)
        return {o[0]: np.where(np.isfinite(a) & (a < WORD), a, 0).astype(np.uint64)}


@cache
def summands(place: str) -> list[str]:
    """What an address in brackets is the sum of."""
    return re.sub(r"^.*\[(?=[^\[]*$)|\]", "", place).split("+")


@cache
def pair(register: str) -> tuple[str, str]:
    """The registers of a double word."""
    register = register.removesuffix(".reuse")
    found = re.fullmatch(r"(U?R)(\d+)", register)
    assert found is not None, register
    kind, number = found.groups()
    return register, f"{kind}{int(number) + 1}"


def looked_up(table: int, values: list[Any], ones: Any) -> Any:
    """The bitwise function of three values that a table of eight bits gives."""
    result: Any = ones ^ ones
    for k in range(8):
        if table >> k & 1:
            a, b, c = (v if k >> (2 - j) & 1 else v ^ ones for j, v in enumerate(values))
            result = result | (a & b & c)
    return result


def simple(value: Any) -> Any:
    """A predicate; True or False if that is so in all lanes."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    return bool(value[0]) if (value == value[0]).all() else value


def both(a: Any, b: Any) -> Any:
    """Where two predicates hold."""
    return b if a is True else a if b is True else simple(a & b)


def opposite(a: Any) -> Any:
    """Where a predicate does not hold."""
    return not a if isinstance(a, (bool, np.bool_)) else ~a


def chosen(which: Any, a: Word, b: Word) -> Word:
    """One of two words, or of two predicates."""
    if isinstance(which, bool):
        return a if which else b
    value: Any = np.where(which, a, b)
    return value if value.dtype == bool else value.astype(np.uint64)


def signed(a: Word) -> Any:
    """A word as a number with a sign."""
    return (
        (a ^ 1 << 31) - (1 << 31)
        if isinstance(a, int)
        else a.astype(np.uint32).astype(np.int32).astype(np.int64)
    )


def in_64_bits(a: Any) -> Any:
    """What is left of a number in 64 bits without a sign."""
    return a % (1 << 64) if isinstance(a, int) else a.astype(np.uint64)


def of_lanes(a: Word, lanes: Any) -> Any:
    """The words of these lanes as an array."""
    if isinstance(a, int):
        return np.full(1, a, np.uint64)
    return a if lanes is True else a[lanes]


def cycles_of(instructions: Any, paths: list[list[Event]], latency: Mapping[str, int], other: int) -> int:
    """Cycles of a block whose warps go these ways: four partitions, one memory pipe."""
    bases = [i.opcode.split(".")[0] for i in instructions]
    ready: list[dict[str, int]] = [{} for _ in paths]
    clock, place = [0] * len(paths), [0] * len(paths)
    issue, pipe = [0] * 4, 0
    queue = [(0, w) for w in range(len(paths))]
    waiting: list[int] = []
    running = len(paths)
    while queue:
        guess, w = heapq.heappop(queue)
        event = paths[w][place[w]]
        instruction, base, own = instructions[event.at], bases[event.at], ready[w]
        start = max(clock[w], issue[w % 4])
        if event.transfers:
            start = max(start, pipe)
        for register in instruction.reads:
            start = max(start, own.get(register, 0))
        if start > guess:
            heapq.heappush(queue, (start, w))
            continue
        if event.transfers:
            pipe = start + event.transfers
        took = latency.get(base, other)
        if event.hit:
            took = latency["LD"]
        elif event.hit is False:
            took = latency["LDG"]
        for register in instruction.writes:
            own[register] = start + took
        clock[w] = issue[w % 4] = start + 1
        place[w] += 1
        if place[w] == len(paths[w]):
            running -= 1
        elif base == "BAR":
            waiting.append(w)
        else:
            heapq.heappush(queue, (start + 1, w))
        if waiting and len(waiting) == running:
            opens = max(clock[v] for v in waiting) + latency["BAR"]
            for v in waiting:
                clock[v] = opens
                heapq.heappush(queue, (opens, v))
            waiting = []
    return max(clock)


def counted(instructions: Any, path: list[Event]) -> Counter[str]:
    """How often a warp comes to each instruction."""
    return Counter(instructions[event.at].opcode.split(".")[0] for event in path)
