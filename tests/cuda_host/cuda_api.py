"""Puts cuda_api.pyx in the place of CUDA under CuPy, so that CuPy itself runs without a device.

`install()` does it for the rest of the process, before CuPy is imported: its modules then find these
functions where they look for CUDA's.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

SOURCE = Path(__file__).with_suffix(".pyx")


def built(folder: Path) -> Path:
    """The compiled module in `folder`; compiled once for each text and Python."""
    import Cython

    of = "\0".join((SOURCE.read_text(encoding="utf-8"), sys.version, Cython.__version__))
    path = folder / f"cuda_api_{hashlib.sha256(of.encode()).hexdigest()[:32]}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            shutil.copy(SOURCE, scratch)
            command = [sys.executable, "-m", "Cython.Build.Cythonize", "-i", "-q", SOURCE.name]
            done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise RuntimeError(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
            # At once: another process may want it too.
            Path(scratch, f"cuda_api{sysconfig.get_config_var('EXT_SUFFIX')}").replace(path)
    return path


def _loaded(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("cuda_api", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _signature(capsule: Any) -> bytes:
    name = ctypes.pythonapi.PyCapsule_GetName
    name.restype, name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    return name(capsule)


def install(folder: Path) -> Any:
    """CUDA as CuPy calls it, from now on; `folder` keeps what is compiled."""
    if "cupy" in sys.modules:
        raise RuntimeError("cuda_api.install: expected to come before CuPy, which is here; call it first")
    api = _loaded(built(folder))
    placed = set()
    for name in ("runtime", "driver"):  # the driver's module imports the runtime's functions
        module = importlib.import_module(f"cupy_backends.cuda.api.{name}")
        theirs = module.__pyx_capi__
        for function in api.__pyx_capi__.keys() & theirs.keys():
            mine = api.__pyx_capi__[function]
            if _signature(mine) != _signature(theirs[function]):
                raise RuntimeError(
                    f"cuda_api.{function}: expected CuPy's signature {_signature(theirs[function])!r}, got "
                    f"{_signature(mine)!r}; change cuda_api.pyx"
                )
            theirs[function] = mine
            if hasattr(module, function):
                setattr(module, function, getattr(api, function))
            placed.add(function)
    missing = api.__pyx_capi__.keys() - placed
    if missing:
        raise RuntimeError(f"cuda_api: expected functions of CuPy's, got {sorted(missing)}; remove them")
    return api
