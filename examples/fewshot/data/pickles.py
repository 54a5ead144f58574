"""Pickles of published data sets, read without running anything that they ask for.

A pickle is a program: it may name any function of any module and have it called. The files here
need only plain containers, text, numbers and NumPy arrays; the names that Python 2, Python 3 and
the versions of NumPy use for those are answered by stand-ins of this module, and every other name
is refused before anything behind it is imported.
"""

from __future__ import annotations

import pickle
import re
import reprlib
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from tqdm import tqdm

_NUMBERS_OR_TEXT = re.compile(r"[biufSU]\d{1,9}")
_LONG = 256  # bytes; what is longer is no name or key
_FORGOTTEN = object()
_MOST_REPEATED = 20_000_000  # items, characters and bytes of arrays that are referred to again, together
# The opcodes of containers, text, numbers and arrays. Left out are those of other objects, persistent ones,
# sets, copies of the stack's top (DUP), and integers beyond 255 bytes (LONG4).
_OPCODES = (
    "PROTO FRAME STOP MARK POP POP_MARK GET BINGET LONG_BINGET PUT BINPUT LONG_BINPUT MEMOIZE "
    "NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 FLOAT BINFLOAT "
    "STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 "
    "UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 TUPLE EMPTY_TUPLE TUPLE1 TUPLE2 TUPLE3 "
    "EMPTY_LIST LIST APPEND APPENDS SETITEM SETITEMS GLOBAL STACK_GLOBAL"
)
# What an unpickler raises on bytes that are no pickle.
_FAILURES: tuple[type[Exception], ...] = (pickle.UnpicklingError, struct.error, AttributeError, EOFError)
_FAILURES += (IndexError, KeyError, OverflowError, RecursionError, TypeError, ValueError)


def load_pickle(operation: str, path: Path, keep: Callable[[bytes], Any] | None = None) -> Any:
    """The content of a pickle: containers, numbers, str, and read-only arrays.

    Byte strings become str (Python 2 wrote names and keys as such), by Latin-1. A file that is larger than
    the memory is read with ``keep``, and a progress bar: of every array only ``keep(its bytes)`` is kept,
    called as it is read.

    Raises
    ------
    FileNotFoundError : if there is no such file.
    ValueError : if it is cut short, no pickle, asks for anything but plain data, or refers to the same
        data so often that these would fill the memory if they were written out.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{operation}: {str(path)!r} must be a plain file; put the published file there")
    size = status.st_size
    silent = True if keep is None else None  # None: where there is no terminal
    bar = tqdm(desc=f"reading {path.name}", total=size, unit="B", unit_scale=True, disable=silent)
    with path.open("rb") as file, bar:
        try:
            return _Plain().convert(_Unpickler(_Source(file, size, bar), size, keep).load())
        except _FAILURES as error:
            raise ValueError(
                f"{operation}: cannot read {str(path)!r} ({type(error).__name__}: {error!s:.300}); it is "
                "damaged or not the published file: delete it and fetch it again"
            ) from error


@contextmanager
def as_named(operation: str, path: Path) -> Iterator[None]:
    """Where a file's content is taken apart: if it is of another kind, a ValueError says so."""
    try:
        yield
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{operation}: {str(path)!r} does not hold what its name says ({type(error).__name__}: "
            f"{error}); delete it and fetch it again"
        ) from error


class _Source:
    """A file, which is asked for no more bytes than it has left, so that no memory is taken for them."""

    def __init__(self, file: IO[bytes], size: int, bar: Any) -> None:
        self._file, self._left, self._bar = file, size, bar

    def read(self, count: int) -> bytes:
        if count > self._left:
            raise EOFError(f"{count} more bytes should follow, but there are only {self._left}")
        return self._taken(self._file.read(count))

    def readline(self) -> bytes:
        return self._taken(self._file.readline())

    def _taken(self, data: bytes) -> bytes:
        self._left -= len(data)
        self._bar.update(len(data))
        return data


def _text(value: Any) -> Any:
    return value.decode("latin1") if isinstance(value, bytes) else value


class _Dtype:
    """Stands in for numpy.dtype, for numbers and text only."""

    def __init__(self, kind: bytes | str, align: object, copy: object) -> None:
        self.kind, self.order = _text(kind), "="
        if not _NUMBERS_OR_TEXT.fullmatch(self.kind):
            raise pickle.UnpicklingError(f"it has an array of type {self.kind!r}, not of numbers or text")

    def set_state(self, state: tuple[Any, ...]) -> None:
        self.order = _text(state[1])
        if self.order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError(f"it has an array of byte order {reprlib.repr(self.order)}")

    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.order + self.kind)


class _Array:
    """Stands in for an array; its ``value`` comes with its state: version, shape, dtype, Fortran, bytes."""

    def __init__(self, build: Callable[[bytes, _Dtype, Any, Any], Any]) -> None:
        self._build = build

    def set_state(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        self.value = self._build(data, dtype, shape, "F" if fortran else "C")


class _Table(dict[Any, Any]):
    """With names or small numbers as keys: a tuple's hash takes the time of all that it refers to, and
    long integers of one hash are found."""

    def __setitem__(self, key: Any, value: Any) -> None:
        number = isinstance(key, int) and abs(key) < 1 << 32
        if not (number or isinstance(key, (bytes, str))):
            raise pickle.UnpicklingError(f"it has a key {reprlib.repr(key)}, but keys are names or numbers")
        super().__setitem__(key, value)


class _Memo(dict[int, Any]):
    """What a pickle may refer back to, without the arrays' bytes, to which it never does."""

    def __setitem__(self, key: int, value: Any) -> None:
        # An array's bytes, as bytes or text, or a short tuple with them: an array's state or arguments.
        among = value if isinstance(value, tuple) and len(value) < 8 else (value,)
        held = any(isinstance(item, (bytes, str)) and len(item) > _LONG for item in among)
        super().__setitem__(key, _FORGOTTEN if held else value)

    def __getitem__(self, key: int) -> Any:
        value = super().__getitem__(key)
        if value is _FORGOTTEN:
            raise pickle.UnpicklingError("it refers back to the bytes of an array, or to as long a text")
        return value


class _Opcodes(dict[int, Any]):
    """What an opcode does, by its number."""

    def __missing__(self, opcode: int) -> Any:
        raise pickle.UnpicklingError(f"its opcode {bytes([opcode])!r} is not one of plain data")


class _Unpickler(pickle._Unpickler):
    """In Python: the compiled one takes memory for any length or number in the file, before it looks.

    Its memo would also hold the bytes of all arrays to the end.
    """

    memo: dict[int, Any]
    stack: list[Any]
    read: Callable[[int], bytes]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, source: _Source, size: int, keep: Callable[[bytes], Any] | None) -> None:
        super().__init__(source, encoding="bytes")
        self._keep, self._to_copy = keep, size
        if keep is not None:
            self.memo = _Memo()

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for what the pickle asks for by name."""
        admitted: dict[str, Any] = {
            "numpy.core.multiarray._reconstruct": lambda subtype, shape, kind: _Array(self._build),
            "numpy.core.multiarray.scalar": self._scalar,
            "numpy.core.numeric._frombuffer": self._from_buffer,
            "numpy.ndarray": _Array,
            "numpy.dtype": _Dtype,
            "_codecs.encode": self._encode,
            "builtins.bytes": lambda: b"",
        }
        usual = module.replace("numpy._core", "numpy.core").replace("__builtin__", "builtins")
        if f"{usual}.{name}" not in admitted:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, but data needs only containers, text, numbers and arrays; "
                "nothing of it was run"
            )
        return admitted[f"{usual}.{name}"]

    def _from_buffer(self, data: bytes, dtype: _Dtype, shape: Any, order: str) -> _Array:
        array = _Array(self._build)
        array.value = self._build(data, dtype, shape, order)
        return array

    def _build(self, data: bytes, dtype: _Dtype, shape: Any, order: Any) -> Any:
        if self._keep is not None:
            return self._keep(data)
        if not isinstance(shape, tuple) or not all(isinstance(size, int) and size >= 0 for size in shape):
            raise pickle.UnpicklingError(f"it has an array of shape {reprlib.repr(shape)}")
        return np.frombuffer(data, dtype.dtype()).reshape(shape, order=order)

    def _scalar(self, dtype: _Dtype, data: bytes) -> Any:
        self._copied(data)
        return np.frombuffer(data, dtype.dtype())[0].item()

    def _encode(self, text: str, encoding: str | bytes) -> bytes:
        """How Python 3 writes bytes for Python 2."""
        if _text(encoding) != "latin1":
            raise pickle.UnpicklingError(f"it has bytes in the encoding {reprlib.repr(encoding)}")
        self._copied(text)
        return text.encode("latin1")

    def _copied(self, data: bytes | str) -> None:
        """Count copies of data; all that are in the file, once each, are not longer than the file."""
        self._to_copy -= len(data)
        if self._to_copy < 0:
            raise pickle.UnpicklingError("it has the same bytes copied again and again")

    def load_bytearray(self) -> None:
        """Arrays that may be written have their bytes in one; it is read-only here."""
        (length,) = struct.unpack("<Q", self.read(8))
        self.stack.append(self.read(length))

    def load_empty_table(self) -> None:
        self.stack.append(_Table())

    def load_table(self) -> None:
        items = iter(self.pop_mark())
        self.stack.append(_Table())
        for key, value in zip(items, items, strict=True):
            self.stack[-1][key] = value

    def load_call(self) -> None:
        arguments = self.stack.pop()
        if not isinstance(arguments, tuple) or len(arguments) > 4:
            raise pickle.UnpicklingError("it calls something with arguments that no array has")
        self.stack[-1] = self.stack[-1](*arguments)

    def load_state(self) -> None:
        state = self.stack.pop()
        self.stack[-1].set_state(state)  # which only the stand-ins have

    dispatch = _Opcodes(
        (code, pickle._Unpickler.dispatch[code])
        for code in (getattr(pickle, name)[0] for name in _OPCODES.split())
    )
    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray
    dispatch[pickle.EMPTY_DICT[0]] = load_empty_table
    dispatch[pickle.DICT[0]] = load_table
    dispatch[pickle.REDUCE[0]] = load_call
    dispatch[pickle.BUILD[0]] = load_state


class _Plain:
    """Byte strings as str, and arrays in place of their stand-ins, all the way down.

    What is referred to several times is converted once and stays shared. Who reads the result meets it
    each time, though: 30 lists, each of which holds the next one twice, have a billion items for him. So
    all that is met again is counted, and there may not be too much of it.
    """

    def __init__(self) -> None:
        self._done: dict[int, tuple[Any, int]] = {}  # by id: the plain value, and its size written out
        self._size = self._repeated = 0

    def convert(self, value: Any) -> Any:
        if value is None or isinstance(value, (int, float)):
            self._size += 1
            return value
        if id(value) in self._done:
            plain, size = self._done[id(value)]
            self._size += size
            self._repeated += size
            if self._repeated > _MOST_REPEATED:
                raise pickle.UnpicklingError("it refers to the same data too often")
            return plain
        before = self._size
        self._size += 1
        if isinstance(value, (bytes, str)):
            plain = _text(value)
            self._size += len(plain)
        elif isinstance(value, _Array):
            plain = value.value
            self._size += getattr(plain, "nbytes", 0)
        elif isinstance(value, dict):
            plain = {self.convert(key): self.convert(item) for key, item in value.items()}
        elif isinstance(value, list):
            plain = [self.convert(item) for item in value]
        elif isinstance(value, tuple):
            plain = tuple(self.convert(item) for item in value)
        else:
            raise pickle.UnpicklingError(f"it holds a {type(value).__name__}, which is no data")
        self._done[id(value)] = plain, self._size - before
        return plain
