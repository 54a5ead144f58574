"""The package as sources: not built, built but not installed, and what a build says that cannot work."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from srwm._cy import backend, processor

ROOT = Path(__file__).parents[1]

CALL = "import numpy as np, srwm; print(srwm.forward(np.ones((2, 1)), np.ones((1, 7))).shape)"


def copy_of_srwm(folder: Path, *without: str) -> Path:
    ignored = shutil.ignore_patterns("__pycache__", "*.c", *without)
    shutil.copytree(ROOT / "srwm", folder / "srwm", ignore=ignored)
    return folder


def python(folder: Path, program: str) -> subprocess.CompletedProcess[str]:
    """Run a program with the srwm of a folder, and no other package but NumPy: none is installed."""
    others = folder / "others"
    others.mkdir()
    for path in Path(np.__file__).parents[1].glob("numpy*"):
        if path.suffix != ".dist-info":
            (others / path.name).symlink_to(path)
    return subprocess.run(
        [sys.executable, "-S", "-c", program],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (folder, others)))},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_built_tree_needs_no_installation(tmp_path):
    run = python(copy_of_srwm(tmp_path), f"import srwm; srwm.show_config(); {CALL}")
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("srwm 0.1.0\n")
    assert run.stdout.endswith("(2, 1)\n")


def test_import_does_not_look_for_metadata(tmp_path):
    program = "import sys, srwm; assert srwm.__version__; print('importlib.metadata' in sys.modules)"
    assert python(copy_of_srwm(tmp_path), program).stdout == "False\n"


REMEDY = "build them with `pip install -e .` in the checkout"


@pytest.mark.parametrize(
    ("program", "error"),
    [
        (CALL, "ImportError: "),
        (CALL.replace("))).", ")), backend='cython')."), "ImportError: "),
        (CALL.replace("))).", ")), backend='reference')."), "ImportError: "),
        ("import srwm; srwm.free_memory()", "ImportError: "),
        ("import srwm._cy.backend", "ImportError: "),
        ("import srwm._cy.recycled", "ImportError: "),
    ],
)
def test_sources_without_kernels_say_so_in_one_line(tmp_path, program, error):
    run = python(copy_of_srwm(tmp_path, "*.so", "*.pyd"), program)
    last = run.stderr.splitlines()[-1]
    assert run.returncode == 1
    assert last.startswith(error)
    assert last.count(f"srwm's kernels are not built in {tmp_path / 'srwm'}: {REMEDY}") == 1


def test_sources_without_kernels_import_and_show_what_is_wrong(tmp_path):
    run = python(copy_of_srwm(tmp_path, "*.so", "*.pyd"), "import srwm; srwm.show_config()")
    assert run.returncode == 0, run.stderr
    lines = {line.partition(": ")[0]: line.partition(": ")[2] for line in run.stdout.splitlines()}
    assert REMEDY in lines["backend cython"]
    assert REMEDY in lines["backend cuda"]
    assert REMEDY in lines["backend reference"]
    assert "threads" not in lines


def failed_build(folder: Path, **environment: str) -> str:
    """The last line of a build that fails before anything is translated to C."""
    copy_of_srwm(folder, "*.so", "*.pyd")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    run = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--inplace"],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode != 0
    assert not list(folder.rglob("*.c"))
    return run.stderr.splitlines()[-1]


def test_no_compiler_is_one_line(tmp_path):
    line = failed_build(tmp_path, CC="/nonexistent/cc")
    assert line.startswith("error: srwm's kernels need a C compiler, and none works (")
    assert "'/nonexistent/cc'" in line
    assert "apt-get install gcc" in line


def test_no_headers_is_one_line(tmp_path):
    compiler = tmp_path / "cc"
    compiler.write_text(
        '#!/bin/sh\nfor a; do case "$a" in *.c) grep -q Python.h "$a" && exit 1; esac; done\n'
        f'exec {sysconfig.get_config_var("CC") or "cc"} "$@"\n'
    )
    compiler.chmod(0o755)
    line = failed_build(tmp_path, CC=str(compiler))
    assert line.startswith("error: srwm's kernels need Python.h, and none is found (")
    assert str(compiler) in line
    assert "apt-get install python3-dev" in line


MODULES = [
    Path(path) for path in (ROOT / "srwm/_cy").glob("*" + str(sysconfig.get_config_var("EXT_SUFFIX")))
]


def test_modules_hold_no_debug_information():
    assert len(MODULES) >= 7
    for path in MODULES:
        assert b"debug_info" not in path.read_bytes(), path.name


def test_a_module_knows_whether_it_has_openmp(monkeypatch):
    for path in MODULES:
        if "_f" in path.name:
            content = path.read_bytes()
            assert (b"GOMP_" in content or b"__kmpc_" in content) == processor.has_openmp()
    monkeypatch.setattr(processor, "has_openmp", lambda: False)
    assert backend.configuration()["threads"] == "1, for want of OpenMP"
    assert backend.configuration()["OpenMP"].startswith("no")


def test_instruction_set_is_shown(monkeypatch):
    best = backend.instruction_set()
    assert backend.configuration()["instruction set"] == best
    monkeypatch.setenv("SRWM_INSTRUCTION_SET", "baseline")
    backend.instruction_set.cache_clear()
    assert backend.configuration()["instruction set"] == "baseline (asked for by SRWM_INSTRUCTION_SET)"
    monkeypatch.setenv("SRWM_INSTRUCTION_SET", "")  # an empty variable is none
    backend.instruction_set.cache_clear()
    assert backend.configuration()["instruction set"] == best
    backend.instruction_set.cache_clear()
