"""Pickles of published data sets, read without running anything that they ask for.

A pickle is a program: it may name any function of any module and have it called. The files here
need only plain containers, text, numbers and NumPy arrays; the names that Python 2, Python 3 and
the versions of NumPy use for those are answered by stand-ins of this module, and every other name
is refused before anything behind it is imported.
"""

from __future__ import annotations

import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

_NUMBERS_OR_TEXT = re.compile(r"[biufSU]\d+")
_LONG = 256  # bytes; what is longer is no name or key
_FAILURES = (  # what an unpickler raises on bytes that are no pickle
    pickle.UnpicklingError,
    AttributeError,
    EOFError,
    IndexError,
    KeyError,
    OverflowError,
    RecursionError,
    struct.error,
    TypeError,
    UnicodeDecodeError,
    ValueError,
)


def load_pickle(operation: str, path: Path) -> Any:
    """The content of a pickle: containers, numbers, str, and read-only arrays.

    Byte strings become str (Python 2 wrote names and keys as such), by Latin-1.

    Raises
    ------
    FileNotFoundError : if there is no such file.
    ValueError : if it is cut short, no pickle, or asks for anything but plain data.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "labels.pkl")
    ...     _ = path.write_bytes(pickle.dumps({b"labels": np.arange(3)}, protocol=2))
    ...     load_pickle("example", path)
    {'labels': array([0, 1, 2])}
    """
    with path.open("rb") as file:
        try:
            return _plain(_Unpickler(file, encoding="bytes").load())
        except _FAILURES as error:
            raise _refusal(operation, path, error) from error


def stream_arrays(operation: str, path: Path, keep: Callable[[bytes], Any]) -> Any:
    """As `load_pickle`, but of every array only ``keep(its bytes)`` is kept, called as it is read.

    For files larger than the memory; with a progress bar.
    """
    with (
        path.open("rb") as file,
        tqdm.wrapattr(file, "read", path.stat().st_size, desc=f"reading {path.name}") as watched,
    ):
        try:
            return _plain(_StreamingUnpickler(watched, keep).load())
        except _FAILURES as error:
            raise _refusal(operation, path, error) from error


def _refusal(operation: str, path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{operation}: cannot read {str(path)!r} ({type(error).__name__}: {error}); it is damaged or not "
        "the published file: delete it and fetch it again"
    )


class _Dtype:
    """Stands in for numpy.dtype, for numbers and text only."""

    def __init__(self, kind: bytes | str, *_: object) -> None:
        self.kind = kind.decode("latin1") if isinstance(kind, bytes) else kind
        self.order = "="
        if not _NUMBERS_OR_TEXT.fullmatch(self.kind):
            raise pickle.UnpicklingError(f"it has an array of type {self.kind!r}, not of numbers or text")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = state[1].decode("latin1") if isinstance(state[1], bytes) else state[1]
        if order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError(f"it has an array of byte order {order!r}")
        self.order = order

    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.order + self.kind)


class _Array:
    """Stands in for an array under construction; its state is (version, shape, dtype, Fortran, bytes)."""

    value: Any = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        self.value = self.build(data, dtype, shape, "F" if fortran else "C")

    def build(self, data: bytes, dtype: _Dtype, shape: tuple[int, ...], order: Any) -> Any:
        return np.frombuffer(data, dtype.dtype()).reshape(shape, order=order)


def _scalar(dtype: _Dtype, data: bytes) -> Any:
    return np.frombuffer(data, dtype.dtype())[0].item()


def _encode(text: str, encoding: str | bytes) -> bytes:
    """How Python 3 writes bytes for Python 2."""
    if encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError(f"it has bytes in the encoding {encoding!r}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


def _stand_in(module: str, name: str, array: Callable[[], _Array]) -> Any:
    def reconstruct(*_: object) -> _Array:
        return array()

    def from_buffer(data: bytes, dtype: _Dtype, shape: tuple[int, ...], order: str) -> _Array:
        built = array()
        built.value = built.build(data, dtype, shape, order)
        return built

    if module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        admitted: dict[str, Any] = {"_reconstruct": reconstruct, "scalar": _scalar}
    elif module in ("numpy.core.numeric", "numpy._core.numeric"):
        admitted = {"_frombuffer": from_buffer}
    elif module == "numpy":
        admitted = {"ndarray": _Array, "dtype": _Dtype}
    elif module == "_codecs":
        admitted = {"encode": _encode}
    elif module in ("__builtin__", "builtins"):
        admitted = {"bytes": _no_bytes}
    else:
        admitted = {}
    if name not in admitted:
        raise pickle.UnpicklingError(
            f"it asks for {module}.{name}, but data needs only containers, text, numbers and arrays; "
            "nothing of it was run"
        )
    return admitted[name]


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return _stand_in(module, name, _Array)


class _Memo(dict[int, Any]):
    """What a pickle may refer back to, without the arrays' bytes, to which it never does."""

    def __setitem__(self, key: int, value: Any) -> None:
        super().__setitem__(key, None if _holds_data(value) else value)


def _holds_data(value: Any) -> bool:
    """Whether this is an array's bytes, as bytes or text, or the state of an array with them."""
    if isinstance(value, tuple):
        return any(map(_holds_data, value))
    return isinstance(value, (bytes, bytearray, str)) and len(value) > _LONG


class _StreamingUnpickler(pickle._Unpickler):
    """In Python, because the memo of the compiled one would hold every array's bytes to the end."""

    memo: dict[int, Any]

    def __init__(self, file: Any, keep: Callable[[bytes], Any]) -> None:
        super().__init__(file, encoding="bytes")
        self.memo = _Memo()

        class Kept(_Array):
            def build(self, data: bytes, *_: object) -> Any:
                return keep(data)

        self._array = Kept

    def find_class(self, module: str, name: str) -> Any:
        return _stand_in(module, name, self._array)


def _plain(value: Any) -> Any:
    """Byte strings as str, and arrays in place of their stand-ins, all the way down."""
    if isinstance(value, bytes):
        return value.decode("latin1")
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, tuple):
        return tuple(_plain(item) for item in value)
    return value
