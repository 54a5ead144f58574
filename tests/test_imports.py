"""Which module may import which: the layers of the package, read from the source text."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from srwm.operators.table import OPERATORS

ROOT = Path(__file__).parents[1]

# From top to bottom: a module imports from its own row and from rows below it. A row is a module,
# or a folder with all that is in it (only the first `srwm` is srwm/__init__.py alone). Beside each
# row: the packages it may import beyond the standard library and NumPy; None: whatever it wants.
# A table of modules to import by name is an import too: front ends and backends load when they are needed.
LAYERS: dict[str, set[str] | None] = {
    "examples": None,
    "benchmarks": None,
    "srwm": set(),
    "srwm.nn": {"torch"},
    "srwm.torch_operators": set(),
    "srwm.sum_rule": set(),
    "srwm.delta": set(),
    "srwm.recurrent_delta": set(),
    "srwm.delta_rnn": set(),
    "srwm.self_modifying": set(),
    "srwm._config": set(),
    "srwm._memory": set(),
    "srwm.operators": set(),
    "srwm._call": set(),
    "srwm._numpy": {"cupy"},
    "srwm._dlpack": {"cupy"},
    "srwm._torch": {"torch"},
    "srwm._torch_operator": {"torch"},
    "srwm._torch_kernels": {"torch"},
    "srwm._torch_private": {"torch"},
    "srwm._plan": set(),
    "srwm._dispatch": set(),
    "srwm._raw_kernels": {"cupy"},
    "srwm._cy": {"cython"},
    "srwm.reference": set(),
    "srwm._layouts": set(),
    "srwm._threads": set(),
    "srwm._checks": set(),
    "srwm.operators.spec": set(),
    "srwm._version": set(),
}
ROWS = list(LAYERS)

# What knows arrays and no operator: a further one touches none of these.
NAMES_NO_OPERATOR = (
    "_call",
    "_numpy",
    "_dlpack",
    "_torch",
    "_torch_operator",
    "_torch_kernels",
    "_torch_private",
    "_plan",
    "_dispatch",
    "_layouts",
    "_checks",
    "reference.loop",
    "reference.arrays",
    "reference.functions",
    "reference.backend",
)

OURS = {"srwm", "examples", "benchmarks", "tests"}

SOURCES = sorted(
    path
    for folder in ("srwm", "examples", "benchmarks")
    for pattern in ("*.py", "*.pyx", "*.pxd", "*.pxi")
    for path in (ROOT / folder).rglob(pattern)
)
each_source = pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))


def module_name(path: Path) -> str:
    """The dotted name of a source file, of srwm/__init__.py as of srwm/_cy/kernels.pxi."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path) for path in SOURCES}


def row_of(module: str) -> int | None:
    """The row of LAYERS that a module stands in: of several, the one that names most of it."""
    matching = [e for e in ROWS if module == e or (e != "srwm" and module.startswith(e + "."))]
    return ROWS.index(max(matching, key=len)) if matching else None


def as_module(base: str, name: str) -> str:
    """What `from base import name` imports: the module base.name where there is one, else base."""
    return f"{base}.{name}" if f"{base}.{name}" in MODULES else base


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Each import of a source file, late ones too: (module, whether only type checkers see it)."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield from ((name, False) for name in cython_imports(text))
        return
    tree = ast.parse(text)
    for_types = {
        id(inner)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test).endswith("TYPE_CHECKING")
        for statement in block.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [as_module(base, alias.name) for alias in node.names]
        elif isinstance(node, ast.Constant) and node.value in MODULES and "." in str(node.value):
            names = [str(node.value)]  # in a table of modules to import by name
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            names = [str(name.value) for name in node.args[:1] if isinstance(name, ast.Constant)]
        else:
            continue
        yield from ((name, id(node) in for_types) for name in names)


def cython_imports(text: str) -> Iterator[str]:
    """The modules that a Cython source imports or cimports."""
    for base, names in re.findall(r"^\s*from\s+([\w.]+)\s+c?import\s+([\w, ]+)", text, re.M):
        yield from (as_module(base, name.split()[0]) for name in names.split(","))
    for names in re.findall(r"^\s*c?import\s+([\w., ]+)", text, re.M):
        yield from (name.split()[0] for name in names.split(","))


@each_source
def test_module_has_a_row(path: Path) -> None:
    assert row_of(module_name(path)) is not None, (
        f"{path.relative_to(ROOT)} stands in no row of LAYERS: say there what it may import"
    )


@each_source
def test_imports_point_down(path: Path) -> None:
    own_row = row_of(module_name(path))
    assert own_row is not None
    for imported, _ in imports(path):
        if imported.split(".")[0] in OURS:
            row = row_of(imported)
            assert row is not None, f"{imported}, imported here, stands in no row of LAYERS"
            assert row >= own_row, f"{ROWS[own_row]} stands below {ROWS[row]} and may not import {imported}"


@each_source
def test_imports_only_the_packages_of_its_row(path: Path) -> None:
    row = row_of(module_name(path))
    assert row is not None
    allowed = LAYERS[ROWS[row]]
    if allowed is None:
        return
    # C headers that Cython knows by name need no package.
    allowed = allowed | OURS | {"numpy", "cpython", "libc"} | sys.stdlib_module_names
    roots = {name.split(".")[0] for name, only_for_types in imports(path) if not only_for_types}
    assert not roots - allowed


@pytest.mark.parametrize("module", NAMES_NO_OPERATOR)
def test_what_knows_arrays_names_no_operator(module: str) -> None:
    """Neither by an import, nor by a name or a string, nor by comparing with the name of the first one."""
    path = ROOT.joinpath("srwm", *module.split(".")).with_suffix(".py")
    assert not {name for name, _ in imports(path) if name.startswith("srwm.operators")} - {
        "srwm.operators.spec"
    }
    names = {name for op in OPERATORS for name in (op, op.upper())} - {"srwm"}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        found = {getattr(node, "id", None), getattr(node, "attr", None), getattr(node, "value", None)}
        assert not {a for a in found if isinstance(a, str)} & names, ast.unparse(node)
        if isinstance(node, ast.Compare):
            assert "'srwm'" not in ast.unparse(node), ast.unparse(node)


@pytest.mark.parametrize(
    "path", [path for path in SOURCES if module_name(path).startswith("srwm")], ids=module_name
)
def test_no_file_names_both_an_operator_and_an_array_library(path: Path) -> None:
    """But for the layers, which are modules of torch."""
    names = {name for name, _ in imports(path)}
    operators = {f"srwm.operators.{op}" for op in OPERATORS}
    libraries = {name.split(".")[0] for name in names} & {"numpy", "torch", "cupy"}
    assert module_name(path).startswith("srwm.nn.") or not (names & operators and libraries)


def test_only_the_dlpack_module_calls_from_dlpack() -> None:
    users = {
        module_name(path)
        for path in SOURCES
        if path.suffix == ".py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if "from_dlpack"
        in (getattr(node, "attr", None), getattr(node, "id", None), getattr(node, "value", None))
    }
    # The benchmark times an older package, which called torch's.
    assert users == {"srwm._dlpack", "benchmarks.host_cost"}


def test_srwm_on_numpy_arrays_asks_for_neither_torch_nor_cupy() -> None:
    program = """
import sys

class Refuse:
    @staticmethod
    def find_spec(name, path=None, target=None):
        assert name not in ("torch", "cupy"), name + " was asked for"

sys.meta_path.insert(0, Refuse)  # first, so that it hears of packages that are not installed too
import numpy as np
import srwm

srwm.forward(np.ones((2, 1)), np.ones((1, 7)))
"""
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
