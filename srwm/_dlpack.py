"""Arrays of any library to the backends' own and back, without a copy: the only from_dlpack calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

# Device types of the DLPack standard.
CPU, CUDA, CUDA_HOST, CUDA_MANAGED = 1, 2, 3, 13
_NAMES = {CPU: "cpu", CUDA: "cuda", CUDA_HOST: "cuda", CUDA_MANAGED: "cuda"}


def device_of(a: Any) -> tuple[str, int]:
    """("cpu" | "cuda" | "DLPack device type n", index) of an array."""
    kind, index = a.__dlpack_device__()
    return _NAMES.get(int(kind), f"DLPack device type {int(kind)}"), int(index)


def _refused(op: str, argument: str, a: Any, library: str, refusal: Exception) -> TypeError:
    return TypeError(
        f"{op}: {argument}: expected an array that DLPack can share with {library}, got "
        f"{type(a).__module__}.{type(a).__qualname__} of dtype {a.dtype}, which refuses: {refusal}"
    )


def to_numpy(op: str, argument: str, a: Any) -> np.ndarray:
    """A NumPy view of a CPU array's memory; TypeError where its library cannot export it."""
    try:
        return np.from_dlpack(a)
    except (BufferError, RuntimeError, TypeError) as refusal:
        raise _refused(op, argument, a, "NumPy", refusal) from refusal


def from_numpy(a: np.ndarray, like: Any) -> Any:
    """`a` as an array of the library of `like`, sharing its memory where that library can."""
    return like.__array_namespace__().from_dlpack(a)


def to_cupy(op: str, argument: str, a: Any) -> Any:
    """A CuPy view of a CUDA array's memory, in CuPy's current stream, which waits for the array's."""
    import cupy

    if isinstance(a, cupy.ndarray):
        return a
    try:
        return cupy.from_dlpack(a)
    except (BufferError, RuntimeError, TypeError, ValueError) as refusal:
        raise _refused(op, argument, a, "CuPy", refusal) from refusal


@contextmanager
def torch_on_cupy(device: Any) -> Iterator[None]:
    """CuPy on torch's device of that kind, in torch's current stream, with torch's memory.

    So nothing waits, PyTorch's own accounting sees every array, and a CUDA graph can be captured.
    """
    import cupy
    import torch

    def allocate(size: int) -> Any:
        memory = torch.empty(size, dtype=torch.uint8, device=device)
        # The device is said, as CuPy cannot tell it from the null pointer of an empty tensor.
        owned = cupy.cuda.UnownedMemory(memory.data_ptr(), size, memory, device.index)
        return cupy.cuda.MemoryPointer(owned, 0)

    stream = torch.cuda.current_stream(device)
    same_stream = (
        cupy.cuda.Stream.from_external(stream)
        if hasattr(stream, "__cuda_stream__")
        else cupy.cuda.ExternalStream(stream.cuda_stream, device.index)
    )
    with cupy.cuda.Device(device.index), same_stream, cupy.cuda.using_allocator(allocate):
        yield


class _Exported:
    """A CUDA tensor's memory under the DLPack protocol, for a consumer in torch's own current stream.

    `Tensor.__dlpack__` is written in Python and asks for streams that nobody waits for: it takes ten times
    as long, several times for every call.
    """

    def __init__(self, tensor: Any) -> None:
        self._tensor = tensor

    def __dlpack__(self, **options: Any) -> Any:
        import torch

        del options  # the stream is the same, and nothing is copied
        return torch.utils.dlpack.to_dlpack(self._tensor)  # type: ignore[attr-defined]  # torch's, not in its __all__

    def __dlpack_device__(self) -> tuple[int, int]:
        return CUDA, self._tensor.device.index


def cupy_of_tensor(tensor: Any) -> Any:
    """A CuPy view of a CUDA tensor, in torch's current stream; one of bfloat16, which CuPy lacks, as int16.

    Within `torch_on_cupy`.
    """
    import cupy
    import torch

    tensor = tensor.resolve_neg()
    return cupy.from_dlpack(
        _Exported(tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor)
    )


def tensor_of_cupy(a: Any) -> Any:
    """A tensor view of a CuPy array, within `torch_on_cupy`; one of int16 is bfloat16."""
    import torch

    tensor = torch.utils.dlpack.from_dlpack(a.__dlpack__(stream=-1))  # the same stream: nothing to wait for
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.int16 else tensor
