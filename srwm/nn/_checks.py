"""Every user-facing error of a layer or a map: what was expected, what came, what to do.

They are raised before any work, from types, shapes, dtypes and devices alone. `call` is the name that
messages begin with: that of the class, with ".step" behind it where one step is asked for, or that of the
function, such as "srwm.nn.maps.dpfp".
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

Shape = tuple[int, ...]


def size(call: str, argument: str, n: Any) -> int:
    """`n` as an int; TypeError unless it is an integer, ValueError unless it is at least 1."""
    given: Any = None if isinstance(n, (bool, np.bool_)) else n
    try:
        n = operator.index(given)
    except TypeError:
        raise TypeError(
            f"{call}: {argument}: expected an int >= 1, got {n!r} of type {type(n).__name__}; pass an int"
        ) from None
    if n < 1:
        raise ValueError(f"{call}: {argument}: expected an int >= 1, got {n}; pass a positive one")
    return n


_LARGEST = sys.float_info.max

# The feature maps whose features may be negative.
SIGNED = ("identity", "l2")


def number(call: str, argument: str, a: Any, least: float = -_LARGEST, most: float = _LARGEST) -> float:
    """`a` as a float; TypeError unless it is a number, ValueError unless least <= a <= most."""
    limits = [f" {sign} {n}" for sign, n in ((">=", least), ("<=", most)) if abs(n) < _LARGEST]
    form = f"a finite number{' and'.join(limits)}"
    is_number = isinstance(a, Real) and not isinstance(a, bool)
    if not is_number:
        raise TypeError(
            f"{call}: {argument}: expected {form}, got {a!r} of type {type(a).__name__}; pass a float"
        )
    if not least <= a <= most:  # neither is NaN
        raise ValueError(f"{call}: {argument}: expected {form}, got {a}; pass such a number")
    return float(a)


def choice(call: str, argument: str, a: Any, choices: tuple[int, ...]) -> Any:
    """`a` as an int; ValueError unless it is one of these."""
    given: Any = None if isinstance(a, bool) or not isinstance(a, Integral) else int(a)
    if given not in choices:
        raise ValueError(
            f"{call}: {argument}: expected one of {', '.join(map(str, choices))}, got {a!r} of type "
            f"{type(a).__name__}; see the equations in the class's docstring"
        )
    return given


def boolean(call: str, argument: str, a: Any) -> bool:
    """`a`; TypeError unless it is True or False."""
    if not isinstance(a, bool):
        raise TypeError(
            f"{call}: {argument}: expected True or False, got {a!r} of type {type(a).__name__}; pass a bool"
        )
    return a


def feature_map(
    call: str,
    argument: str,
    name: Any,
    names: tuple[str, ...],
    nu: Any,
    n_features: Any,
    sum_norm: Any,
    eps: Any,
) -> None:
    """Raise unless these are the options of a feature map, whose name is the argument `argument`."""
    if not isinstance(name, str) or name not in names:
        raise ValueError(
            f"{call}: {argument}: expected one of {', '.join(names)}, got {name!r}; see the class's "
            "docstring"
        )
    nu = size(call, "nu", nu)
    sum_norm = boolean(call, "sum_norm", sum_norm)
    eps = number(call, "eps", eps, least=0)
    if nu != 1 and name != "dpfp":
        raise ValueError(
            f"{call}: nu: expected 1 with map {name!r}, which has no such option, got {nu}; leave it out"
        )
    if name == "favor":
        if n_features is None:
            raise ValueError(
                f"{call}: n_features: expected an int >= 1 with map 'favor', got None; pass the number "
                "of random projections"
            )
        size(call, "n_features", n_features)
    elif n_features is not None:
        raise ValueError(
            f"{call}: n_features: expected None with map {name!r}, which has no such option, got "
            f"{n_features!r}; leave it out"
        )
    if sum_norm and name in SIGNED:
        raise ValueError(
            f"{call}: sum_norm: expected False with map {name!r}, whose features may be negative, got "
            "True; take a map whose features are not"
        )
    if eps and not sum_norm:
        raise ValueError(
            f"{call}: eps: expected 0 without sum_norm, which it is of, got {eps}; pass sum_norm=True, "
            "or leave it out"
        )


def normalise(call: str, a: Any, feature_map: str) -> float | None:
    """What is added to denominators, as a float, or None; raise unless it goes with the map."""
    if a is None:
        return None
    # Not 0: at padding in front of a sequence the sum of keys is zero.
    a = number(call, "normalise", a, least=1e-30)
    if feature_map in SIGNED:
        raise ValueError(
            f"{call}: normalise: expected None with map {feature_map!r}, whose features may be negative, "
            f"and so the denominators, got {a}; take a map whose features are not"
        )
    return a


def one_of(call: str, argument: str, a: Any, choices: tuple[Any, ...]) -> Any:
    """`a`; ValueError unless it is one of these strings."""
    if not isinstance(a, str) or a not in choices:
        raise ValueError(
            f"{call}: {argument}: expected one of {', '.join(choices)}, got {a!r}; the class's docstring "
            "says what they are"
        )
    return a


def factory(call: str, device: Any, dtype: Any) -> dict[str, Any]:
    """Device and dtype, as torch's layers take them; raise unless parameters can have them here."""
    given = torch.get_default_dtype() if dtype is None else dtype
    if not isinstance(given, torch.dtype) or given not in _DTYPES:
        raise TypeError(
            f"{call}: dtype: expected one of {', '.join(map(str, _DTYPES))} or None, got {given!r}; the "
            "layers compute in no other, pass one of these"
        )
    try:
        if device is not None:
            torch.empty(0, device=device)
    except (AssertionError, RuntimeError, TypeError) as error:  # AssertionError: torch without CUDA
        kind = TypeError if isinstance(error, TypeError) else ValueError
        reason = str(error).partition("\n")[0]
        raise kind(
            f"{call}: device: expected a device that torch can use here, got {device!r} ({reason:.200}); "
            "pass another, e.g. 'cpu'"
        ) from error
    return {"device": device, "dtype": dtype}


def generator(call: str, argument: str, a: Any, device: torch.device) -> None:
    """Raise unless `a` is None, or a generator for this device."""
    if a is None:
        return
    if not isinstance(a, torch.Generator):
        raise TypeError(
            f"{call}: {argument}: expected a torch.Generator or None, got {type(a).__name__}; pass e.g. "
            "torch.Generator().manual_seed(0)"
        )
    if a.device.type != device.type:
        raise ValueError(
            f"{call}: {argument}: expected one for the device of the result, {device}, got one for "
            f"{a.device}; make it with torch.Generator({device.type!r})"
        )


def lead(call: str, axes: tuple[Any, ...]) -> None:
    """Raise unless these are the sizes of leading axes."""
    # The deprecated trace makes tensors of sizes. torch names the function in no list of exports.
    if torch.jit.is_tracing():  # type: ignore[attr-defined]
        return
    for n in axes:
        # Not operator.index: compilers would take the size for a constant.
        if isinstance(n, bool) or not isinstance(n, (Integral, torch.SymInt)):
            raise TypeError(
                f"{call}: lead: expected an int >= 0 for each leading axis, got {n!r} of type "
                f"{type(n).__name__}; pass the axes one by one, e.g. initial_state(2, 3)"
            )
        if n < 0:
            raise ValueError(
                f"{call}: lead: expected an int >= 0 for each leading axis, got {n}; pass the leading axes "
                "of h"
            )


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of states beside parameters of `dtype`: float32 beside halves."""
    return torch.float64 if dtype is torch.float64 else torch.float32


def inputs(
    call: str, h: Any, d_model: int, dtype: torch.dtype, device: torch.device, *, has_steps: bool
) -> None:
    """Raise unless `h` is a dense tensor (..., L, d_model), or (..., d_model), as the layer's."""
    _dense(call, "h", h)
    form = f"(..., L, d_model={d_model})" if has_steps else f"(..., d_model={d_model})"
    if h.ndim < (2 if has_steps else 1) or h.shape[-1] != d_model:
        remedy = (
            "add the axis of steps, or call step for one step"
            if has_steps and h.ndim == 1
            else f"the layer was made for inputs of {d_model} entries"
        )
        raise ValueError(f"{call}: h: expected shape {form}, got {tuple(h.shape)}; {remedy}")
    if h.dtype != dtype and not ({h.dtype, dtype} <= _AUTOCAST and autocasts(h.device.type)):
        raise TypeError(
            f"{call}: h: expected the dtype of the layer's parameters, {dtype}, got {h.dtype}; cast one of "
            "the two, or call the layer under torch.autocast"
        )
    if h.device != device:
        raise ValueError(
            f"{call}: h: expected on the device of the layer's parameters, {device}, got {h.device}; move "
            "one of the two"
        )


def vectors(call: str, argument: str, a: Any, D: int | None = None) -> None:
    """Raise unless `a` is a dense tensor (..., D), with entries, of one of the layers' dtypes."""
    _dense(call, argument, a)
    if a.dtype not in _DTYPES:
        raise TypeError(
            f"{call}: {argument}: expected one of {', '.join(map(str, _DTYPES))}, got {a.dtype}; cast it, "
            f"e.g. {argument}.float()"
        )
    if a.ndim < 1 or a.shape[-1] < 1 or (D is not None and a.shape[-1] != D):
        form = "(..., D) with D >= 1" if D is None else f"(..., D={D})"
        raise ValueError(
            f"{call}: {argument}: expected shape {form}, got {tuple(a.shape)}; the last axis holds the "
            "entries of a vector"
        )


def projection(call: str, argument: str, P: Any, a: Tensor) -> None:
    """Raise unless `P` is a dense tensor (D, m) that goes with the vectors a (..., D)."""
    _dense(call, argument, P)
    D = a.shape[-1]
    if P.ndim != 2 or P.shape[0] != D or P.shape[1] < 1:
        raise ValueError(
            f"{call}: {argument}: expected shape (D={D}, m) with m >= 1 to go with a {tuple(a.shape)}, got "
            f"{tuple(P.shape)}; draw one with srwm.nn.maps.orthogonal_projection({D}, m)"
        )
    if P.dtype not in (a.dtype, state_dtype(a.dtype)):
        wide = "" if state_dtype(a.dtype) is a.dtype else f" or {state_dtype(a.dtype)}"
        raise TypeError(
            f"{call}: {argument}: expected dtype {a.dtype}{wide} to go with a, got {P.dtype}; cast one of "
            "the two"
        )
    _same_device(call, argument, P, a, "a")


def flag(call: str, argument: str, a: Any, h: Tensor, *, has_steps: bool) -> None:
    """Raise unless `a` is None, or a bool tensor (..., L), without steps (...), that goes with `h`."""
    if a is None:
        return
    _dense(call, argument, a)
    if a.dtype is not torch.bool:
        raise TypeError(
            f"{call}: {argument}: expected dtype torch.bool, got {a.dtype}; compare, e.g. {argument} != 0"
        )
    _of_steps(call, argument, a, h, has_steps=has_steps)


def _of_steps(call: str, argument: str, a: Tensor, h: Tensor, *, has_steps: bool) -> None:
    """Raise unless `a` has one entry for each step of `h`, on its device."""
    own, lead = a.shape, h.shape[:-1]
    if has_steps and (not own or own[-1] != lead[-1]):
        raise ValueError(
            f"{call}: {argument}: expected shape (..., L={lead[-1]}) to go with h {tuple(h.shape)}, got "
            f"{tuple(own)}; it has one entry for each step"
        )
    if not _broadcasts(own, lead):
        raise ValueError(
            f"{call}: {argument}: expected axes that broadcast to those of h, {tuple(lead)}, and do not "
            f"enlarge them, got {tuple(own)}; every axis must be equal or 1"
        )
    _same_device(call, argument, a, h)


def times(call: str, argument: str, a: Any, h: Tensor, *, has_steps: bool) -> None:
    """Raise unless `a` is a floating tensor (..., L), without steps (...), that goes with `h`."""
    _dense(call, argument, a)
    if a.dtype not in _DTYPES:
        raise TypeError(
            f"{call}: {argument}: expected one of {', '.join(map(str, _DTYPES))}, got {a.dtype}; cast it, "
            f"e.g. {argument}.float()"
        )
    _of_steps(call, argument, a, h, has_steps=has_steps)


def not_increasing(call: str, argument: str, a: Tensor) -> ValueError:
    """The error for times that do not increase from step to step."""
    return ValueError(
        f"{call}: {argument}: expected times that increase strictly from step to step, also from the "
        f"state's last one, in {a.dtype}, got others; sort the steps, pass reset where another sequence "
        "begins, and count from a later beginning if neighbouring times are rounded to one number"
    )


def state(
    call: str, argument: str, a: Any, shape: Shape, dtype: torch.dtype, h: Tensor, *, has_steps: bool
) -> None:
    """Raise unless `a` is None, or a state (..., *shape) of this dtype that goes with `h`."""
    if a is None:
        return
    _dense(call, argument, a)
    H, D, columns = shape
    if a.ndim < 3 or a.shape[-3:] != shape:
        raise ValueError(
            f"{call}: {argument}: expected shape (..., H={H}, D={D}, {columns} columns), got "
            f"{tuple(a.shape)}; pass what the layer returned, or its initial_state"
        )
    if a.dtype is not dtype:
        raise TypeError(
            f"{call}: {argument}: expected dtype {dtype}, got {a.dtype}; states stay in the precision they "
            "are computed in, cast it yourself"
        )
    own, lead = a.shape[:-3], h.shape[: -2 if has_steps else -1]
    if not _broadcasts(own, lead):
        remedy = (
            f"h has an axis of steps, (..., L, d_model): for one step without it call {call}.step"
            if has_steps
            else "give h the axes of the state"
        )
        raise ValueError(
            f"{call}: {argument}: expected leading axes that broadcast to those of h, {tuple(lead)}, and "
            f"do not enlarge them, got {tuple(own)} in {argument} {tuple(a.shape)} beside h "
            f"{tuple(h.shape)}; {remedy}"
        )
    _same_device(call, argument, a, h)


def no_state(call: str, argument: str, a: Any) -> None:
    """Raise unless `a` is None: of layers that carry nothing."""
    if a is None:
        return
    got = f"shape {tuple(a.shape)}" if isinstance(a, Tensor) else f"type {type(a).__name__}"
    raise ValueError(
        f"{call}: {argument}: expected None, as the layer carries nothing, got {got}; pass what the layer "
        "returned, None"
    )


def states(call: str, argument: str, a: Any, count: int) -> None:
    """Raise unless `a` is None, or a tuple of `count` states."""
    if a is None:
        return
    if not isinstance(a, (tuple, list)):
        raise TypeError(
            f"{call}: {argument}: expected a tuple of {count} states, one for each layer, got "
            f"{type(a).__name__}; pass what the stack returned, or its initial_state"
        )
    if len(a) != count:
        raise ValueError(
            f"{call}: {argument}: expected {count} states, one for each layer, got {len(a)}; pass what the "
            "stack returned, with None for a layer that carries nothing"
        )


_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# What autocast takes: it leaves float64 as it is.
_AUTOCAST = {torch.float32, torch.float16, torch.bfloat16}


def autocasts(device: str) -> bool:
    """Whether autocast is on, for devices of this type."""
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def _dense(call: str, argument: str, a: Any) -> None:
    """Raise TypeError unless `a` is a dense tensor."""
    if isinstance(a, PackedSequence):
        raise TypeError(
            f"{call}: {argument}: expected a dense Tensor, got a PackedSequence; unpack it with "
            "torch.nn.utils.rnn.pad_packed_sequence(..., batch_first=True), and pass mask, false at padding"
        )
    if not isinstance(a, Tensor):
        raise TypeError(
            f"{call}: {argument}: expected a Tensor, got {type(a).__name__}; convert it, e.g. with "
            "torch.as_tensor"
        )
    if a.is_nested:
        raise TypeError(
            f"{call}: {argument}: expected a dense Tensor, got a nested one; pad it with "
            "torch.nested.to_padded_tensor, and pass mask, false at padding"
        )
    if a.layout is not torch.strided:
        raise TypeError(
            f"{call}: {argument}: expected a dense Tensor, got one of layout {a.layout}; pass "
            f"{argument}.to_dense()"
        )
    if a.is_quantized:
        raise TypeError(
            f"{call}: {argument}: expected a dense Tensor, got a quantized one; pass "
            f"{argument}.dequantize()"
        )


def _same_device(call: str, argument: str, a: Tensor, h: Tensor, beside: str = "h") -> None:
    if a.device != h.device:
        raise ValueError(
            f"{call}: {argument}: expected on the device of {beside}, {h.device}, got {a.device}; move one "
            "of the two"
        )


def _broadcasts(own: Sequence[int], lead: Sequence[int]) -> bool:
    """Whether axes `own` broadcast to `lead` as they are."""
    if len(own) > len(lead):
        return False
    return all(n == m or n == 1 for n, m in zip(reversed(own), reversed(lead), strict=False))
