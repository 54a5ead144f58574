"""Every bad input: the error's type, and a message with operation, argument, expected, got, remedy.

What is bad follows from an operator's description, for every operand of every operator. Every message comes
before any work: the passes themselves are not reached.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import Any

import array_api_strict
import ml_dtypes
import numpy as np
import pytest

import srwm
from srwm import _dispatch
from srwm._plan import Plan
from srwm.reference import loop
from tests.operators import DELTA, EVERYTHING, ROWS, SRWM, Case, Row, each_operator, random_case

torch = pytest.importorskip("torch")  # missing where the installed wheel is tested

VERBS = ("forward", "vjp", "backward")


@dataclass(frozen=True)
class Bad:
    """A wrong input of an operator: operands in the flat order, options, and the message after the verb."""

    what: str
    flat: tuple[Any, ...]
    error: type[Exception]
    message: str
    options: dict[str, Any]


def case_of(row: Row) -> Case:
    """Operands that are all right, and of which no two axes have one size."""
    case = random_case(row, ((5,), (5,), 7, 3, 2), **EVERYTHING, leads={"parameter": (5,)})
    return case.astype(np.float32)


def bad_operands(row: Row) -> list[Bad]:
    """All that can be wrong with one operand while the others are right."""
    case, found = case_of(row), []
    first = row.op.flat[0].name

    def add(what: str, name: str, a: Any, error: type[Exception], message: str, at: str = "") -> None:
        found.append(
            Bad(
                f"{name} {what}",
                case.with_(**{name: a}).flat,
                error,
                f"{re.escape(at or name)}: {message}",
                {},
            )
        )

    for operand in row.op.flat:
        name, a, own = operand.name, case[operand.name], ", ".join(operand.letters)
        add("list", name, [[1.0]], TypeError, r"expected an array \(NumPy.* got builtins\.list; convert")
        if not operand.optional and name in row.places_of["forward"]:  # others choose the operator
            add("None", name, None, TypeError, r"expected an array .* got builtins\.NoneType; convert")
        form = rf"expected shape \(\.\.\., {own}\), got"
        add("scalar", name, np.asarray(a[(0,) * a.ndim]), ValueError, rf"{form} \(\) with 0 axes; add")
        if operand.core > 1:
            short = a[(0,) * (a.ndim - 1)]
            add("rank", name, short, ValueError, rf"{form} \({short.size},\) with 1 axes; add")
        for i, letter in enumerate(operand.letters):
            axis = i - operand.core
            known = letter in {o for other in row.op.flat if other is not operand for o in other.letters}
            if known:
                shorter = np.take(a, range(a.shape[axis] - 1), axis)
                # what does not fit the first operand that has this letter is to blame
                owner = next(o for o in row.op.flat if letter in o.letters)
                to = (
                    ""
                    if owner is not operand
                    else next(o.name for o in row.op.flat if o is not operand and letter in o.letters)
                )
                add(
                    f"other {letter}",
                    name,
                    shorter,
                    ValueError,
                    rf"expected shape \(\.\.\., .*{letter}=\d+.*\) to go with {owner.name} \(.*\), got .*; "
                    rf"{letter} is .* of {owner.name}",
                    to,
                )
            if letter != "L" and next(o for o in row.op.flat if letter in o.letters) is operand:
                none = np.take(a, [], axis)
                message = rf"{form[:-5]} with {letter} >= 1, got \(.*0.*\)"
                add(f"no {letter}", name, none, ValueError, message)
        lead = np.broadcast_to(a[0], (4, *a.shape[1:]))
        others = [o for o in row.op.flat if o is not operand]
        blamed = row.op.flat[1].name if operand.name == first else name
        assert others
        add(
            "leading axes",
            name,
            lead,
            ValueError,
            r"expected leading axes that broadcast with those of the arguments before it, .*\d.*, got .*",
            blamed,
        )
        if operand.role == "flag":
            add(
                "ints",
                name,
                a.astype(int),
                TypeError,
                r"expected dtype bool, got int64; compare, e\.g\. done != 0",
            )
        elif name == first:
            for dtype in (int, complex, object, "g"):
                message = r"expected dtype float16, bfloat16, float32, float64 .*, got .*; cast it"
                add(f"{np.dtype(dtype)}", name, a.astype(dtype), TypeError, message)
            add(
                "byte order",
                name,
                a.astype(">f4"),
                TypeError,
                r"expected dtype .*\(native byte order\), got >f4",
            )
        else:
            message = rf"expected the dtype of {first}, float32, got float64; cast one of the two"
            add("float64", name, a.astype(np.float64), TypeError, message)
            add(
                "ints",
                name,
                a.astype(int),
                TypeError,
                rf"expected the dtype of {first}, float32, got int64",
            )
            half = rf"expected the dtype of {first}, float32, got float16"
            add("half", name, a.astype(np.float16), TypeError, half)
        add(
            "masked",
            name,
            np.ma.array(a),
            TypeError,
            r"expected a plain array, got numpy\.ma\.\S*MaskedArray.*fill it",
        )
        strict = array_api_strict.asarray(a)
        if name == first:
            message = rf"expected the array type of {first}, array_api\S*Array, got numpy\.ndarray; convert"
            add("other array type", name, strict, TypeError, message, row.op.flat[1].name)
        else:
            message = rf"expected the array type of {first}, numpy\.ndarray, got array_api\S*Array; convert"
            add("other array type", name, strict, TypeError, message)
            message = rf"expected the array type of {first}, numpy\.ndarray, got torch\.Tensor; convert one"
            add("tensor", name, torch.from_numpy(a.copy()), TypeError, message)
    for options, error, message in (
        (
            {"backend": "cupy"},
            ValueError,
            r"backend: expected one of cython, cuda, reference.*, got 'cupy'",
        ),
        (
            {"backend": "cuda"},
            RuntimeError,
            r"backend 'cuda' cannot run: (CuPy cannot|CUDA finds no|there is no CUDA|it takes CUDA arrays)",
        ),
        *(
            ({"num_threads": n}, ValueError, r"num_threads: expected an int >= 1, got .*; pass how many")
            for n in (0, -1, 0.5, 1.0, True, "2", np.array([2, 3]))
        ),
    ):
        found.append(Bad(str(options), case.flat, error, message, options))
    halves = case.astype(np.float16)
    of_state = re.escape(row.states[0])
    for what, dtype in (("float64", np.float64), ("another half", ml_dtypes.bfloat16)):
        other = halves.with_states([a.astype(dtype) for a in case.states])
        message = rf"{of_state}: expected the dtype of {first}, float16 or float32, got {np.dtype(dtype)}"
        found.append(Bad(f"{what} state beside halves", other.flat, TypeError, message, {}))
    for role in ("data", "parameter", "initial"):
        name = ([first] + [row.op.flat[i].name for i in row.op.places(role)])[-1]
        if name != first:
            message = rf"{name}: expected the dtype of {first}, float16, got float32"
            found.append(
                Bad(
                    f"float32 {name} beside halves",
                    halves.with_(**{name: case[name]}).flat,
                    TypeError,
                    message,
                    {},
                )
            )
    return found


BAD = [(row, bad) for row in ROWS for bad in bad_operands(row)]
each_bad = pytest.mark.parametrize(("row", "bad"), BAD, ids=[f"{row}-{bad.what}" for row, bad in BAD])


@pytest.fixture
def no_work(monkeypatch):
    """Nothing may be computed, and memory for results asked for, before the checks."""

    def forward(*_: Any) -> Any:
        raise AssertionError("work was done before the checks")

    for place in (Plan, loop):
        monkeypatch.setattr(place, "forward", forward)
        monkeypatch.setattr(place, "backward", forward)


def call(row, verb, flat, options):
    """A verb on operands, for backward with a gradient of the output that is right."""
    if verb == "backward":
        y = random_case(row, ((5,), (5,), 7, 3, 2)).incoming[0]
        dtype = getattr(flat[0], "dtype", np.float32)
        is_tensor = any(isinstance(a, torch.Tensor) for a in flat)
        if is_tensor:
            y = torch.from_numpy(y).to(dtype if isinstance(dtype, torch.dtype) else torch.float32)
        else:
            y = y.astype(dtype if isinstance(dtype, np.dtype) else np.float32)
        return row.backward(flat, y, **options)
    return getattr(row, verb)(flat, **options)


@pytest.mark.parametrize("verb", VERBS)
@each_bad
def test_bad_operands(row, bad, verb, no_work):
    with pytest.raises(bad.error, match=rf"^{re.escape(row.op.verb(verb))}: {bad.message}"):
        call(row, verb, bad.flat, bad.options)


def as_tensors(flat):
    """The operands as tensors; None where torch has no such dtype."""
    tensors = []
    for a in flat:
        if type(a) is not np.ndarray and not isinstance(a, np.generic):
            tensors.append(a)
            continue
        a = np.asarray(a)
        if a.dtype == ml_dtypes.bfloat16:
            tensors.append(torch.from_numpy(a.astype(np.float32)).bfloat16())
        elif a.dtype.char in "?eflqdF" and a.dtype.isnative:
            tensors.append(torch.from_numpy(a.copy()))
        else:
            return None
    return tuple(tensors)


@pytest.mark.parametrize("verb", VERBS)
@each_bad
def test_bad_operands_among_tensors(row, bad, verb, no_work):
    flat = as_tensors(bad.flat)
    if flat is None or "other array type" in bad.what or bad.what.endswith("tensor"):
        return  # no tensor can be so
    message = bad.message.replace(", got int64", r", got torch\.int64")
    message = re.sub(r"(, |got |or )(b?float\d\d)(?= or|, got|;|$)", r"\1(torch\\.)?\2", message)
    if "masked" in bad.what:
        message = r".*MaskedArray"
    with pytest.raises(bad.error, match=rf"^{re.escape(row.op.verb(verb))}: {message}"):
        call(row, verb, flat, bad.options)


@pytest.mark.parametrize("verb", VERBS)
@each_bad
def test_what_was_right_once_lets_no_error_pass(row, bad, verb):
    """With the plan of a right call remembered."""
    call(row, verb, case_of(row).flat, {})
    with pytest.raises(bad.error, match=rf"^{re.escape(row.op.verb(verb))}: {bad.message}"):
        call(row, verb, bad.flat, bad.options)


def test_counts_of_any_integer_type_are_threads():
    case = case_of(SRWM)
    for one in (np.int64(1), np.uint8(1)):
        SRWM.forward(case.flat, num_threads=one)
        SRWM.forward(case.map(torch.from_numpy).flat, num_threads=one)


def grad_state_of(row):
    """The argument of `backward` after that of the output's gradient."""
    names = inspect.signature(row.functions.backward).parameters
    return [name for name in names if name.startswith("grad_")][1]


def bad_gradients(row):
    """(what, gradients, error, message)"""
    case = case_of(row)
    (y, m, *others), (name_y, name_m, *_) = case.incoming, row.result_names
    first, width = row.op.flat[0].name, y.shape[-1]
    argument = grad_state_of(row) + ("[0]" if others else "")
    of_y, of_m = f"grad_{name_y}: expected", f"{re.escape(argument)}: expected"
    float64 = r".*float32, got .*float64"
    shape_of_m = re.escape(str(m[0].shape))
    bad = [
        (
            "shape of y's",
            (y[:, :6], None),
            ValueError,
            rf"{of_y} the shape of {name_y}, .*7, {width}\), got \(5, 6, {width}\)",
        ),
        ("rank of y's", (y[0], None), ValueError, rf"{of_y} the shape of {name_y}, .*, got \(7, {width}\)"),
        ("dtype of y's", (y.astype("d"), None), TypeError, rf"{of_y} the dtype of {first}, {float64}"),
        ("no y's", (None, m), TypeError, rf"{of_y} an array"),
        (
            "shape of the state's",
            (y, m[0]),
            ValueError,
            rf"{of_m} the shape of {name_m}, .* got {shape_of_m}",
        ),
        ("type of the state's", (y, 1.0), TypeError, rf"{of_m} an array .* got builtins\.float"),
        (
            "dtype of the state's",
            (y, m.astype("d")),
            TypeError,
            rf"{of_m} the dtype of {re.escape(row.states[0])}, {float64}",
        ),
    ]
    return [(what, (*some, *(None for _ in others)), *rest) for what, some, *rest in bad]


BAD_GRADIENTS = [(row, *bad) for row in ROWS for bad in bad_gradients(row)]


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize(
    ("row", "what", "gradients", "error", "message"),
    BAD_GRADIENTS,
    ids=[f"{b[0]}-{b[1]}" for b in BAD_GRADIENTS],
)
def test_bad_gradients(row, what, gradients, error, message, library, monkeypatch):
    flat = case_of(row).flat
    if library == "torch":
        flat, gradients = as_tensors(flat), as_tensors(gradients)
    _, pullback = row.vjp(flat)

    def backward(*_):
        raise AssertionError("work was done before the checks")

    monkeypatch.setattr(Plan, "backward", backward)
    with pytest.raises(error, match=rf"^{re.escape(row.op.verb('vjp'))}: {message}"):
        pullback(*gradients)
    monkeypatch.setattr(Plan, "forward", backward)
    with pytest.raises(error, match=rf"^{re.escape(row.op.verb('backward'))}: {message}"):
        row.backward(flat, *gradients)


def assert_named(row, verb, argument, raised):
    """The message names this operation and this argument: one that it has, or a part of its tuple."""
    found = re.match(r"(\S+): (\w+)(?:\[(\d)\])?: expected ", str(raised.value))
    assert found, raised.value
    operation, name, part = found.groups()
    assert operation == row.op.verb(verb)
    assert name in inspect.signature(getattr(row.functions, verb)).parameters, raised.value
    assert (part is not None) == (len(row.states) > 1 and name in ("state", grad_state_of(row)))
    assert argument == (name if part is None else f"{name}[{part}]")


def wrong_tensors(t):
    """What no argument can be in place of this tensor."""
    others = [[[1.0]], t.numpy(), t.to("meta"), t.to_sparse()]
    return [*others, t.to(torch.int64), t.new_zeros(()), torch.cat([t, t[:1]])]


def wrong_arrays(a):
    """The same of arrays."""
    others = [[[1.0]], np.ma.array(a), array_api_strict.asarray(a)]
    return [*others, a.astype("i8"), np.zeros_like(a, shape=()), np.concatenate([a, a[:1]])]


@pytest.mark.parametrize("wrong", [wrong_arrays, wrong_tensors], ids=["arrays", "tensors"])
@pytest.mark.parametrize("verb", VERBS)
@each_operator
def test_messages_name_arguments_of_the_signature(row, verb, wrong):
    """Of operands. Where two do not fit each other, either may be named."""
    case = case_of(row)
    case = case.map(torch.from_numpy) if wrong is wrong_tensors else case
    y = case.incoming[0]
    for operand in row.op.flat[1:]:
        for bad in wrong(case[operand.name]):
            flat = case.with_(**{operand.name: bad}).flat
            with pytest.raises((TypeError, ValueError)) as raised:
                row.backward(flat, y) if verb == "backward" else getattr(row, verb)(flat)
            blamed = re.match(r"\S+: ([^:]+): ", str(raised.value))[1]
            assert blamed in row.op.names, raised.value
            assert_named(row, verb, blamed, raised)


@pytest.mark.parametrize("wrong", [wrong_arrays, wrong_tensors], ids=["arrays", "tensors"])
@each_operator
def test_messages_name_gradients_of_the_signature(row, wrong):
    case = case_of(row)
    case = case.map(torch.from_numpy) if wrong is wrong_tensors else case
    state = grad_state_of(row)
    parts = [state] if len(row.states) == 1 else [f"{state}[{i}]" for i in range(len(row.states))]
    for i, argument in enumerate(("grad_y", *parts)):
        for bad in wrong(case.incoming[i]):
            incoming = [bad if i == j else g for j, g in enumerate(case.incoming)]
            with pytest.raises((TypeError, ValueError)) as raised:
                row.backward(case.flat, *incoming)
            assert_named(row, "backward", argument, raised)
            _, pullback = row.vjp(case.flat)
            with pytest.raises((TypeError, ValueError), match=re.escape(f": {argument}: expected ")):
                pullback(*incoming)
    assert f"pullback(grad_y, {state}=None)" in row.functions.vjp.__doc__


@each_operator
def test_a_pullback_takes_the_gradient_of_the_matrices_by_its_name(row):
    case = case_of(row)
    options: dict[str, Any] = {}
    _, pullback = row.functions.vjp(*row.split("vjp", case.flat, options), **options)
    state = grad_state_of(row)
    of_states = case.incoming[1] if len(row.states) == 1 else case.incoming[1:]
    expected = pullback(case.incoming[0], of_states)
    for a, b in zip(expected, pullback(case.incoming[0], **{state: of_states}), strict=True):
        np.testing.assert_array_equal(a, b)
    both = {"grad_y": case.incoming[0], state: of_states}
    for a, b in zip(expected, pullback(**both), strict=True):
        np.testing.assert_array_equal(a, b)
    y = case.incoming[0]
    wrong = [
        ((y,), {"grad_of_nothing": of_states}, "1 by position, grad_of_nothing"),
        ((y, of_states), {state: of_states}, f"2 by position, {state}"),
        ((y,), {"grad_y": y}, "1 by position, grad_y"),
        ((y, of_states, of_states), {}, "3 by position"),
        ((), {state: of_states}, f"0 by position, {state}"),
        ((), {}, "0 by position"),
    ]
    for given, by_name, got in wrong:
        with pytest.raises(
            TypeError, match=rf": pullback: expected grad_y, perhaps {state}, each once, got {got}; pass "
        ):
            pullback(*given, **by_name)


def test_a_gradient_of_another_library_is_refused():
    case = case_of(SRWM)
    with pytest.raises(TypeError, match=r"^srwm\.backward: grad_y: expected the array type of x, numpy"):
        SRWM.backward(case.flat, torch.from_numpy(case.incoming[0]))


def test_gradients_of_a_float32_state_beside_halves_are_float32():
    case = case_of(DELTA).astype(np.float16, np.float32)
    y, m = case.incoming
    DELTA.backward(case.flat, y, m)
    with pytest.raises(TypeError, match="grad_S_next: expected the dtype of state, float32, got float16"):
        DELTA.backward(case.flat, y, m.astype(np.float16))
    without = case.with_(state=None)
    with pytest.raises(TypeError, match="grad_S_next: expected the dtype of q, float16, got float32"):
        DELTA.backward(without.flat, y, m)


@pytest.mark.parametrize("columns", range(11))
def test_too_few_columns_for_any_output(columns):
    x, W = np.ones((5, 3)), np.ones((3, columns))
    if columns == 0:
        expected = "with M >= 1"
    else:
        expected = rf"M = Do \+ 2 D \+ 4 columns .* Do >= 1, got D = 3, M = {columns} in shape .*; build W"
    with pytest.raises(ValueError, match=rf"^srwm\.forward: W: expected .*{expected}"):
        srwm.forward(x, W)
    with pytest.raises(ValueError, match=r"^srwm\.unpack: W: expected .* >= 1"):
        srwm.unpack(W)


# ---- settings, several states, square matrices


def square(D=3, L=4):
    """Operands of the Delta RNN."""
    a = np.ones((L, D))
    return a, a, a, np.ones(L)


X, PACKED = np.ones((4, 3)), np.ones((3, 2 + 3 * 3 + 2))
BAD_SETTINGS = {
    "a name": (
        srwm.sum_rule,
        {"scale": "2"},
        TypeError,
        r"scale: expected a number, got builtins\.str '2'",
    ),
    "a bool": (srwm.sum_rule, {"scale": True}, TypeError, r"scale: expected a number, got builtins\.bool"),
    "an array": (srwm.sum_rule, {"scale": np.ones(2)}, TypeError, r"scale: expected a number, got numpy\."),
    "no number": (srwm.sum_rule, {"scale": None}, TypeError, r"scale: expected a number, got .*NoneType"),
    "nan": (
        srwm.sum_rule,
        {"scale": np.nan},
        ValueError,
        r"scale: expected a finite number, got nan; pass",
    ),
    "too large": (srwm.sum_rule, {"scale": 10**400}, ValueError, "scale: expected a finite number, got 1"),
    "inf": (srwm.sum_rule, {"normalise": np.inf}, ValueError, r"normalise: expected a finite number >= 0"),
    "too small": (
        srwm.sum_rule,
        {"normalise": -1},
        ValueError,
        r"normalise: expected a finite number >= 0",
    ),
    "not above": (srwm.self_modifying, {"eps": 0}, ValueError, r"eps: expected a finite number > 0, got 0"),
    "unknown": (
        srwm.self_modifying,
        {"keys": "l1"},
        ValueError,
        r"keys: expected one of l2, softmax, got 'l1'",
    ),
    "no choice": (
        srwm.self_modifying,
        {"rate": 1},
        TypeError,
        r"rate: expected one of 'softplus', 'sigmoid'",
    ),
    "a list": (
        srwm.self_modifying,
        {"keys": ["l2"]},
        TypeError,
        r"keys: expected one of .*got builtins\.list",
    ),
    "version 3": (
        srwm.delta_rnn,
        {"version": 3},
        ValueError,
        r"version: expected one of 1, 2, got 3; pass",
    ),
    "version True": (srwm.delta_rnn, {"version": True}, TypeError, r"version: expected one of 1, 2, got "),
    "version 2.0": (srwm.delta_rnn, {"version": 2.0}, TypeError, r"version: expected one of 1, 2, got "),
}
GIVEN = {srwm.sum_rule: (X, X, X), srwm.self_modifying: (X, PACKED), srwm.delta_rnn: square()}


@pytest.mark.parametrize("bad", BAD_SETTINGS)
@pytest.mark.parametrize("verb", VERBS)
def test_bad_settings(bad, verb, no_work):
    module, settings, error, message = BAD_SETTINGS[bad]
    given = GIVEN[module]
    if verb == "backward":
        given = (*given, *(() if module is srwm.self_modifying else (None, None)), X)
    for convert in (lambda a: a, torch.from_numpy):
        arrays = [a if a is None else convert(a) for a in given]
        with pytest.raises(error, match=rf"^{re.escape(module.__name__)}\.{verb}: {message}"):
            getattr(module, verb)(*arrays, **settings)


def test_settings_of_any_number_type():
    expected = srwm.sum_rule.forward(X, X, X, scale=2.0)
    for scale in (2, np.float32(2), np.int64(2)):
        np.testing.assert_array_equal(srwm.sum_rule.forward(X, X, X, scale=scale), expected)


def test_z_is_refused_without_a_denominator(no_work):
    with pytest.raises(
        ValueError, match=r"^srwm\.sum_rule\.forward: z: expected None without normalise, got "
    ):
        srwm.sum_rule.forward(X, X, X, None, X[0])
    with pytest.raises(ValueError, match=r"^srwm\.sum_rule\.backward: z: expected None without normalise"):
        srwm.sum_rule.backward(X, X, X, None, X[0], X)


@pytest.mark.parametrize("row", [row for row in ROWS if len(row.states) > 1], ids=repr)
@pytest.mark.parametrize("verb", VERBS)
def test_several_states_come_as_a_tuple(row, verb, no_work):
    case = case_of(row)
    given = dict(zip(row.op.names, case.flat, strict=True))
    before = [given[name] for name in row.places_of["forward"] if name != "state"]
    before += [case.incoming[0]] * (verb == "backward")
    several = ", ".join(row.initials)
    for state, came in (
        (case.states[0], "numpy.ndarray"),
        (list(case.states), "builtins.list"),
        (case.states[:1], "a tuple of 1"),
    ):
        message = f"{row.op.verb(verb)}: state: expected a tuple of 2, for {several}, got {came}"
        with pytest.raises(TypeError, match=rf"^{re.escape(message)}"):
            getattr(row.functions, verb)(*before, state=state, **row.op.by_setting)


@pytest.mark.parametrize("row", [row for row in ROWS if len(row.states) > 1], ids=repr)
def test_gradients_of_several_states_come_as_a_tuple(row):
    case = case_of(row)
    given = dict(zip(row.op.names, case.flat, strict=True))
    before = [given[name] for name in row.places_of["forward"] if name != "state"]
    _, pullback = row.functions.vjp(*before, state=case.states, **row.op.by_setting)
    y, *of_states = case.incoming
    for g in (of_states[0], of_states, tuple(of_states[:1])):
        message = r": grad_state_next: expected a tuple of 2, for .*; pass .* or None to pass zeros"
        with pytest.raises(TypeError, match=message):
            pullback(y, g)
    first, second = pullback(y, (of_states[0], None)), pullback(0 * y, (None, of_states[1]))
    for a, b, both in zip(first, second, pullback(y, tuple(of_states)), strict=True):
        np.testing.assert_allclose(a + b, both, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("module", [srwm.delta_rnn, srwm.recurrent_delta], ids=lambda m: m.__name__)
def test_values_of_another_size_than_keys_are_refused(module, no_work):
    a, v, beta = np.ones((4, 3)), np.ones((4, 2)), np.ones(4)
    rest = () if module is srwm.delta_rnn else (*[np.ones((3, 3))] * 3, np.ones(3))
    message = rf"^{re.escape(module.__name__)}\.forward: v: expected shape \(\.\.\., L=4, D=3\) to go with"
    with pytest.raises(ValueError, match=message):
        module.forward(a, a, v, beta, *rest)
    for matrix in (np.ones((3, 2)), np.ones((2, 3))):
        with pytest.raises(ValueError, match=r"forward: [RS]: expected shape \(\.\.\., D=3, D=3\) to go"):
            module.forward(a, a, a, beta, *rest, matrix)


# ---- pack, unpack, warmup


GOOD = [np.zeros((3, n)) for n in (2, 3, 3, 4)]
BAD_BLOCKS = {
    "list": (0, [1.0], TypeError, r"W_y: expected an array .* got builtins\.list"),
    "None": (3, None, TypeError, r"w_beta: expected an array .* got builtins\.NoneType"),
    "integers": (0, np.zeros((3, 2), int), TypeError, r"W_y: expected dtype float16.* got int64"),
    "columns": (
        1,
        np.zeros((3, 2)),
        ValueError,
        r"W_q: expected shape \(\.\.\., 3, 3\) .* W_y \(3, 2\), got \(3, 2\)",
    ),
    "rows": (2, np.zeros((4, 3)), ValueError, r"W_k: expected shape \(\.\.\., 3, 3\) .* got \(4, 3\)"),
    "rates": (3, np.zeros((3, 3)), ValueError, r"w_beta: expected shape \(\.\.\., 3, 4\) .* got \(3, 3\)"),
    "dtype": (2, np.zeros((3, 3), "f"), TypeError, r"W_k: expected the dtype of W_y, float64, got float32"),
    "rank": (
        3,
        np.zeros(4),
        ValueError,
        r"w_beta: expected shape \(\.\.\., D, columns\), got \(4,\) with 1",
    ),
    "type": (1, torch.zeros(3, 3), TypeError, r"W_q: expected the array type of W_y, numpy.*, got torch"),
    "masked": (1, np.ma.zeros((3, 3)), TypeError, r"W_q: expected a plain array"),
    "no output": (
        0,
        np.zeros((3, 0)),
        ValueError,
        r"W_y: expected shape \(\.\.\., D, Do\) with Do >= 1, got",
    ),
}


@pytest.mark.parametrize("bad", BAD_BLOCKS)
def test_pack_names_the_block_that_does_not_fit(bad):
    i, block, error, message = BAD_BLOCKS[bad]
    with pytest.raises(error, match=rf"^srwm\.pack: {message}"):
        srwm.pack(*GOOD[:i], block, *GOOD[i + 1 :])


def test_pack_of_leading_axes():
    with pytest.raises(
        ValueError, match=r"^srwm\.pack: W_q: expected leading axes that broadcast .* \(4, 3, 3\)"
    ):
        srwm.pack(np.zeros((2, 3, 2)), np.zeros((4, 3, 3)), *GOOD[2:])
    for lead in ((0,), (2, 0), (0, 3)):
        blocks = [np.zeros((*lead, *b.shape)) for b in GOOD]
        assert srwm.pack(*blocks).shape == (*lead, 3, 12)
        assert srwm.pack(blocks[0], *GOOD[1:]).shape == (*lead, 3, 12)
        assert [b.shape for b in srwm.unpack(srwm.pack(*blocks))] == [b.shape for b in blocks]


def test_unpack_names_what_is_missing():
    with pytest.raises(TypeError, match=r"^srwm\.unpack: W: expected dtype .* got int64"):
        srwm.unpack(np.zeros((3, 12), int))
    with pytest.raises(
        ValueError, match=r"^srwm\.unpack: W: expected shape \(\.\.\., D, M\), got \(12,\) with 1 axes"
    ):
        srwm.unpack(np.zeros(12))
    with pytest.raises(ValueError, match=r"^srwm\.unpack: W: expected .*D >= 1"):
        srwm.unpack(np.zeros((0, 12)))
    with pytest.raises(TypeError, match=r"^srwm\.unpack: W: expected an array"):
        srwm.unpack([[1.0]])


@pytest.mark.parametrize(
    "dtype", ["float32", np.float32, np.dtype("float32"), torch.float32, torch.bfloat16, ml_dtypes.bfloat16]
)
def test_warmup_takes_every_librarys_dtypes(dtype):
    if _dispatch.states()["cuda"] == "usable":
        return  # it would compile: tests/test_gpu.py
    with pytest.raises(RuntimeError, match=r"^srwm\.warmup: backend 'cuda' cannot run"):
        srwm.warmup(16, 16, dtype)


@pytest.mark.parametrize("dtype", ["int8", "no such type", np.int8, torch.int8, None, 3, [1]])
def test_warmup_names_the_dtypes_that_it_knows(dtype):
    message = r"^srwm\.warmup: dtype: expected one of float16, bfloat16, float32, float64, got "
    with pytest.raises((ValueError, TypeError), match=message):
        srwm.warmup(16, 16, dtype)


def test_warmup_names_the_operators_that_it_knows():
    message = r"^srwm\.warmup: operators: expected one of delta, delta_rnn, .*, got 'srw'; pass one of"
    with pytest.raises(ValueError, match=message):
        srwm.warmup(16, 16, operators=["delta", "srw"])


# ---- devices


class OnDevice:
    """An array of a library that says it lies elsewhere."""

    def __init__(self, a: np.ndarray, device: tuple[int, int]) -> None:
        self.shape, self.dtype, self.ndim, self.device = a.shape, a.dtype, a.ndim, device

    def __dlpack__(self, **options: Any) -> Any:
        raise BufferError("not exported in this test")

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device


def test_devices_are_named_and_never_mixed():
    case = case_of(SRWM)
    x, W = case["x"], case["W"]
    gpu = OnDevice(x, (2, 0)), OnDevice(W, (2, 0))
    if _dispatch.states()["cuda"] != "usable":
        with pytest.raises((RuntimeError, TypeError), match=r"^srwm\.forward: .*(cuda|CuPy)"):
            srwm.forward(*gpu)
    with pytest.raises(RuntimeError, match=r"^srwm\.forward: no backend takes arrays on the metal device "):
        srwm.forward(OnDevice(x, (8, 0)), OnDevice(W, (8, 0)))
    with pytest.raises(
        TypeError, match=r"x: expected an array that DLPack can share .* refuses: not exported"
    ):
        srwm.forward(OnDevice(x, (1, 0)), OnDevice(W, (1, 0)))
    with pytest.raises(TypeError, match=r"W: expected the array type of x, .*OnDevice, got numpy.ndarray"):
        srwm.forward(gpu[0], W)
    with pytest.raises(ValueError, match=r"W: expected on the device of x, .*cpu.*, got .*meta"):
        srwm.forward(torch.from_numpy(x), torch.from_numpy(W).to("meta"))
    with pytest.raises(ValueError, match=r"W: expected on the device of x, .*meta.*, got .*cpu"):
        srwm.forward(torch.from_numpy(x).to("meta"), torch.from_numpy(W))
