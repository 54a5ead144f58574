"""Builds every extension module for 64-bit Windows with mingw-w64, on Linux: that it compiles and links.

    python tests/mingw.py

Run by `make mingw`, which installs the compiler where root may. The modules are built by setup.py itself,
with the flags that it gives MinGW, against the headers of the Python that runs this, read as on Windows:
with a pyconfig.h of its kind, and an import library of what those headers say that Python's DLL exports.
Not shown: that the modules run, or that Microsoft's compiler builds them. Not named test_*.py: it needs a
cross compiler and minutes.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
TARGET = "x86_64-w64-mingw32"
BUILT = ("setup.py", "pyproject.toml", "README.md", "LICENSE")

# What PC/pyconfig.h of Python's sources says for 64-bit Windows, as far as its headers ask.
PYCONFIG = """
#define MS_WIN32
#define MS_WIN64
#define MS_WINDOWS
#define NT_THREADS
#define WITH_THREAD 1
#define Py_ENABLE_SHARED 1
#define HAVE_DECLSPEC_DLL
#define HAVE_DYNAMIC_LOADING
#define PLATFORM "win32"
#define SIZEOF_SHORT 2
#define SIZEOF_INT 4
#define SIZEOF_LONG 4
#define SIZEOF_LONG_LONG 8
#define SIZEOF_FLOAT 4
#define SIZEOF_DOUBLE 8
#define SIZEOF_VOID_P 8
#define SIZEOF_SIZE_T 8
#define SIZEOF_TIME_T 8
#define SIZEOF_WCHAR_T 2
#define SIZEOF_PID_T 8
#define SIZEOF_OFF_T 4
#define SIZEOF_FPOS_T 8
#define ALIGNOF_SIZE_T 8
#define ALIGNOF_MAX_ALIGN_T 8
#define HAVE_LONG_LONG 1
#define HAVE_UINTPTR_T 1
#define HAVE_STDINT_H 1
#define HAVE_STDDEF_H 1
#define HAVE_SYS_TYPES_H 1
#define HAVE_SYS_STAT_H 1
#define HAVE_ERRNO_H 1
#define HAVE_WCHAR_H 1
#define DOUBLE_IS_LITTLE_ENDIAN_IEEE754 1
#define Py_NO_LINK_LIB
#include <stdint.h>
"""


def run(*command: str | Path, cwd: Path, **environment: str) -> None:
    """Run a command; exit with its status if it fails."""
    status = subprocess.run(command, cwd=cwd, env=os.environ | environment, check=False).returncode
    if status != 0:
        sys.exit(status)


def windows_headers(folder: Path) -> None:
    """Python's headers with the pyconfig.h of Windows."""
    shutil.copytree(sysconfig.get_path("include"), folder)
    (folder / "pyconfig.h").write_text(PYCONFIG)


def import_library(headers: Path, folder: Path) -> str:
    """The name of an import library of all that the headers declare to be exported."""
    exported = {
        name: kind
        for path in headers.rglob("*.h")
        for kind, name in re.findall(
            r"PyAPI_(FUNC|DATA)\([^;{]*?\)\s*\**\s*(?:_Py_NO_RETURN\s+)?(\w+)",
            path.read_text(encoding="utf-8"),
        )
    }
    library = f"python{sys.version_info.major}{sys.version_info.minor}"
    lines = [f"{name} DATA" if kind == "DATA" else name for name, kind in sorted(exported.items())]
    (folder / "python.def").write_text("\n".join(["EXPORTS", *lines]) + "\n")
    run(
        f"{TARGET}-dlltool",
        *("-d", "python.def", "-D", f"{library}.dll", "-l", f"lib{library}.dll.a"),
        cwd=folder,
    )
    return library


def imports(module: Path) -> set[str]:
    """The libraries that a module asks Windows for."""
    command = [f"{TARGET}-objdump", "-p", str(module)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"DLL Name: (\S+)", text))


def main() -> None:
    """Build all modules, and look at what came out."""
    if shutil.which(f"{TARGET}-gcc") is None:
        sys.exit(
            f"{TARGET}-gcc is not here; install mingw-w64 (Debian: apt-get install gcc-mingw-w64-x86-64)"
        )
    with tempfile.TemporaryDirectory(prefix="srwm-mingw-") as name:
        folder = Path(name)
        shutil.copytree(
            ROOT / "srwm", folder / "srwm", ignore=shutil.ignore_patterns("*.c", "*.so", "__pycache__")
        )
        for file in BUILT:
            shutil.copy(ROOT / file, folder)
        headers = folder / "include"
        windows_headers(headers)
        library = import_library(headers, folder)
        run(
            *(
                sys.executable,
                "setup.py",
                "--quiet",
                "build_ext",
                "--compiler=mingw32",
                "--build-lib=windows",
            ),
            *("--include-dirs=include", "--library-dirs=.", f"--libraries={library}"),
            cwd=folder,
            CC=f"{TARGET}-gcc",
            LDSHARED=f"{TARGET}-gcc -shared",
            SRWM_BUILD_INSTRUCTION_SETS="baseline,avx2,avx512",
        )
        modules = sorted((folder / "windows").rglob("*.so"))  # their names are this system's
        wanted = {path.stem for path in (ROOT / "srwm" / "_cy").glob("*.pyx")}
        assert {path.name.partition(".")[0] for path in modules} == wanted, modules
        for module in modules:
            libraries = imports(module)
            assert f"{library}.dll" in libraries, (module, libraries)
            sys.stdout.write(f"{module.name.partition('.')[0]}: {', '.join(sorted(libraries))}\n")


if __name__ == "__main__":
    main()
