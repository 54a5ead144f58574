"""An operator is a value: one that the package does not have, from its description and its reference alone.

The sum rule, linear attention's: S <- S + k^T v, y = q S. What stands between the two lines below is all of
it; not a line elsewhere knows of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from srwm import _call
from srwm.operators.spec import RESET, Operand, Operator
from srwm.reference.functions import outer, product, product_transposed
from tests import operators, test_checks, test_parity, test_reference, test_transforms
from tests.operators import (
    EVERYTHING,
    TOLERANCE,
    Row,
    assert_close,
    by_autograd,
    random_case,
    run,
    starts_of,
)

# ---- the operator


class Reference:
    """The sum rule, step by step.

    1  S <- S + k_t^T v_t, also at the last step
    2  y_t = q_t S, the S just written
    """

    @staticmethod
    def step(xp: Any, q_t: Any, k_t: Any, v_t: Any, S: Any) -> tuple[Any, Any]:
        """y_t (..., Do) and the S after the step."""
        # 1
        S = S + outer(k_t, v_t)
        # 2
        return product(q_t, S), S

    @staticmethod
    def step_backward(
        xp: Any, q_t: Any, k_t: Any, v_t: Any, S: Any, g_y: Any, G: Any
    ) -> tuple[Any, Any, Any, Any]:
        """The gradients of q_t, k_t, v_t and S, from g_y and G, that of the S after the step."""
        # 2'
        g_q = product_transposed(g_y, S + outer(k_t, v_t))
        G = G + outer(q_t, g_y)
        # 1'
        return g_q, product_transposed(v_t, G), product(k_t, G), G


SUM = Operator(
    name="sum",
    operands=(
        Operand("q", "L D"),
        Operand("k", "L D"),
        Operand("v", "L Do"),
        Operand("S", "D Do", "initial", optional=True),
        RESET,
    ),
    output=Operand("y", "L Do"),
    reference=Reference,
    source="Katharopoulos, Vyas, Pappas, Fleuret, ICML 2020, equations 16 to 20",
)


def forward(
    q: Any, k: Any, v: Any, S: Any = None, state: Any = None,
    *, reset: Any = None, return_state: bool = False, backend: Any = None, num_threads: Any = None,
) -> Any:  # fmt: skip
    """The sum rule over sequences."""
    return _call.forward(SUM, (q, k, v, S, state, reset), return_state, (backend, num_threads))


def vjp(
    q: Any, k: Any, v: Any, S: Any = None, state: Any = None,
    *, reset: Any = None, backend: Any = None, num_threads: Any = None,
) -> Any:  # fmt: skip
    """`forward` with its vector-Jacobian product."""
    return _call.vjp(SUM, (q, k, v, S, state, reset), (backend, num_threads))


def backward(
    q: Any, k: Any, v: Any, S: Any, grad_y: Any, grad_S_next: Any = None,
    *, state: Any = None, reset: Any = None, backend: Any = None, num_threads: Any = None,
) -> Any:  # fmt: skip
    """Gradients of q, k, v, S and state."""
    options = (backend, num_threads)
    return _call.backward(SUM, (q, k, v, S, state, reset), grad_y, grad_S_next, options)


# ---- its tests


class Functions:
    """Its public functions, as a module would have them."""

    forward, vjp, backward = map(staticmethod, (forward, vjp, backward))


def torch_step(q_t: Any, k_t: Any, v_t: Any, S: Any) -> Any:
    S = S + torch.einsum("...d,...o->...do", k_t, v_t)
    return torch.einsum("...d,...do->...o", q_t, S), S


ROW = Row(SUM, Functions, torch_step)
STARTS = starts_of(ROW)


def test_it_takes_at_most_90_lines():
    text = Path(__file__).read_text(encoding="utf-8")
    of_operator = text.split("# ---- the operator\n")[1].split("# ---- its tests\n")[0]
    assert len(of_operator.strip().splitlines()) <= 90


def test_nobody_else_knows_of_it():
    from srwm.operators.table import OPERATORS

    assert SUM.name not in OPERATORS


def test_two_steps_by_hand():
    q, k = np.array([[1.0, 1.0], [2.0, 1.0]]), np.array([[1.0, 0.0], [1.0, 1.0]])
    v = np.array([[1.0, 2.0], [3.0, -1.0]])
    y, S = forward(q, k, v, return_state=True)
    np.testing.assert_array_equal(y, [[1, 2], [11, 1]])
    np.testing.assert_array_equal(S, [[4, 1], [3, -1]])
    gq, gk, gv, gS = backward(q, k, v, np.zeros((2, 2)), np.ones((2, 2)))
    np.testing.assert_array_equal(gq, [[3, 0], [5, 2]])
    np.testing.assert_array_equal(gk, [[9, 6], [4, 2]])
    np.testing.assert_array_equal(gv, [[3, 3], [3, 3]])
    np.testing.assert_array_equal(gS, [[3, 3], [2, 2]])
    assert backward(q, k, v, None, np.ones((2, 2)))[3] is None
    gq = backward(q, k, v, np.eye(2), np.ones((2, 2)))[0]
    np.testing.assert_array_equal(gq[0], [4, 1])


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
@pytest.mark.parametrize("size", operators.SIZES, ids=operators.size_id)
def test_equals_autograd_of_a_plain_loop(size, start):
    test_reference.test_equals_autograd_of_a_plain_loop(ROW, size, start)
    case = random_case(ROW, size, **start)
    assert_close(run(case), by_autograd(case), TOLERANCE["float64"])


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_central_differences(start):
    test_reference.test_central_differences(ROW, start)


# ---- its row in the parity suite


class Automatic(operators.Backend):
    """The backend that a call without one finds: as nobody has kernels, the reference."""

    def require(self, op: Operator) -> None:
        """It always runs."""

    def run(self, case: Any, **options: Any) -> Any:
        return run(case, **options)

    def vjp(self, case: Any, **options: Any) -> Any:
        return operators.vjp(case, **options)


def parity_rows():
    """Every test of the parity suite that walks the operators, with each of its parameters."""
    for name, test in vars(test_parity).items():
        arguments = [mark for mark in getattr(test, "pytestmark", []) if mark.name == "parametrize"]
        if not name.startswith("test_") or not any("row" in mark.args[0] for mark in arguments):
            continue
        if any(mark is operators.each_operator_with_a_mask.mark for mark in arguments):
            continue
        if not any("backend" in mark.args[0] for mark in arguments):  # of emulated CUDA alone
            continue
        rows: list[dict[str, Any]] = [{}]
        for names, values in map(values_of, arguments):
            rows = [r | dict(zip(names, value, strict=True)) for r in rows for value in values]
        for i, row in enumerate(rows):
            if row.get("size") not in operators.LONG_OR_WIDE:
                yield pytest.param(test, row, id=f"{name}-{i}")


def values_of(mark):
    """A mark's names of parameters but "row" and "backend", and their values: of rows those of DELTA."""
    names = mark.args[0] if isinstance(mark.args[0], tuple) else (mark.args[0],)
    param = type(pytest.param())
    values = [v.values if isinstance(v, param) else v if len(names) > 1 else (v,) for v in mark.args[1]]
    several = [dict(zip(names, of_all, strict=True)) for of_all in values]
    kept = [name for name in names if name not in ("row", "backend")]
    if "row" in names:
        several = [one for one in several if one["row"] is operators.DELTA]
    return kept, [[one[name] for name in kept] for one in several] if kept else [[]]


memory_full_of_nan = test_parity.memory_full_of_nan


@pytest.mark.parametrize(("test", "arguments"), list(parity_rows()))
def test_row_of_the_parity_suite(test, arguments):
    backend = Automatic("reference")
    backend.name = (
        None if "forward_alone" in test.__name__ or "backward_gives" in test.__name__ else "reference"
    )
    test(backend=backend, row=ROW, **arguments)


def test_the_parity_suite_was_found():
    names = {row.values[0].__name__ for row in parity_rows()}
    assert len(names) >= 18
    assert "test_float32_equals_the_float64_reference" in names


def test_backends_without_its_kernels_say_so():
    case = random_case(ROW)
    with pytest.raises(
        RuntimeError, match=r"^srwm\.sum\.forward: backend 'cython' cannot run: it has no kernels of"
    ):
        ROW.forward(case.flat, backend="cython")


# ---- its checks


BAD = test_checks.bad_operands(ROW)
no_work = test_checks.no_work


@pytest.mark.parametrize("verb", test_checks.VERBS)
@pytest.mark.parametrize("bad", BAD, ids=[bad.what for bad in BAD])
def test_bad_operands(bad, verb, no_work):
    test_checks.test_bad_operands(ROW, bad, verb, None)
    test_checks.test_bad_operands_among_tensors(ROW, bad, verb, None)


BAD_GRADIENTS = test_checks.bad_gradients(ROW)


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("bad", BAD_GRADIENTS, ids=[bad[0] for bad in BAD_GRADIENTS])
def test_bad_gradients(bad, library, monkeypatch):
    test_checks.test_bad_gradients(ROW, *bad, library, monkeypatch)


# ---- torch


# torch's own: its forward mode is made of scripts, and `linearize` of a linear function has no constants.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node:UserWarning")
@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
@pytest.mark.parametrize("transform", test_transforms.EAGER)
def test_eager_transforms(transform, start):
    test_transforms.test_eager(ROW, start, "cpu", transform)


compiled = test_transforms.compiled


@pytest.mark.parametrize("way", ["static", pytest.param("dynamic", marks=pytest.mark.slow)])
def test_compiled_training(way, compiled):
    test_transforms.test_compiled_training(ROW, EVERYTHING, "cpu", way, compiled)


def test_compiled_transforms(compiled):
    test_transforms.test_compiled_transforms(ROW, EVERYTHING, "cpu", "vmap(grad)", compiled)


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_shapes_alone(start):
    test_transforms.test_meta_tensors_with_gradients(ROW, start)
    test_transforms.test_meta_tensors_are_checked(ROW, start)
    test_transforms.test_fake_tensors(ROW, start, "cpu")


def test_registration_is_what_torch_expects():
    test_transforms.test_registration_is_what_torch_expects(ROW, EVERYTHING, "cpu")
