"""The three functions of an operator, `forward`, `vjp` and `backward`, for arrays of any type.

A front end is a module for the arrays of one library, imported when a call first gets such an array. It has
`forward(op, flat, return_state, options)`, the fast path, and `prepare(op, verb, flat, options)`, which
returns the checked operands, see `Prepared`. `flat` are the operands in the order of ``op.flat``, None for
one that is not given; options are (backend, num_threads).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from srwm import _checks
from srwm._layouts import Options, together
from srwm.operators.spec import Operator

# Package of an array type -> its front end.
FRONT_ENDS = {"torch": "srwm._torch"}
OTHERS = "srwm._numpy"

_paths: dict[type, str] = {}
_loaded: dict[str, Any] = {}


class Prepared(Protocol):
    """Checked operands, ready to run."""

    flat: tuple[Any, ...]
    shapes: Sequence[tuple[int, ...]]  # of the results

    def own(self) -> Prepared:
        """The same with copies of the operands, which the caller cannot change."""

    def forward(self, return_state: bool) -> tuple[Any, ...]:
        """The results as arrays of the caller's type, and the data saved for backward."""

    def backward(self, saved: Any, incoming: tuple[Any, ...]) -> tuple[Any, ...]:
        """The gradients of the operands, from those of the results; None for operands not given."""


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

    def pullback(grad_y: Any, grad_state: Any = None) -> tuple[Any, ...]:
        return _pull_back(op, "vjp", call, grad_y, grad_state, lambda: saved)

    return (y, together(matrices)), pullback


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
    incoming = (grad_y, *_several(op, name, grad_state))
    _checks.gradients(op, name, call.flat, call.shapes, incoming)
    gradients = call.backward(saved(), incoming)
    return tuple(
        g
        for i, g in zip(op.differentiable, gradients, strict=True)
        if op.flat[i].role != "state" or call.flat[i] is not None
    )


def _several(op: Operator, name: str, grad_state: Any) -> tuple[Any, ...]:
    """One gradient for each matrix, from a single one, or a tuple, or None for all."""
    n = len(op.states)
    if grad_state is None:
        return (None,) * n
    if n == 1:
        return (grad_state,)
    if not isinstance(grad_state, tuple) or len(grad_state) != n:
        names = ", ".join(result.name for result in op.next_states)
        raise TypeError(
            f"{name}: grad_state: expected a tuple of {n}, the gradients of {names}, got "
            f"{_checks.type_name(grad_state)}; None stands for zero"
        )
    return grad_state
