"""Compiles CUDA text to kernels; nothing else does. CuPy caches compiled kernels, also on disk.

The folder is that of CuPy: `CUPY_CACHE_DIR`, by default ~/.cupy/kernel_cache.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from srwm._cy import launch

FOLDER = Path(__file__).parent
STANDARD = "-std=c++17"
_INCLUDE = re.compile(r'#include "(.+)"')


@cache
def source(kernel: str) -> str:
    """The text of a kernel including its headers. CuPy's cache compares only this text."""
    return "\n".join(_lines(f"{kernel}.cu", set())) + "\n"


def _lines(name: str, seen: set[str]) -> list[str]:
    """The lines of a file, with each header included once. Compiler messages name file and line."""
    seen.add(name)
    lines = [f'#line 1 "{name}"']
    for number, line in enumerate((FOLDER / name).read_text(encoding="utf-8").splitlines(), 1):
        header = _INCLUDE.match(line)
        if header is None:
            lines.append(line)
        elif header[1] not in seen:
            lines += [*_lines(header[1], seen), f'#line {number + 1} "{name}"']
        else:
            lines.append("")
    return lines


@cache
def headers() -> tuple[str, ...]:
    """Options for the headers of half types: in the wheel nvidia-cuda-runtime-cu12, or where CuPy looks."""
    found = find_spec("nvidia.cuda_runtime") if find_spec("nvidia") else None
    folders = [] if found is None else list(found.submodule_search_locations or [])
    return tuple(f"-I{Path(folder) / 'include'}" for folder in folders)


def options(config: launch.Config) -> tuple[str, ...]:
    """The NVRTC options for a config."""
    return (STANDARD, *config.options, *headers())


@cache
def limits(device: int) -> launch.Limits:
    """The limits of the device with this index."""
    import cupy

    of = cupy.cuda.Device(device).attributes
    return launch.Limits(
        of["MaxThreadsPerBlock"],
        of["MaxSharedMemoryPerBlockOptin"],
        of["MaxRegistersPerBlock"],
        of["MaxThreadsPerMultiProcessor"],
        of["MultiProcessorCount"],
    )


# Kernels are compiled for each device.
_loaded: dict[tuple[launch.Config, int], Any] = {}


def function(config: launch.Config, device: int, stream: int) -> Any:
    """The kernel of a config on the current device, which must have this index; compiled and loaded once.

    Raises RuntimeError for one that is not loaded yet while `stream` is captured: CUDA would refuse the
    load, and end the capture.
    """
    import cupy

    kernel = _loaded.get((config, device))
    if kernel is not None:
        return kernel
    if cupy.cuda.runtime.streamIsCapturing(stream):
        raise RuntimeError(
            f"{config.kernel}: expected a kernel that was loaded before the capture of a CUDA graph began, "
            "got one that this process has not used yet; call srwm.warmup(D, Do, dtype) before, or make "
            "the same call once"
        )
    module = cupy.RawModule(code=source(config.kernel), options=options(config))
    kernel = module.get_function(config.kernel)
    dynamic = config.dynamic_bytes + config.cached_bytes
    if config.shared_bytes + dynamic > launch.SHARED_BYTES:  # more than usual must be requested
        kernel.max_dynamic_shared_size_bytes = dynamic
    _loaded[config, device] = kernel
    return kernel
