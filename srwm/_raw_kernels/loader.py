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
_VERSION = re.compile(rb"#define CUDART_VERSION\s+(\d+)")


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
    """The option for the headers of half types: those of NVRTC's own version, or else of the nearest.

    CUDA promises nothing for other versions. All from 12.0 to 13.5 were seen to compile with each NVRTC.
    CuPy adds a folder of its own behind it: the first that it finds, of whatever version. With the wheels
    of CUDA 12 and 13 side by side that is the one of CUDA 13, also where it loads NVRTC 12.
    """
    import cupy

    major, minor = cupy.cuda.nvrtc.getVersion()
    wheels, toolkit = find_spec("nvidia"), cupy.cuda.get_cuda_path()
    in_wheels = "cuda_runtime" if major < 13 else f"cu{major}"
    roots = [Path(folder, in_wheels) for folder in (wheels and wheels.submodule_search_locations) or ()]
    folders = [root / "include" for root in (*roots, *([Path(toolkit)] if toolkit else []))]
    distance = {f: abs(_version(f) - 1000 * major - 10 * minor) for f in folders if _version(f)}
    return (f"-I{min(distance, key=distance.__getitem__)}",) if distance else ()


def _version(folder: Path) -> int:
    """The version of CUDA whose headers are in a folder, 12090 for 12.9; 0 where there are none."""
    header = folder / "cuda_runtime_api.h"
    found = _VERSION.search(header.read_bytes()) if header.is_file() else None
    return int(found[1]) if found else 0


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
            f"got one that is new to this process on device {device}; call srwm.warmup(D, Do, dtype) there "
            "before, or make the same call once"
        )
    module = cupy.RawModule(code=source(config.kernel), options=options(config))
    kernel = module.get_function(config.kernel)
    dynamic = config.dynamic_bytes + config.cached_bytes
    if config.shared_bytes + dynamic > launch.SHARED_BYTES:  # more than usual must be requested
        kernel.max_dynamic_shared_size_bytes = dynamic
    return _loaded.setdefault((config, device), kernel)  # another thread's, if that was first
