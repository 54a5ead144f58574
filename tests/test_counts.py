"""The tables of what a run's tests show: each test is counted where it belongs, and no row is stale."""

from __future__ import annotations

import ast
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from srwm import _call
from tests.counts import CHECKS, CPU, CUDA, NAMES, REFERENCE, SHOWN, TORCH, Ran, as_markdown, counted, main
from tests.counts import shown_by as shown
from tests.nn.layers import MAKERS, OPERATORS_OF_LAYERS, arguments, made

ROOT = Path(__file__).parents[1]


def test_functions():
    """(name as in a report, its parameters), of all test functions there are."""
    for path in (ROOT / "tests").rglob("test_*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                yield f"{module}.{node.name}", {argument.arg for argument in node.args.args}


test_functions.__test__ = False
FUNCTIONS = list(test_functions())


@pytest.mark.parametrize("i", range(len(SHOWN)), ids=lambda i: f"{SHOWN[i].tests}, {SHOWN[i].check}")
def test_every_line_is_the_first_of_some_test(i):
    before = [
        line.tests for line in SHOWN[:i] if "{" not in line.check
    ]  # that takes tests of one parameter
    fitting = [name for name, _ in FUNCTIONS if fnmatchcase(name, SHOWN[i].tests)]
    assert any(not any(fnmatchcase(name, tests) for tests in before) for name in fitting)
    assert set(SHOWN[i].of) <= set(NAMES)


def test_every_test_of_an_operator_is_in_a_table():
    of_an_operator = [name for name, parameters in FUNCTIONS if parameters & {"row", "op", "operator"}]
    assert len(of_an_operator) > 150
    assert [name for name in of_an_operator if not any(fnmatchcase(name, r.tests) for r in SHOWN)] == []


@pytest.mark.parametrize(
    ("name", "parameters", "expected"),
    [
        (
            "test_parity.test_any_strides",
            {"row": "delta", "backend": "cython"},
            ({"delta"}, CPU, "parity"),
        ),
        (
            "test_parity.test_any_strides",
            {"row": "srwm", "backend": "cuda-on-host"},
            ({"srwm"}, CUDA, "parity"),
        ),
        (
            "test_reference.test_central_differences",
            {"row": "delta_rnn_1"},
            ({"delta_rnn_1"}, REFERENCE, "central differences"),
        ),
        (
            "test_reference.test_two_steps_of_the_sum_rule_by_hand",
            {},
            ({"sum_rule", "normalised_sum_rule"}, REFERENCE, "by hand"),
        ),
        (
            "test_numpy.test_misaligned_arrays",
            {"row": "srwm", "backend": "None"},
            ({"srwm"}, CPU, "arrays of any library"),
        ),
        (
            "cy.test_kernels.test_any_length",
            {"layout": "many"},
            ({"srwm"}, CPU, "many side by side"),
        ),
        (
            "cy.test_kernels.test_many_sequences_of_the_delta_rule",
            {"layout": "many", "instruction_set": "avx2"},
            ({"delta"}, CPU, "avx2"),
        ),
        (
            "cy.test_launch.test_every_size_is_within_the_limits",
            {"kernel": "delta_rnn_backward"},
            ({"delta_rnn"}, CUDA, "launch sizes"),
        ),
        (
            "raw_kernels.test_kernels.test_no_barrier_can_go_unnoticed",
            {"kernel": "srwm_forward"},
            ({"srwm"}, CUDA, "barriers taken out"),
        ),
        (
            "raw_kernels.test_kernels.test_no_race",
            {"row": "sum_rule", "mode": "race"},
            ({"sum_rule"}, CUDA, "races"),
        ),
        (
            "nn.test_transforms.test_exported",
            {"name": "DeltaRNN"},
            ({"delta", "delta_rnn"}, TORCH, "layers"),
        ),
        ("nn.test_checks.test_one_step_names_itself", {"name": "SRWM"}, (set(), TORCH, "layers")),
        (
            "test_checks.test_bad_operands",
            {"row": "srwm_read", "verb": "vjp"},
            ({"srwm_read"}, CHECKS, "arrays"),
        ),
        ("test_plan.test_the_store_is_bounded", {}, (set(), CPU, "dispatch and plans")),
        ("test_threads.test_what_decides_is_described", {}, (set(), "", "")),
    ],
)
def test_a_test_is_counted_where_it_belongs(name, parameters, expected):
    assert shown(Ran(f"tests.{name}", parameters)) == expected


def case(of, name, parameters="", inside=""):
    properties = "".join(
        f'<property name="{n}" value="{v}" />' for n, v in (p.split("=") for p in parameters.split())
    )
    return f"""<testcase classname="tests.{of}" name="{name}" time="0.1">
        <properties>{properties}</properties>{inside}</testcase>"""


PASSED = [
    case("test_parity", "test_any_strides[delta-cython]", "row=delta backend=cython"),
    case("test_parity", "test_any_strides[delta-reference]", "row=delta backend=reference"),
    case("test_parity", "test_empty_axes[delta-cython]", "row=delta backend=cython"),
    case("test_parity", "test_empty_axes[srwm-cuda]", "row=srwm backend=cuda", '<skipped message="" />'),
    case("test_plan", "test_operators_are_told_apart"),
    case("examples.rl.test_cue", "test_colours[1]", "name=delta"),
]


@pytest.fixture
def report(tmp_path):
    def write(cases):
        path = tmp_path / "tests.xml"
        path.write_text(f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>")
        return path

    return write


def test_tables(report, tmp_path):
    counts = counted(report(PASSED))
    assert (counts.passed, counts.skipped, counts.failed) == (5, 1, 0)
    assert counts.shown == {(CPU, "parity", "delta"): 2, (REFERENCE, "parity", "delta"): 1}
    assert counts.others == {"tests/test_plan.py": 1, "tests/examples/rl/": 1}
    text = as_markdown(counts)
    assert "| delta | 2 |" in text
    assert "| srwm | – |" in text
    assert "5 tests passed in the run that was counted, and 1 were skipped. 3 are of one" in text
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- tests -->\nold\n<!-- /tests -->\nafter\n")
    main([str(report(PASSED)), "--write", str(page)])
    assert page.read_text() == f"before\n<!-- tests -->\n{text}\n<!-- /tests -->\nafter\n"


@pytest.mark.parametrize("inside", ['<failure message="" />', '<error message="" />'])
def test_a_run_that_failed_shows_nothing(inside, report, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- tests -->\n<!-- /tests -->\n")
    with pytest.raises(SystemExit, match=r"1 tests failed, 5 passed: nothing to show"):
        main(
            [
                str(report([*PASSED, case("test_plan", "test_x", inside=inside)])),
                "--write",
                str(page),
            ]
        )
    assert page.read_text() == "<!-- tests -->\n<!-- /tests -->\n"


def test_parameters_stand_in_the_report_of_a_run_on_several_processes(tmp_path):
    path = tmp_path / "tests.xml"
    chosen = ["tests/test_broadcast.py", "-k", "leading_axes_of_all"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "1"]
    done = subprocess.run(
        [*command, "--junitxml", path, *chosen], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert counted(path).shown == {(CHECKS, "leading axes", name): 1 for name in NAMES}


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "Stack"])
def test_layers_run_the_operators_that_they_are_counted_for(name, monkeypatch):
    runs, forward = [], _call.forward
    monkeypatch.setattr(_call, "forward", lambda op, *rest: runs.append(op.name) or forward(op, *rest))
    layer = made(name)
    layer(*arguments(layer))
    assert runs == OPERATORS_OF_LAYERS.get(name, [])
