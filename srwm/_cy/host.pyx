"""The library of NumPy arrays, see run.pyx. Results and working memory are recycled (recycled.pyx)."""

from contextlib import nullcontext

import numpy as np

from srwm._cy.exchange import addresses_of_numpy, of_numpy
from srwm._cy.recycled import empty, room
from srwm._threads import default_threads

cdef dict DTYPES = {name: np.dtype(name) for name in ("float16", "float32", "float64", "uint8")}


def dtype_of(str name, like):
    """A dtype by name. NumPy has no bfloat16: then the dtype of an operand."""
    return DTYPES.get(name) or like.dtype


class Host:
    """The functions that a library has."""

    @staticmethod
    def read(tuple arrays):
        return of_numpy(arrays, np.ndarray)

    @staticmethod
    def addresses(tuple arrays):
        return addresses_of_numpy(arrays)

    @staticmethod
    def empty(tuple shape, str dtype, like):
        return empty(shape, dtype_of(dtype, like))

    @staticmethod
    def empty_like(like):
        return empty(like.shape, like.dtype)

    threads = staticmethod(default_threads)

    @staticmethod
    def stream(like):
        return 0

    @staticmethod
    def room(like):
        return room

    copy = staticmethod(np.copy)
    own_precision = staticmethod(nullcontext)
