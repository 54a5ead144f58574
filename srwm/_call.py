"""The three functions of an operator, `forward`, `vjp` and `backward`, for arrays of any type.

A front end is a module for the arrays of one library, imported when a call first gets such an array. It has
`forward(op, flat, return_state, options)`, the fast path, and `prepare(op, verb, flat, options)`, which
returns the checked operands, see `Prepared`. `flat` are the operands in the order of ``op.flat``, None for
one that is not given; options are (backend, num_threads).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Protocol

from srwm import _checks
from srwm._layouts import Options, together
from srwm.operators.spec import Operator, described, varied

# Package of an array type -> its front end.
FRONT_ENDS = {"torch": "srwm._torch"}
OTHERS = "srwm._numpy"

_paths: dict[type, str] = {}
_loaded: dict[str, Any] = {}


class Prepared(Protocol):
    """Checked operands, ready to run."""

    flat: tuple[Any, ...]
    arrays: tuple[Any, ...]  # the operands as arrays of the library that computes
    shapes: Sequence[tuple[int, ...]]  # of the results

    def own(self) -> Prepared:
        """The same with copies of the operands, which the caller cannot change."""

    def forward(self, return_state: bool) -> tuple[Any, ...]:
        """The results as arrays of the caller's type, and the data saved for backward."""

    def backward(self, saved: Any, incoming: tuple[Any, ...]) -> tuple[Any, ...]:
        """The gradients of the operands, from those of the results; None for operands not given."""

    def given_back(self, results: tuple[Any, ...]) -> tuple[Any, ...]:
        """Arrays of the library that computes as arrays of the caller's type."""


def _path_of(kind: type) -> str:
    """The name of the front end of an array type; imports it."""
    path = _paths.get(kind)
    if path is None:
        packages = (base.__module__.partition(".")[0] for base in kind.__mro__)
        path = next((FRONT_ENDS[package] for package in packages if package in FRONT_ENDS), OTHERS)
        _loaded[path] = importlib.import_module(path)
        _paths[kind] = path
    return path


# As torch.compiler.assume_constant_result, but without torch: its compiler calls the function, not traces
# it.
_path_of._dynamo_marked_constant = True  # type: ignore[attr-defined]


def front_end_of(kind: type) -> Any:
    """The front end of an array type."""
    return _loaded[_path_of(kind)]


def with_settings(op: Operator, verb: str, *values: Any) -> Operator:
    """The operator with these values of its settings, checked."""
    # Torch's compiler makes variables of numbers, with dynamic=True of defaults too. In a set they become
    # the constants that settings are.
    constants = tuple([next(iter({value})) if type(value) in (float, int) else value for value in values])
    key = _key_of(op.name, verb, constants)
    return op if key == op.key else varied[key]


def _key_of(name: str, verb: str, values: tuple[Any, ...]) -> str:
    """The key of an operator with these values. It is in `varied` afterwards, or described."""
    op = described[name]
    try:
        key = _checked_key(name, verb, *values)
    except TypeError:  # what has no hash; the checks say more
        key = ""
    if key not in varied and key != op.key:
        key = op.at(_checks.settings(op, op.verb(verb), values)).key
    return key


@lru_cache(maxsize=1024, typed=True)  # True is not 1.0
def _checked_key(name: str, verb: str, *values: Any) -> str:
    op = described[name]
    return op.key_of(_checks.settings(op, op.verb(verb), values))


# As for `_path_of`: torch's compiler calls the function, and mypy knows no such attribute.
_key_of._dynamo_marked_constant = True  # type: ignore[attr-defined]


def forward(op: Operator, flat: tuple[Any, ...], return_state: bool, options: Options) -> Any:
    """The output, and with `return_state` the matrices after the last step: one, or a tuple of several."""
    if options[0] is not None or options[1] is not None:
        options = _checked(op, "forward", options)
    return _loaded[_path_of(type(flat[0]))].forward(op, flat, return_state, options)


def vjp(
    op: Operator, flat: tuple[Any, ...], options: Options
) -> tuple[tuple[Any, Any], Callable[..., tuple[Any, ...]]]:
    """The output and the matrices, and a function from their gradients to those of the operands."""
    options = _checked(op, "vjp", options)
    call = front_end_of(type(flat[0])).prepare(op, "vjp", flat, options).own()
    y, *matrices, saved = call.forward(True)

    def pullback(*gradients: Any, **by_name: Any) -> tuple[Any, ...]:
        given = (*gradients, None) if len(gradients) == 1 else gradients
        grad_y, grad_state = _given_by_name(op, gradients, by_name) if by_name or len(given) != 2 else given
        return _pull_back(op, "vjp", call, grad_y, grad_state, lambda: saved)

    return (y, together(matrices)), pullback


def _given_by_name(op: Operator, gradients: tuple[Any, ...], by_name: dict[str, Any]) -> tuple[Any, Any]:
    """What a pullback got as grad_y, and as the gradient of the matrices."""
    names = "grad_y", op.grad_state_argument
    given = dict(zip(names, gradients, strict=False))
    twice, unknown = given.keys() & by_name.keys(), by_name.keys() - set(names)
    if len(gradients) > 2 or twice or unknown or "grad_y" not in given | by_name:
        got = ", ".join([f"{len(gradients)} by position", *by_name])
        raise TypeError(
            f"{op.verb('vjp')}: pullback: expected grad_y, perhaps {names[1]}, each once, got {got}; "
            f"pass pullback(grad_y, {names[1]})"
        )
    given |= by_name
    return given["grad_y"], given.get(names[1])


def backward(
    op: Operator, flat: tuple[Any, ...], grad_y: Any, grad_state: Any, options: Options
) -> tuple[Any, ...]:
    """The gradients of the operands, from those of the results; of a state only if it is given."""
    options = _checked(op, "backward", options)
    call = front_end_of(type(flat[0])).prepare(op, "backward", flat, options)
    return _pull_back(op, "backward", call, grad_y, grad_state, lambda: call.forward(False)[-1])


def _checked(op: Operator, verb: str, options: Options) -> Options:
    """The options, with the number of threads as an int."""
    backend, n = options
    if backend is not None and not isinstance(backend, str):
        raise TypeError(f"{op.verb(verb)}: backend: expected a name or None, got {backend!r}; pass a str")
    return options if n is None else (backend, _checks.thread_count(op.verb(verb), "num_threads", n))


def _pull_back(
    op: Operator, verb: str, call: Prepared, grad_y: Any, grad_state: Any, saved: Callable[[], Any]
) -> tuple[Any, ...]:
    """The gradients of the operands as arrays of the caller's type; `saved` is called after the checks."""
    name = op.verb(verb)
    incoming = (grad_y, *_several(op, name, op.grad_state_argument, grad_state, "pass zeros"))
    _checks.gradients(op, name, call.flat, call.shapes, incoming)
    gradients = call.backward(saved(), incoming)
    # Of several states one may be missing: its gradient is None, so that the others keep their places.
    has_state = any(call.flat[i] is not None for i in op.places("state"))
    return tuple(
        g
        for i, g in zip(op.differentiable, gradients, strict=True)
        if op.flat[i].role != "state" or has_state
    )


def states(op: Operator, verb: str, state: Any) -> tuple[Any, ...]:
    """The states of an operator that has several, from a tuple of them, or None for all."""
    return _several(op, op.verb(verb), "state", state, "begin with the initial ones")


def _several(op: Operator, name: str, argument: str, given: Any, without: str) -> tuple[Any, ...]:
    """One array or None for each matrix, from a single one, or a tuple, or None for all."""
    n = len(op.states)
    if given is None:
        return (None,) * n
    if n == 1:
        return (given,)
    if not isinstance(given, tuple) or len(given) != n:
        came = f"a tuple of {len(given)}" if isinstance(given, tuple) else _checks.type_name(given)
        raise TypeError(
            f"{name}: {argument}: expected a tuple of {n}, for {', '.join(i.name for i in op.initials)}, "
            f"got {came}; pass what return_state=True gives, or None to {without}"
        )
    return given
