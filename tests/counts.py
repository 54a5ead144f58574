"""Counts what the tests of a run show: tables of operators by kinds of check, one for each backend.

    python -m pytest --junitxml build/tests.xml
    python -m tests.counts build/tests.xml
    python -m tests.counts build/tests.xml --write docs/tests.md

A test is of the operators that its parameters say: `tests/conftest.py` puts these into the report. What
it shows follows from its name, by the first line of SHOWN that fits. A test of several operators counts
for each.
"""

from __future__ import annotations

import argparse
import re
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from benchmarks.compile_matrix import markdown_between
from tests.nn.layers import OPERATORS_OF_LAYERS
from tests.operators import ROWS

NAMES = tuple(row.name for row in ROWS)

REFERENCE, CPU, CUDA = "Reference", "CPU kernels", "CUDA kernels, run on a CPU"
DEVICE, TORCH, CHECKS = "CUDA kernels, on a device", "PyTorch", "Bad input, refused before any backend runs"
TABLES = (REFERENCE, CPU, CUDA, DEVICE, TORCH, CHECKS)
# The table of a test that runs on the backend which its parameter names.
OF_BACKENDS = {"reference": REFERENCE, "cython": CPU, "cuda-on-host": CUDA, "cuda": DEVICE}


class Shown(NamedTuple):
    """What some tests show."""

    tests: str  # a pattern of their names
    table: str  # "": as the parameter `backend` says, by default that of the CPU kernels
    check: str  # a parameter in braces stands for its value; tests without it are of a later line
    of: tuple[str, ...] = ()  # the operators of those tests that have no parameter for them


_SUMS, _RNNS = ("sum_rule", "normalised_sum_rule"), ("delta_rnn", "delta_rnn_1")

SHOWN = (
    Shown("tests.test_reference.test_two_steps_of_srwm_*", REFERENCE, "by hand", ("srwm",)),
    Shown("tests.test_reference.test_two_steps_of_the_delta_rule_*", REFERENCE, "by hand", ("delta",)),
    Shown("tests.test_reference.test_two_steps_of_the_sum_rule_*", REFERENCE, "by hand", _SUMS),
    Shown("tests.test_reference.test_two_steps_of_the_delta_rnn_*", REFERENCE, "by hand", _RNNS),
    Shown(
        "tests.test_reference.test_two_steps_of_the_recurrent_*", REFERENCE, "by hand", ("recurrent_delta",)
    ),
    Shown(
        "tests.test_reference.test_two_steps_of_a_memory_*", REFERENCE, "by hand", ("self_modifying_query",)
    ),
    Shown("tests.test_reference.test_reading_by_another_input", REFERENCE, "parity", ("srwm_read",)),
    Shown("tests.test_reference.test_central_differences", REFERENCE, "central differences"),
    Shown("tests.test_reference.test_equals_autograd_of_*", REFERENCE, "autograd of a loop"),
    Shown("tests.test_reference.test_one_incoming_gradient_*", REFERENCE, "autograd of a loop"),
    Shown("tests.test_reference.test_a_memory_of_any_*", "", "autograd of a loop"),
    Shown("tests.test_reference.test_large_sizes_*", CPU, "autograd of a loop"),
    Shown("tests.test_reference.test_hundred_thousand_steps_*", CPU, "long sequences"),
    Shown("tests.test_reference.test_float32_is_as_exact_*", CPU, "autograd of a loop", ("srwm",)),
    Shown("tests.test_reference.*", REFERENCE, "resets, array namespaces"),
    Shown("tests.test_parity.test_the_other_kernels_*", CUDA, "parity"),
    Shown("tests.test_parity.test_a_growing_state_*", "", "parity", ("srwm",)),
    Shown("tests.test_parity.test_long_keys_*", "", "parity", ("delta",)),
    Shown("tests.test_parity.*", "", "parity"),
    Shown("tests.test_numpy.*", "", "arrays of any library"),
    Shown("tests.test_broadcast.*", CHECKS, "leading axes"),
    Shown("tests.test_dispatch.*", "", "dispatch and plans"),
    Shown("tests.test_plan.*", "", "dispatch and plans"),
    Shown("tests.cy.test_kernels.*delta_rule*", CPU, "{instruction_set}", ("delta",)),
    Shown("tests.cy.test_kernels.*", CPU, "{instruction_set}", ("srwm",)),
    Shown("tests.cy.test_kernels.*", CPU, "{layout}", ("srwm",)),
    Shown("tests.cy.test_growth.*long_keys*", CPU, "{arrangement}", ("delta",)),
    Shown("tests.cy.test_alignment.*", CPU, "{layout}", ("srwm", "delta")),
    Shown("tests.cy.*", CPU, "{arrangement}"),
    Shown("tests.cy.test_groups.test_delta_rule*", CPU, "shared", ("delta",)),
    Shown("tests.cy.test_groups.*", CPU, "shared", ("srwm",)),
    Shown("tests.cy.test_launch.*", CUDA, "launch sizes"),
    Shown("tests.cy.*", CPU, "layouts in memory"),
    Shown("tests.raw_kernels.*barrier_can_go*", CUDA, "barriers taken out"),
    Shown("tests.raw_kernels.*", CUDA, "{mode}"),
    Shown("tests.raw_kernels.test_kernels.*", CUDA, "orders of threads", ("srwm",)),
    Shown("tests.raw_kernels.*", CUDA, "states, passes"),
    Shown("tests.test_torch_on_cuda.*", CUDA, "PyTorch's tensors"),
    Shown("tests.test_cupy.*", DEVICE, "CuPy's arrays"),
    Shown("tests.test_gpu.*", DEVICE, "streams, memory, graphs"),
    Shown("tests.test_torch.test_gradcheck", TORCH, "gradcheck"),
    Shown("tests.test_torch.*refused*", TORCH, "bad input"),
    Shown("tests.test_torch.*checks_what_it_is_given", TORCH, "bad input"),
    Shown("tests.test_torch.*", TORCH, "plain tensors"),
    Shown("tests.test_transforms.test_grad*check", TORCH, "gradcheck"),
    Shown("tests.test_transforms.*compil*", TORCH, "compiled"),
    Shown("tests.test_transforms.*export*", TORCH, "exported"),
    Shown("tests.test_transforms.test_meta_tensors_*", TORCH, "shapes alone"),
    Shown("tests.test_transforms.test_fake_tensors", TORCH, "shapes alone"),
    Shown("tests.test_transforms.*", TORCH, "other transforms"),
    Shown("tests.nn.*", TORCH, "layers"),
    Shown("tests.test_rocm.*", CHECKS, "other devices"),
    Shown("tests.test_checks.test_bad_operands", CHECKS, "arrays"),
    Shown("tests.test_checks.test_bad_operands_among_tensors", CHECKS, "tensors"),
    Shown("tests.test_checks.test_what_was_right_once_*", CHECKS, "after a right call"),
    Shown("tests.test_checks.*gradients*", CHECKS, "gradients"),
    Shown("tests.test_checks.*", CHECKS, "states, names"),
)
# Values of parameters, where these do not say enough.
WORDS = {
    "one": "one sequence at a time",
    "many": "many side by side",
    "shared": "threads that share one",
    "race": "races",
    "bounds": "bounds of memory",
}


class Ran(NamedTuple):
    """A test that passed."""

    name: str
    parameters: Mapping[str, str]

    @property
    def operators(self) -> set[str]:
        """What its parameters say: rows of the table, operators, their kernels, layers."""
        of: set[str] = set()
        for parameter in ("row", "op", "operator", "kernel"):
            value = self.parameters.get(parameter, "")
            of |= {value, re.sub("_(forward|backward)$", "", value)} & set(NAMES)
        # What a layer refuses does not reach an operator.
        if self.name.startswith("tests.nn.") and not self.name.startswith("tests.nn.test_checks."):
            for parameter in ("name", "kind"):
                of |= set(OPERATORS_OF_LAYERS.get(self.parameters.get(parameter, ""), ()))
        return of


def shown_by(test: Ran) -> tuple[set[str], str, str]:
    """The operators of a test, its table and its column; no operators where nothing says which."""
    for line in SHOWN:
        wanted = re.findall(r"\{(\w+)\}", line.check)
        if fnmatchcase(test.name, line.tests) and all(name in test.parameters for name in wanted):
            check = line.check.format(**test.parameters)
            table = line.table or OF_BACKENDS.get(test.parameters.get("backend", ""), CPU)
            return test.operators or set(line.of), table, WORDS.get(check, check)
    return set(), "", ""


@dataclass
class Counts:
    """What a run showed."""

    passed: int = 0
    skipped: int = 0
    failed: int = 0
    shown: Counter[tuple[str, str, str]] = field(default_factory=Counter)  # by table, column, operator
    others: Counter[str] = field(default_factory=Counter)  # those of no operator, by file or folder

    def add(self, test: Ran) -> None:
        """Count a test that passed."""
        operators, table, check = shown_by(test)
        self.passed += 1
        self.shown.update((table, check, of) for of in operators)
        if not operators:
            self.others[place(test.name)] += 1


def place(name: str) -> str:
    """The file of a test, or its folder where it is not in tests/ itself: "tests/test_plan.py"."""
    folders = name.split(".")
    inside = next((i for i, folder in enumerate(folders) if folder.startswith("test_")), 1)
    return "/".join(folders[: inside + 1]) + ".py" if inside == 1 else "/".join(folders[:inside]) + "/"


def counted(report: Path) -> Counts:
    """What a run showed, from its report in JUnit's form."""
    counts = Counts()
    for _, case in ET.iterparse(report):
        if case.tag != "testcase":
            continue
        if case.find("failure") is not None or case.find("error") is not None:
            counts.failed += 1
        elif case.find("skipped") is not None:
            counts.skipped += 1
        else:
            name = f"{case.get('classname')}.{case.get('name', '').partition('[')[0]}"
            counts.add(Ran(name, {p.get("name", ""): p.get("value", "") for p in case.iter("property")}))
        case.clear()
    return counts


def grid(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """A Markdown table."""
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(map(str, row))} |"


def as_markdown(counts: Counts) -> str:
    """The tables, and what is in none of them."""
    order = [WORDS.get(line.check, line.check) for line in SHOWN]
    lines = [
        f"{counts.passed} tests passed in the run that was counted, and {counts.skipped} were skipped. "
        f"{counts.passed - counts.others.total()} are of one operator or several:",
    ]
    for table in TABLES:
        checks = {check for of, check, _ in counts.shown if of == table}
        known = sorted(checks, key=lambda check: (order.index(check) if check in order else -1, check))
        if not known:
            continue
        rows = [[counts.shown[table, check, name] for check in known] for name in NAMES]
        cells = [[n or "–" for n in row] for row in rows]
        lines += ["", f"**{table}**", ""]
        lines += grid(["operator", *known], ([name, *row] for name, row in zip(NAMES, cells, strict=True)))
    others = ", ".join(f"{name} {n}" for name, n in counts.others.most_common())
    lines += ["", f"The other {counts.others.total()} are of none, or do not say of which: {others}."]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Count, print or write; a run with failures is none that shows anything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("report", type=Path, help="what pytest --junitxml wrote")
    parser.add_argument("--write", type=Path, help="Markdown file between whose markers the tables go")
    options = parser.parse_args(arguments)
    counts = counted(options.report)
    if counts.failed or not counts.passed:
        sys.exit(f"{options.report}: {counts.failed} tests failed, {counts.passed} passed: nothing to show")
    text = as_markdown(counts)
    if options.write is None:
        print(text)
    else:
        markdown_between(options.write, "tests", text)


if __name__ == "__main__":
    main()
