"""Tests the package as a user gets it: sdist, a wheel built from that sdist, a clean environment.

    python tests/installed_wheel.py [pytest's options]

Run by `make test-all`. The operator's tests run from a temporary folder, where `import srwm` can find
nothing but the wheel; torch is not installed there, so srwm is shown to work without it. Not named
test_*.py: it starts pytest itself, and needs a compiler and minutes.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONSTRAINTS = ROOT / "constraints.txt"

# Everything in tests/ is the operator's, but:
NOT_THE_OPERATORS = (
    "examples",  # the training programs are not in the wheel
    "benchmarks",  # nor are these
    "nn",  # the layers need torch
    "test_build.py",  # read the checkout's sources
    "test_imports.py",
    "test_operators.py",
    "test_counts.py",
    "counts.py",
    "lines_of_operators.py",
    "distributed.py",  # these need torch
    "programs.py",
    "tensors.py",
    "test_distributed.py",
    "test_forks.py",
    "test_new_operator.py",
    "test_torch.py",
    "test_torch_on_cuda.py",
    "test_transforms.py",
    "installed_wheel.py",
    "__pycache__",
)

# What a build leaves in a checkout, and what has no part in one. A build would pick up stale
# sources by the egg-info's list of them, so it gets a copy that is as clean as a fresh clone.
NOT_SOURCES = (".*", "*.c", "*.egg-info", "*.pyd", "*.so", "__pycache__", "build", "dist", "runs")

EXTENSION_SUFFIX = str(sysconfig.get_config_var("EXT_SUFFIX"))  # .cpython-311-x86_64-linux-gnu.so
EXTENSION = ".so"  # how the lists of files below write it


def run(*command: str | Path, cwd: Path, **environment: str) -> None:
    """Run a command, its output shown; exit with its status if it fails."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    status = subprocess.run(command, cwd=cwd, env=inherited | environment, check=False).returncode
    if status != 0:
        sys.exit(status)


def files_of_wheel(sources: Path) -> set[str]:
    """What a wheel of these sources holds: every file of srwm/, and an extension for each .pyx."""
    files = [path.relative_to(sources) for path in (sources / "srwm").rglob("*") if path.is_file()]
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    extensions = [
        path.with_suffix(EXTENSION)
        for path in files
        if path.suffix == ".pyx" and (is_x86 or not path.name.startswith("avx"))
    ]
    return {path.as_posix() for path in files + extensions}


def build(sources: Path, folder: Path) -> Path:
    """Build the sdist, and from it the wheel."""
    # In an isolated environment, unlike the editable install: what pyproject.toml asks for must do.
    run(
        *(sys.executable, "-m", "build", "--quiet", "--outdir", folder),
        cwd=sources,
        PIP_CONSTRAINT=str(CONSTRAINTS),
    )
    (wheel,) = folder.glob("*.whl")
    return wheel


def check_contents(wheel: Path, expected: set[str]) -> None:
    """Exit unless the wheel holds the expected files, and nothing else."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
    found = {name.replace(EXTENSION_SUFFIX, EXTENSION) for name in names}
    if found != expected:
        sys.exit(
            f"{wheel.name} does not hold what srwm/ does:\n"
            f"  missing: {', '.join(sorted(expected - found)) or 'nothing'}\n"
            f"  too many: {', '.join(sorted(found - expected)) or 'nothing'}"
        )


def install(wheel: Path, folder: Path) -> Path:
    """Install the wheel and what its tests need in a new environment: its interpreter."""
    environment = folder / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=folder)
    python = environment / ("Scripts" if os.name == "nt" else "bin") / "python"
    run(
        *(sys.executable, "-m", "pip", "--python", python),
        *("install", "--quiet", "--disable-pip-version-check", "-c", CONSTRAINTS, f"{wheel}[test]"),
        cwd=folder,
    )
    return python


def run_tests(python: Path, folder: Path) -> None:
    """Run the operator's tests on the installed srwm."""
    outside = folder / "outside"
    shutil.copytree(ROOT / "tests", outside / "tests", ignore=shutil.ignore_patterns(*NOT_THE_OPERATORS))
    shutil.copy(ROOT / "pyproject.toml", outside)  # pytest's settings
    check = (
        "import importlib.util, sys, srwm\n"
        "if not srwm.__file__.startswith(sys.prefix): sys.exit(srwm.__file__ + ' was imported')\n"
        "if importlib.util.find_spec('torch'): sys.exit('torch is in the clean environment')\n"
        "print('Testing', srwm.__file__, flush=True)"
    )
    run(python, "-c", check, cwd=outside)
    run(python, "-m", "pytest", "tests", *sys.argv[1:], cwd=outside)


def main() -> None:
    """Build, look inside, install, test."""
    with tempfile.TemporaryDirectory(prefix="srwm-wheel-") as name:
        folder = Path(name).resolve()
        sources = folder / "sources"
        shutil.copytree(ROOT, sources, ignore=shutil.ignore_patterns(*NOT_SOURCES))
        expected = files_of_wheel(sources)  # before the build leaves its own files there
        wheel = build(sources, folder / "dist")
        check_contents(wheel, expected)
        run_tests(install(wheel, folder), folder)


if __name__ == "__main__":
    main()
