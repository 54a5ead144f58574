"""Every user-facing error of an operator: what was expected, what came, what to do.

A check takes the name of the public operation first, so that its message can name it. All of them run
before any work, on shapes and dtypes alone, and follow from the operator's description: operators/spec.py.
"""

from __future__ import annotations

import numbers
import operator
from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import inf, isfinite
from typing import Any

import numpy as np

from srwm.operators.spec import Operand, Operator, Setting

DTYPES = ("float16", "bfloat16", "float32", "float64")
HALVES = ("float16", "bfloat16")
MOST_AXES = 64  # of NumPy's arrays, and of torch's under its transforms


@lru_cache(maxsize=64, typed=True)  # other libraries' dtypes may not be comparable
def dtype_name(dtype: Any) -> str:
    """'float32' for NumPy's, torch's and any array library's float32."""
    return str(dtype).rpartition(".")[2]


def type_name(a: Any) -> str:
    """The type of `a` with its module, for a message."""
    return f"{type(a).__module__}.{type(a).__qualname__}"


def operands(op: Operator, name: str, flat: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Check the operands of a call, in the order of ``op.flat``.

    Parameters
    ----------
    op : Operator
    name : str
        The public operation, with which messages begin.
    flat : sequence of arrays or None

    Returns
    -------
    lead : tuple of int
        The broadcast of their leading axes.
    sizes : dict of str to int
        The size of each letter.

    Raises
    ------
    TypeError
        What is no array, arrays of other types or dtypes.
    ValueError
        Shapes that do not fit each other.
    """
    first = flat[0]
    for operand, a in zip(op.flat, flat, strict=True):
        if a is not None or not operand.optional:
            array(name, operand.name, a)
            _kind(name, operand, a, op.flat[0].name, first)
    states = [(op.flat[i].name, flat[i]) for i in op.places("state") if flat[i] is not None]
    for argument, a in states[1:]:  # with halves, each may be float32
        same_dtype(name, argument, a, states[0][1].dtype, of=states[0][0])
    for operand, a in zip(op.flat, flat, strict=True):
        if a is not None:
            rank(name, operand.name, a, operand.core, operand.form)
    sizes = _sizes(op, name, flat)
    return _lead(op, name, flat), sizes


def gradients(
    op: Operator,
    name: str,
    flat: Sequence[Any],
    shapes: Sequence[tuple[Any, ...]],
    incoming: Sequence[Any],
    *,
    optional: bool = False,
) -> None:
    """Raise unless `incoming` can be the gradients of the results, which have these `shapes`.

    Those of the matrices, and where `optional` that of the output, may be None. `flat` are the operands.
    """
    dense(name, op.gradient_arguments, incoming)
    first, of = flat[0], op.flat[0].name
    states = [(op.flat[i].name, flat[i]) for i in op.places("state") if flat[i] is not None]
    of_states, like_states = states[0] if states else (of, first)
    for i, (result, argument) in enumerate(zip(op.results, op.gradient_arguments, strict=True)):
        g = incoming[i]
        if g is None and (i > 0 or optional):
            continue
        array(name, argument, g)
        same_kind(name, argument, g, first, of=of)
        like, whose = (first, of) if i == 0 else (like_states, of_states)
        same_dtype(name, argument, g, like.dtype, of=whose)
        if tuple(g.shape) != tuple(shapes[i]):
            raise ValueError(
                f"{name}: {argument}: expected the shape of {result.name}, {tuple(shapes[i])}, got "
                f"{tuple(g.shape)}; a gradient has the shape of its result"
            )


def _kind(name: str, operand: Operand, a: Any, of: str, first: Any) -> None:
    """Raise TypeError unless the array type and the dtype of `a` go with those of the first operand."""
    if a is first:
        floating(name, operand.name, a)
        return
    same_kind(name, operand.name, a, first, of=of)
    if operand.role == "flag":
        if dtype_name(a.dtype) != "bool":
            raise TypeError(
                f"{name}: {operand.name}: expected dtype bool, got {a.dtype}; compare, e.g. done != 0"
            )
        return
    wide_state = operand.role == "state" and dtype_name(first.dtype) in HALVES
    if not (wide_state and dtype_name(a.dtype) == "float32"):
        same_dtype(name, operand.name, a, first.dtype, of=of, alternative="float32" if wide_state else "")


def _sizes(op: Operator, name: str, flat: Sequence[Any]) -> dict[str, Any]:
    """The size of each letter; ValueError where two operands disagree, or one has no entries."""
    sizes: dict[str, Any] = {}
    owners: dict[str, tuple[Operand, Any]] = {}
    for operand, a in zip(op.flat, flat, strict=True):
        if a is None:
            continue
        own = tuple(a.shape)[len(a.shape) - operand.core :]
        for letter, n in zip(operand.letters, own, strict=True):
            if letter not in sizes:
                sizes[letter], owners[letter] = n, (operand, a)
                if n < 1 and letter != "L":
                    entries(name, operand.name, a, operand.letters)
            elif n != sizes[letter]:
                raise _misfit(name, operand, a, letter, sizes, *owners[letter])
    by_name = {operand.name: a for operand, a in zip(op.flat, flat, strict=True)}
    return derived(op, name, sizes, by_name)


def derived(
    op: Operator, name: str, sizes: Mapping[str, Any], operands: Mapping[str, Any]
) -> dict[str, Any]:
    """The sizes, and those that follow from them; ValueError where one of these is below 1."""
    every = dict(sizes)
    for size in op.derived:
        n = size.of(sizes)
        if n < 1:
            known = ", ".join(f"{letter} = {n}" for letter, n in sizes.items() if letter != "L")
            raise ValueError(
                f"{name}: {size.operand}: expected {size.expected} with {size.letter} >= 1, got {known} in "
                f"shape {tuple(operands[size.operand].shape)}; {size.remedy}"
            )
        every[size.letter] = n
    return every


def _misfit(
    name: str, operand: Operand, a: Any, letter: str, sizes: Mapping[str, Any], owner: Operand, of: Any
) -> ValueError:
    """The error for an axis of another size than the operand `owner`, the array `of`, gave its letter."""
    form = ", ".join(f"{known}={sizes[known]}" if known in sizes else known for known in operand.letters)
    place = owner.core - owner.letters.index(letter)
    where = {1: "the last axis", 2: "the last axis but one"}.get(place, f"axis -{place}")
    return ValueError(
        f"{name}: {operand.name}: expected shape (..., {form}) to go with {owner.name} {tuple(of.shape)}, "
        f"got {tuple(a.shape)}; {letter} is {where} of {owner.name}"
    )


def broadcast_pair(a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """numpy.broadcast_shapes of two, or None; also for torch's symbolic sizes, and in a microsecond."""
    length = max(len(a), len(b))
    a, b = (1,) * (length - len(a)) + a, (1,) * (length - len(b)) + b
    if any(m != n and m != 1 and n != 1 for m, n in zip(a, b, strict=True)):
        return None
    return tuple(n if m == 1 else m for m, n in zip(a, b, strict=True))


def _lead(op: Operator, name: str, flat: Sequence[Any]) -> tuple[Any, ...]:
    """The broadcast of the leading axes of all operands."""
    lead: tuple[Any, ...] = ()
    most = MOST_AXES - max(operand.core for operand in op.flat)
    for operand, a in zip(op.flat, flat, strict=True):
        own = () if a is None else tuple(a.shape)[: len(a.shape) - operand.core]
        if len(own) > most:
            raise ValueError(
                f"{name}: {operand.name}: expected at most {most} leading axes, got {len(own)} in shape "
                f"{tuple(a.shape)}; merge some of them"
            )
        if own and own != lead[-len(own) :]:
            both = broadcast_pair(lead, own)
            if both is None:
                raise ValueError(
                    f"{name}: {operand.name}: expected leading axes that broadcast with those of the "
                    f"arguments before it, {lead}, got {own} in shape {tuple(a.shape)}; all axes but its "
                    f"own, {', '.join(operand.letters)}, must be equal or 1"
                )
            lead = both
    return lead


def array(name: str, argument: str, a: Any) -> None:
    """Raise TypeError unless `a` is an array, and not one with a mask or rules of its own."""
    if type(a) is np.ndarray:
        return
    if isinstance(a, (np.ma.MaskedArray, np.matrix)):
        raise TypeError(
            f"{name}: {argument}: expected a plain array, got {type_name(a)}, whose mask or rules would be "
            "lost; fill it, or pass numpy.asarray"
        )
    if not (hasattr(a, "__dlpack__") and hasattr(a, "shape") and hasattr(a, "dtype")):
        raise TypeError(
            f"{name}: {argument}: expected an array (NumPy, CuPy, torch, or anything with __dlpack__), got "
            f"{type_name(a)}; convert it (numpy.asarray, torch.as_tensor, pad_packed_sequence)"
        )


def dense(name: str, arguments: Sequence[str], arrays: Sequence[Any]) -> None:
    """Raise TypeError for a tensor that is sparse, nested or quantized. None stands for no array."""
    for argument, a in zip(arguments, arrays, strict=True):
        kinds = [kind for kind in ("nested", "quantized") if getattr(a, f"is_{kind}", False)]
        layout = str(getattr(a, "layout", ""))  # other libraries may say something else by this name
        if kinds or (layout.startswith("torch.") and layout != "torch.strided"):
            raise TypeError(
                f"{name}: {argument}: expected a dense tensor, got a {(*kinds, layout)[0]} one; make it "
                "dense first (to_dense, dequantize, torch.nested.to_padded_tensor)"
            )


def floating(name: str, argument: str, a: Any) -> None:
    """Raise TypeError unless the dtype of array `a` is one the operators compute with."""
    if dtype_name(a.dtype) not in DTYPES:
        raise TypeError(
            f"{name}: {argument}: expected dtype {', '.join(DTYPES)} (native byte order), got {a.dtype}; "
            "cast it yourself, nothing is cast silently"
        )


def same_kind(name: str, argument: str, a: Any, first: Any, *, of: str) -> None:
    """Raise TypeError unless `a` is of the array type of `first`, whose name is `of`."""
    if type(a) is not type(first) and not (isinstance(a, type(first)) or isinstance(first, type(a))):
        raise TypeError(
            f"{name}: {argument}: expected the array type of {of}, {type_name(first)}, got {type_name(a)}; "
            "convert one of the two"
        )


def same_dtype(name: str, argument: str, a: Any, dtype: Any, *, of: str, alternative: str = "") -> None:
    """Raise TypeError unless `a` has this dtype, that of the argument `of`."""
    if a.dtype != dtype:
        other = f" or {alternative}" if alternative else ""
        raise TypeError(
            f"{name}: {argument}: expected the dtype of {of}, {dtype}{other}, got {a.dtype}; cast one of "
            "the two, nothing is cast silently"
        )


def one_device(name: str, arguments: Sequence[str], devices: Sequence[Any]) -> None:
    """Raise ValueError unless all arrays lie on the device of the first; None stands for no array."""
    for argument, device in zip(arguments, devices, strict=True):
        if device is not None and device != devices[0]:
            raise ValueError(
                f"{name}: {argument}: expected on the device of {arguments[0]}, {devices[0]}, got "
                f"{device}; move one of the two, nothing is moved silently"
            )


def rank(name: str, argument: str, a: Any, least: int, form: str) -> None:
    """Raise ValueError unless `a` has at least `least` axes."""
    if len(a.shape) < least:
        raise ValueError(
            f"{name}: {argument}: expected shape {form}, got {tuple(a.shape)} with {len(a.shape)} axes; "
            "add the missing axes"
        )


def entries(name: str, argument: str, a: Any, letters: Sequence[str]) -> None:
    """Raise ValueError unless each of its own axes, but that of steps, has an entry."""
    for letter, n in zip(letters, tuple(a.shape)[len(a.shape) - len(letters) :], strict=True):
        if n < 1 and letter != "L":
            raise ValueError(
                f"{name}: {argument}: expected shape (..., {', '.join(letters)}) with {letter} >= 1, got "
                f"{tuple(a.shape)}; an axis without entries leaves nothing to compute"
            )


def thread_count(name: str, argument: str, n: Any) -> int:
    """`n` as an int; ValueError unless it is a positive one."""
    try:
        count = 0 if isinstance(n, (bool, np.bool_)) else operator.index(n)
    except TypeError:
        count = 0
    if count < 1:
        raise ValueError(
            f"{name}: {argument}: expected an int >= 1, got {n!r}; pass how many threads to use"
        )
    return count


def one_of(name: str, argument: str, value: Any, allowed: tuple[Any, ...]) -> None:
    """Raise ValueError unless `value` is one of those."""
    if value not in allowed:
        raise ValueError(
            f"{name}: {argument}: expected one of {', '.join(map(str, allowed))}, got {value!r}; pass one "
            "of these"
        )


def settings(op: Operator, name: str, values: Sequence[Any]) -> tuple[Any, ...]:
    """The values of an operator's settings, each of the type of its default; an error for another one."""
    return tuple(_setting(name, s, value) for s, value in zip(op.settings, values, strict=True))


def _setting(name: str, setting: Setting, value: Any) -> Any:
    if setting.choices:
        if type(value) is not type(setting.default):  # True is not 1
            raise TypeError(
                f"{name}: {setting.name}: expected one of {', '.join(map(repr, setting.choices))}, got "
                f"{type_name(value)} {value!r}; pass one of these"
            )
        one_of(name, setting.name, value, setting.choices)
        return value
    bound = "" if setting.least is None else f" >= {setting.least:g}"
    bound = bound if setting.above is None else f" > {setting.above:g}"
    remedy = f"pass one, such as {setting.default}"
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(
            f"{name}: {setting.name}: expected a number{bound}, got {type_name(value)} {value!r}; {remedy}"
        )
    try:
        number = float(value)
    except OverflowError:  # an int too large for any float
        number = inf
    if (
        not isfinite(number)
        or (setting.above is not None and number <= setting.above)
        or (setting.least is not None and number < setting.least)
    ):
        raise ValueError(
            f"{name}: {setting.name}: expected a finite number{bound}, got {value!r}; {remedy}"
        )
    return number
