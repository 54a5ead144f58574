"""The description of an operator, as a value. All but the arithmetic of the operator follows from it.

The checks and their messages, the broadcast of leading axes, the names and shapes of results and
gradients, the schema of its torch operators, the records of its kernels, its rows in the tests: all are
derived from the description of its operands.

Letters name axes. L is the axis of steps; every other letter is a size that the operands share. `...` are
leading axes (batch, heads, anything). All operands may have leading axes, and these broadcast.

An operator may have settings: numbers and names that change its arithmetic. With other values of these it
is another value (`Operator.at`), with the same name and the same operands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Protocol

# Steps from one saved matrix to the next. In between, a matrix is recovered by undoing updates. With 32
# steps the saved matrices cost D M / 32 entries a step, besides the 2 D + M + 4 saved for each step, and a
# matrix that grows is recovered as exactly as a saved one.
SEGMENT = 32

# The same where updates are not undone: backward has all matrices of a segment in its working memory.
REPLAYED_SEGMENT = 8

# A last segment of at most this many steps is replayed. That costs less than the memory of one more saved
# matrix; for calls of a single step, matrices would be most of what is saved.
REPLAYED = 4


def segments(L: int, length: int = SEGMENT) -> int:
    """Number of segments of L steps whose last matrix is saved: all but a last one of <= REPLAYED steps."""
    return (L + length - 1 - REPLAYED) // length


Role = Literal["data", "parameter", "initial", "state", "flag"]


@dataclass(frozen=True)
class Operand:
    """An array that an operator takes or returns.

    Attributes
    ----------
    name : str
        Its name in signatures and messages.
    axes : str
        The last axes of its shape, after the leading ones, as letters: "L D".
    role : {"data", "parameter", "initial", "state", "flag"}
        data: has an entry for each step. parameter: the same at all steps. initial: a matrix with which
        sequences begin, and to which a reset returns. state: a matrix that replaces the initial one at the
        start. flag: bool, an entry for each step: "reset", before which steps sequences begin anew; "mask",
        false at padding, which the operator skips.
    optional : bool
        Whether it may be None.
    """

    name: str
    axes: str
    role: Role = "data"
    optional: bool = False

    def __post_init__(self) -> None:
        """Compute all that follows from the fields."""
        _settle(self)

    @cached_property
    def letters(self) -> tuple[str, ...]:
        """The letters of its axes after the leading ones."""
        return tuple(self.axes.split())

    @cached_property
    def core(self) -> int:
        """The number of its axes after the leading ones."""
        return len(self.letters)

    @property
    def form(self) -> str:
        """Its shape as in messages: "(..., L, D)"."""
        return f"({', '.join(('...', *self.letters))})"

    def shape(self, lead: Sequence[Any], sizes: Mapping[str, Any]) -> tuple[Any, ...]:
        """Its shape, with these leading axes and these sizes of the letters."""
        return (*lead, *(sizes[letter] for letter in self.letters))

    def lead(self, a: Any) -> tuple[Any, ...]:
        """The leading axes of an array, or of its layout."""
        return tuple(a.shape)[: len(a.shape) - self.core]


@dataclass(frozen=True)
class Derived:
    """A size that follows from the sizes of the operands. It must be at least 1.

    Attributes
    ----------
    letter : str
        The letter of the size.
    of : callable
        Computes the size from the sizes in the shapes of the operands.
    operand : str
        The operand that the error names if the size is below 1.
    expected, remedy : str
        The expected shape of this operand, and how to get it, for the message.
    """

    letter: str
    of: Callable[[Mapping[str, int]], int]
    operand: str
    expected: str
    remedy: str


@dataclass(frozen=True)
class Setting:
    """A number or a name that changes the arithmetic of an operator.

    Attributes
    ----------
    name : str
        Its name in signatures and messages.
    default : float, int or str
        Its value where there is none. It has this type.
    choices : tuple
        The values that it may have; empty: all finite numbers.
    least, above : float, optional
        Its values are at least, or above, this number.
    """

    name: str
    default: float | int | str
    choices: tuple[int | str, ...] = ()
    least: float | None = None
    above: float | None = None


class Reference(Protocol):
    """The arithmetic of one step, for an array namespace `xp`: a module with these two functions.

    `arguments` are the entries of the data operands at this step, then the parameters, then the matrices
    before the step. Each has leading axes. The settings are passed by their names.
    """

    def step(self, xp: Any, *arguments: Any, **settings: Any) -> tuple[Any, ...]:
        """The output of the step, then the matrices after it."""

    def step_backward(self, xp: Any, *arguments: Any, **settings: Any) -> tuple[Any, ...]:
        """The gradients of the arguments of `step`; after these come the gradients of its results."""


def _settle(value: Any) -> None:
    """Compute all cached properties now: torch's compiler cannot trace their lock."""
    for name, attribute in vars(type(value)).items():
        if isinstance(attribute, cached_property):
            getattr(value, name)


# The flags, which are the same in all descriptions.
RESET = Operand("reset", "L", "flag", optional=True)
MASK = Operand("mask", "L", "flag", optional=True)

# Name -> operator with the default values of its settings, for all described operators.
described: dict[str, Operator] = {}

# Key -> operator with other values. Equal values are one object: plans are found by it.
varied: dict[str, Operator] = {}
_MOST_VARIED = 1024  # for programs that change a setting at every step


@dataclass(frozen=True, eq=False)  # equal only to itself: it is hashed at every call
class Operator:
    """An operator: its operands and results, its derived sizes, and its reference.

    Attributes
    ----------
    name : str
        The name of its kernels and of its torch operators. It must be unique.
    operands : tuple of Operand
        Its operands, in the order of its signature, without `state`, which follows from the initial ones.
    output : Operand
        The result with an entry for each step.
    reference : module
        Its numbered steps, see `Reference`.
    derived : tuple of Derived
        Sizes that are not an axis of an operand.
    rebuild : {"undo", "replay"}
        How backward gets earlier matrices: it undoes the updates, or it recomputes them from a saved one.
    source : str
        Where the operator comes from: paper and equation.
    module : str
        The name of its module in `srwm`, where that is not its own name.
    settings : tuple of Setting
        What changes its arithmetic besides its operands.
    values : tuple
        The values of the settings, by default their default ones.
    grad_state : str
        What `backward` calls the gradients of the matrices after the last step: by default grad_W_next of
        one that begins as W, and grad_state_next of several.
    """

    name: str
    operands: tuple[Operand, ...]
    output: Operand
    reference: Reference
    derived: tuple[Derived, ...] = ()
    rebuild: Literal["undo", "replay"] = "undo"
    source: str = ""
    module: str = ""
    settings: tuple[Setting, ...] = ()
    values: Any = None
    grad_state: str = ""

    def __post_init__(self) -> None:
        """Refuse a name that is taken: kernels and torch operators are found by it."""
        if self.values is None:
            object.__setattr__(self, "values", tuple(setting.default for setting in self.settings))
            if self.name in described:
                raise ValueError(
                    f"Operator: name: expected one of its own, got {self.name!r}, which is taken"
                )
            described[self.name] = self
        _settle(self)

    def at(self, values: tuple[Any, ...]) -> Operator:
        """The operator with these values of its settings, which have the types of the default ones."""
        if values == self.values:
            return self
        found = varied.get(self.key_of(values))
        if found is None:
            if len(varied) >= _MOST_VARIED:
                varied.clear()
            found = varied.setdefault(self.key_of(values), replace(self, values=values))
        return found

    def key_of(self, values: tuple[Any, ...]) -> str:
        """A name of its own for each of the values."""
        return f"{self.name}{values}" if self.settings else self.name

    @cached_property
    def by_setting(self) -> dict[str, Any]:
        """The values of the settings by their names."""
        return {s.name: value for s, value in zip(self.settings, self.values, strict=True)}

    @cached_property
    def numbers(self) -> tuple[float, ...]:
        """The values of the settings as kernels take them: for a choice, its place among the choices."""
        return tuple(
            float(s.choices.index(value) if s.choices else value)
            for s, value in zip(self.settings, self.values, strict=True)
        )

    @cached_property
    def key(self) -> str:
        """The name of its own of these values."""
        return self.key_of(self.values)

    @cached_property
    def segment(self) -> int:
        """Steps from one saved matrix to the next."""
        return SEGMENT if self.rebuild == "undo" else REPLAYED_SEGMENT

    def segments(self, L: Any) -> Any:
        """Number of segments of L steps whose last matrix is saved."""
        return segments(L, self.segment)

    @cached_property
    def label(self) -> str:
        """The name of its module for users."""
        module = self.module or self.name
        return module if module == "srwm" else f"srwm.{module}"

    @cached_property
    def prefix(self) -> str:
        """The prefix of the names of its torch operators: "", or "delta_"."""
        return "" if self.name == "srwm" else f"{self.name}_"

    @cached_property
    def initials(self) -> tuple[Operand, ...]:
        """The matrices with which sequences begin."""
        return self.of_role("initial")

    @cached_property
    def states(self) -> tuple[Operand, ...]:
        """The matrices that replace the initial ones at the start: one operand for each of these."""
        names = ["state"] if len(self.initials) == 1 else [f"state[{i}]" for i in range(len(self.initials))]
        return tuple(
            Operand(name, initial.axes, "state", optional=True)
            for name, initial in zip(names, self.initials, strict=True)
        )

    @cached_property
    def next_states(self) -> tuple[Operand, ...]:
        """The matrices after the last step."""
        return tuple(Operand(f"{initial.name}_next", initial.axes, "state") for initial in self.initials)

    @cached_property
    def results(self) -> tuple[Operand, ...]:
        """The output, then the matrices after the last step."""
        return (self.output, *self.next_states)

    @cached_property
    def gradient_names(self) -> tuple[str, ...]:
        """The names of the gradients of `results`, in kernels and in the schema of torch's operators."""
        return tuple(f"grad_{result.name}" for result in self.results)

    @cached_property
    def gradient_arguments(self) -> tuple[str, ...]:
        """The same as messages name them, as arguments of `backward`: several are parts of a tuple."""
        if len(self.states) > 1:
            parts = (f"{self.grad_state_argument}[{i}]" for i in range(len(self.states)))
            return (self.gradient_names[0], *parts)
        return (self.gradient_names[0], self.grad_state_argument)

    @cached_property
    def grad_state_argument(self) -> str:
        """The argument of `backward` that is the gradient of the matrices after the last step."""
        own = "grad_state_next" if len(self.states) > 1 else self.gradient_names[1]
        return self.grad_state or own

    @cached_property
    def flat(self) -> tuple[Operand, ...]:
        """All operands in the order of front ends and backends: states, then flags come last."""
        flags = self.of_role("flag")
        return (*(operand for operand in self.operands if operand not in flags), *self.states, *flags)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of `flat`."""
        return tuple(operand.name for operand in self.flat)

    @cached_property
    def differentiable(self) -> tuple[int, ...]:
        """The places in `flat` of the operands that have a gradient."""
        return tuple(i for i, operand in enumerate(self.flat) if operand.role != "flag")

    def place(self, name: str) -> int | None:
        """The place in `flat` of the operand of this name; None if there is none."""
        return self.names.index(name) if name in self.names else None

    def state_dtype(self, flat: Sequence[Any]) -> Any:
        """The dtype of the matrices after the last step: that of a given state, else of operand 0."""
        states = (flat[i] for i in self.places("state"))
        return next((state.dtype for state in states if state is not None), flat[0].dtype)

    def of_role(self, role: Role) -> tuple[Operand, ...]:
        """The operands of one role, in the order of the signature."""
        return tuple(operand for operand in self.operands if operand.role == role)

    def places(self, *roles: Role) -> tuple[int, ...]:
        """The places in `flat` of the operands of these roles."""
        return tuple(i for i, operand in enumerate(self.flat) if operand.role in roles)

    def verb(self, verb: str) -> str:
        """The name of one of its functions, with which messages begin: "srwm.forward"."""
        return f"{self.label}.{verb}"
