"""Pickles of published data sets, read without running anything that they ask for.

A pickle is a program: it may name any function of any module and have it called. The files here
need only plain containers, text, numbers and NumPy arrays; the names that Python 2, Python 3 and
the versions of NumPy use for those are answered by stand-ins of this module, and every other name
is refused before anything behind it is imported.
"""

import pickle
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np
from tqdm import tqdm

_NUMBERS_OR_TEXT = re.compile(r"[<>|=][biufSU]\d{1,9}")
_LONG = 256  # bytes; what is longer is no name or key
_FORGOTTEN = object()
# What an unpickler, and who takes its arrays, raise on bytes that are no pickle.
_FAILURES: tuple[type[Exception], ...] = (pickle.UnpicklingError, struct.error, AttributeError, EOFError)
_FAILURES += (IndexError, KeyError, MemoryError, OverflowError, RecursionError, TypeError, ValueError)


def load_pickle(operation: str, path: Path, keep: Callable[[bytes], Any] | None = None) -> Any:
    """The content of a pickle: containers, numbers, str, and read-only arrays.

    Byte strings become str (Python 2 wrote names and keys as such), by Latin-1. A file that is larger than
    the memory is read with ``keep``, and a progress bar: of every array only ``keep(its bytes)`` is kept,
    called as it is read. A file that is damaged, or asks for anything but plain data, is a ValueError.
    """
    if path.exists() and not path.is_file():  # opening a pipe would wait for ever
        raise ValueError(f"{operation}: {str(path)!r} must be a plain file; put the published file there")
    silent = True if keep is None else None  # None: where there is no terminal
    with path.open("rb") as opened:
        size = path.stat().st_size
        with tqdm.wrapattr(opened, "read", total=size, desc=f"reading {path.name}", disable=silent) as file:
            try:
                return _plain(_Unpickler(file, keep).load(), {})
            except _FAILURES as error:
                raise ValueError(
                    f"{operation}: cannot read {str(path)!r} ({type(error).__name__}: {error!s:.300}); it "
                    "is damaged or not the published file: delete it and fetch it again"
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


def _text(value: Any) -> Any:
    return value.decode("latin1") if isinstance(value, bytes) else value


class _Dtype:
    """Stands in for numpy.dtype, whose own state could be one that crashes; for numbers and text only."""

    def __init__(self, kind: bytes | str, align: object, copy: object) -> None:
        self.kind, self.order = _text(kind), "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = _text(state[1])

    def dtype(self) -> np.dtype[Any]:
        name = self.order + self.kind
        if not _NUMBERS_OR_TEXT.fullmatch(name):
            raise pickle.UnpicklingError(f"it has an array of type {name!r}, not of numbers or text")
        return np.dtype(name)


class _Array:
    """Stands in for an array; its ``value`` comes with its state: version, shape, dtype, Fortran, bytes."""

    def __init__(self, build: Callable[[bytes, _Dtype, Any, str], Any]) -> None:
        self._build = build

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        self.value = self._build(data, dtype, shape, "F" if fortran else "C")


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


class _Unpickler(pickle._Unpickler):
    """In Python, for the memo of the compiled one would hold the bytes of all arrays to the end."""

    memo: dict[int, Any]
    stack: list[Any]
    read: Callable[[int], bytes]

    def __init__(self, file: IO[bytes], keep: Callable[[bytes], Any] | None) -> None:
        super().__init__(file, encoding="bytes")
        self._keep = keep
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
            # How Python 3 writes bytes for Python 2.
            "_codecs.encode": lambda text, encoding: text.encode("latin1"),
            "builtins.bytes": lambda: b"",
        }
        usual = module.replace("numpy._core", "numpy.core").replace("__builtin__", "builtins")
        if f"{usual}.{name}" not in admitted:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, but data needs only containers, text, numbers and arrays; "
                "nothing of it was run"
            )
        return admitted[f"{usual}.{name}"]

    def _build(self, data: bytes, dtype: _Dtype, shape: Any, order: Any) -> Any:
        if self._keep is not None:
            return self._keep(data)
        return np.frombuffer(data, dtype.dtype()).reshape(tuple(shape), order=order)

    def _scalar(self, dtype: _Dtype, data: bytes) -> Any:
        return np.frombuffer(data, dtype.dtype())[0].item()

    def _from_buffer(self, *given: Any) -> _Array:
        array = _Array(self._build)
        array.value = self._build(*given)
        return array

    def load_bytearray(self) -> None:
        """Arrays that may be written have their bytes in one; it is read-only here, and not copied."""
        (length,) = struct.unpack("<Q", self.read(8))
        self.stack.append(self.read(length))

    def load_state(self) -> None:
        """Only the stand-ins have one: nothing else is to be changed."""
        state = self.stack.pop()
        self.stack[-1].__setstate__(state)

    dispatch: ClassVar[dict[int, Any]] = pickle._Unpickler.dispatch | {
        pickle.BYTEARRAY8[0]: load_bytearray,
        pickle.BUILD[0]: load_state,
    }


def _plain(value: Any, done: dict[int, Any]) -> Any:
    """Byte strings as str, and arrays in place of their stand-ins, all the way down.

    What is referred to several times is converted once and stays shared: ``done`` has it by its id.
    """
    if id(value) in done:
        return done[id(value)]
    plain = value
    if isinstance(value, bytes):
        plain = _text(value)
    elif isinstance(value, _Array):
        plain = value.value
    elif isinstance(value, dict):
        plain = {_plain(key, done): _plain(item, done) for key, item in value.items()}
    elif isinstance(value, (list, tuple)):
        plain = type(value)(_plain(item, done) for item in value)
    elif not (value is None or isinstance(value, (int, float, str))):
        raise pickle.UnpicklingError(f"it holds a {type(value).__name__}, which is no data")
    done[id(value)] = plain
    return plain
