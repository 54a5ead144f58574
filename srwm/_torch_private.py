"""torch's private names that the front end uses, and what is left without them.

Each is asked for once. `plain_is_known` says whether `is_plain` can tell; without, it answers no, and
calls take the slower road through the dispatcher. `autograd_kernel_is_known` says whether an autograd
kernel of our own can be written; without, what is no plain tensor is refused, and plain ones have an
autograd.Function.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from srwm._cy.ordinary import Ordinary


def _private(path: str) -> Any:
    """The object of this dotted name below torch, or None where this version has none."""
    found: Any = torch
    for part in path.split("."):
        found = getattr(found, part, None)
    return found


# What torch's dispatcher goes by, as integers.
_is_dynamo_compiling = _private("compiler.is_dynamo_compiling")
_include_set = _private("_C._dispatch_tls_local_include_set")
_has_torch_function = _private("_C._has_torch_function_variadic")
_profiler_enabled = _private("_C._autograd._profiler_enabled")
_dispatch_keys = _private("_C._dispatch_keys")
_key_set = _private("_C.DispatchKeySet")
_key = _private("_C.DispatchKey")
# () -> whether autocast is on, or may be, on any device.
any_autocast: Any = _private("_C._is_any_autocast_enabled") or (lambda: True)
_level = _private("autograd.forward_ad._current_level")  # as it is now: it is read anew at each call

_below_autograd = _private("_C._AutoDispatchBelowAutograd")
_transforms = _private("_C._functorch.get_interpreter_stack")
_transform_type = _private("_C._functorch.TransformType")
_single_level = _private("_functorch.utils.enable_single_level_autograd_function")
_forward_grad_mode = _private("autograd.forward_ad._set_fwd_grad_enabled")
_level_function = _private("autograd.function._SingleLevelFunction")

# The base of autograd Functions. The public one looks for transforms at each call, which costs as much as a
# kernel, and refuses Functions that are made for one level of them. The one for a single level does not.
# What the public one says to compiled autograd holds for this one as well.
_said = {"_compiled_autograd_key": vars(torch.autograd.Function).get("_compiled_autograd_key")}
Function: Any = type("Function", (_level_function,), _said) if _level_function else torch.autograd.Function


def _keys(*names: str) -> int:
    """A set of the dispatcher's keys by their names."""
    keys = _key_set(getattr(_key, names[0]))
    for name in names[1:]:
        keys = keys | _key_set(getattr(_key, name))
    return keys.raw_repr()


def _key_sets() -> tuple[frozenset[int], frozenset[int]]:
    """The keys of a thread, and of a tensor, with which the dispatcher has nothing to do.

    Of a thread without any dispatch mode, functorch transform, trace or the like, and of a dense tensor
    that is no wrapper and no lazily negated view; each as such, and in inference mode. Whatever else
    there is, or will be, has keys of its own.
    """
    threads = {_keys("BackendSelect", "ADInplaceOrView"), _keys("BackendSelect")}
    tensors = {
        keys
        for device in ("CPU", "CUDA")
        for keys in (
            _keys(device, "ADInplaceOrView", f"Autograd{device}", f"Autocast{device}"),
            _keys(device, f"Autocast{device}"),
        )
    }
    return frozenset(threads), frozenset(tensors)


plain_is_known = None not in (
    *(_is_dynamo_compiling, _include_set, _has_torch_function, _profiler_enabled, _dispatch_keys),
    *(_key_set, _key, _level),
)
autograd_kernel_is_known = None not in (
    *(_below_autograd, _transforms, _transform_type, _single_level, _forward_grad_mode, _level_function),
)
_TYPES = (Tensor, torch.nn.Parameter)
_is_ordinary: Any = plain_is_known and Ordinary(
    *(_TYPES, *_key_sets(), _include_set, _has_torch_function, _profiler_enabled, _dispatch_keys),
    forward_ad,
)


def is_plain(operands: tuple[Any, ...]) -> bool:
    """Whether torch's dispatcher has nothing to do for these operands but to call the device's kernel.

    That is to say: nothing is being compiled, traced, transformed or profiled, no mode is active, and
    they are ordinary tensors, or None. Calls then go past the dispatcher: through it a single step takes
    twice as long. Whether a gradient is wanted is another question, and so is autocast.
    """
    return plain_is_known and not _is_dynamo_compiling() and _is_ordinary(operands)


def below_autograd() -> AbstractContextManager[None]:
    """In it the dispatcher goes on below autograd."""
    return _below_autograd()


@contextmanager
def outer_level() -> Iterator[None]:
    """In the forward of an autograd.Function: the dispatcher goes on below autograd.

    That records as if no Function were around it, which turned both modes of differentiation off. Without
    forward mode a compiled derivative of a gradient would be zero.
    """
    with torch.enable_grad(), _forward_grad_mode(True), _below_autograd():
        yield


def single_level_autograd() -> AbstractContextManager[None]:
    """In it an autograd.Function applies at the level of the transform that the dispatcher is at."""
    return _single_level()


def in_forward_mode(operands: tuple[Any, ...]) -> bool:
    """Whether derivatives are wanted in forward mode: of dual tensors, or by a jvp among the transforms.

    Not while compiling, where nobody can ask: `has_tangent` finds them at the level of the dispatcher.
    """
    if torch.compiler.is_compiling():
        return False
    stack = None if None in (_transforms, _transform_type) else _transforms()
    if stack and any(i.key() == _transform_type.Jvp for i in stack):
        return True
    return has_tangent(operands)


def has_tangent(operands: tuple[Any, ...]) -> bool:
    """Whether an operand has a derivative in forward mode, at the level that the dispatcher is at."""
    return any(isinstance(t, Tensor) and forward_ad.unpack_dual(t).tangent is not None for t in operands)
