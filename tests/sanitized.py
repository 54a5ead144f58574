"""Tests the baseline kernels under AddressSanitizer and UndefinedBehaviorSanitizer.

    python tests/sanitized.py [pytest's options]

Run by `make sanitize`, twice: as GCC and Clang compile the kernels, and with vectors of one lane, as any
other compiler does. What the sanitizers find ends the run. Not named test_*.py: it starts pytest itself,
and needs GCC and minutes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
COMPILER = "gcc"
SANITIZERS = "-fsanitize=address,undefined -fno-sanitize-recover=all"
BUILT = ("setup.py", "pyproject.toml", "README.md", "LICENSE")
TESTS = ("addresses", "alignment", "groups", "growth", "halves", "kernels", "layouts", "state")
# These instruction sets are not built, and this test wants the best.
NOT_BUILT = "not avx2 and not avx512 and not best_instruction_set and not asked_for_by_name"


def run(folder: Path, *command: str, **environment: str) -> None:
    """Run a command there; exit with its status if it fails."""
    status = subprocess.run(command, cwd=folder, env=os.environ | environment, check=False).returncode
    if status != 0:
        sys.exit(status)


def library(name: str) -> str:
    """The path of a sanitizer's library, which has to be loaded before Python."""
    command = [COMPILER, f"-print-file-name={name}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    """Build and test, with vectors of this compiler and of one lane."""
    with tempfile.TemporaryDirectory(prefix="srwm-sanitized-") as name:
        folder = Path(name)
        for tree in ("srwm", "tests"):
            ignored = shutil.ignore_patterns("*.c", "*.so", "__pycache__", "examples", "benchmarks")
            shutil.copytree(ROOT / tree, folder / tree, ignore=ignored)
        for file in BUILT:
            shutil.copy(ROOT / file, folder)
        for macros, tests_of_lanes in (("", ""), ("-DSRWM_ONE_LANE", " and not layouts")):
            run(
                folder,
                *(sys.executable, "setup.py", "--quiet", "build_ext", "--inplace", "--force"),
                CC=f"{COMPILER} {SANITIZERS} {macros}",
                SRWM_BUILD_INSTRUCTION_SETS="baseline",
            )
            wanted = NOT_BUILT + tests_of_lanes
            tests = [f"tests/cy/test_{name}.py" for name in TESTS]
            run(
                folder,
                # Their reports go to the terminal past Python, where pytest must not catch them.
                *(sys.executable, "-m", "pytest", "--capture=sys", "-k", wanted, *tests, *sys.argv[1:]),
                LD_PRELOAD=f"{library('libasan.so')} {library('libubsan.so')}",
                ASAN_OPTIONS="detect_leaks=0",  # Python's own
                UBSAN_OPTIONS="print_stacktrace=1",
                SRWM_INSTRUCTION_SET="baseline",
                PYTHONPATH=str(folder),
            )


if __name__ == "__main__":
    main()
