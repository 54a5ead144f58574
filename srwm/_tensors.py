"""What the torch operators of both front ends share.

The library they are in, when a call need not go through it, tensors as arrays, vmap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import _C, Tensor
from torch.autograd import forward_ad

from srwm import _checks, _dispatch, _dlpack
from srwm._call import Plan, known_plan, new_plan
from srwm._threads import threads_asked_for

library = torch.library.Library("srwm", "DEF")


def wide_dtype(x: Tensor) -> torch.dtype:
    """The dtype that tensors of x's dtype are computed in."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _key_set(*names: str) -> int:
    keys = _C.DispatchKeySet(getattr(_C.DispatchKey, names[0]))
    for name in names[1:]:
        keys = keys | _C.DispatchKeySet(getattr(_C.DispatchKey, name))
    return keys.raw_repr()


# What torch's dispatcher goes by, as integers. The keys of a thread without any dispatch mode, functorch
# transform, trace or the like, and of a dense tensor that is no wrapper and no lazily negated view; each
# as such, and in inference mode. Whatever else there is, or will be, has keys of its own.
_THREAD_KEYS = {_key_set("BackendSelect", "ADInplaceOrView"), _key_set("BackendSelect")}
_TENSOR_KEYS = {
    keys
    for device in ("CPU", "CUDA")
    for keys in (
        _key_set(device, "ADInplaceOrView", f"Autograd{device}", f"Autocast{device}"),
        _key_set(device, f"Autocast{device}"),
    )
}


def is_plain(operands: tuple[Tensor | None, ...]) -> bool:
    """Whether torch's dispatcher has nothing to do for these operands but to call the device's kernel.

    That is to say: nothing is being compiled, traced, transformed or profiled, no mode is active, and
    they are ordinary tensors, or None. Calls then go past the dispatcher: through it a single step takes
    twice as long. Whether a gradient is wanted is another question.
    """
    if (
        torch.compiler.is_dynamo_compiling()
        or _C._dispatch_tls_local_include_set().raw_repr() not in _THREAD_KEYS
        or _C._has_torch_function_variadic(*operands)  # subclasses, and modes of __torch_function__
        or _C._autograd._profiler_enabled()
        or forward_ad._current_level >= 0
    ):
        return False
    for t in operands:
        if t is not None and _C._dispatch_keys(t).raw_repr() not in _TENSOR_KEYS:
            return False
    return True


def refuse_tangents(op: str, operands: tuple[Tensor | None, ...]) -> None:
    """Raise where an operand has a forward-mode derivative, which torch's dispatcher would drop unsaid."""
    if torch.compiler.is_dynamo_compiling() or forward_ad._current_level < 0:
        return
    for t in operands:
        if t is not None and forward_ad.unpack_dual(t).tangent is not None:
            raise NotImplementedError(
                f"{op}: expected operands without a forward-mode derivative (torch.func.jvp, dual "
                "tensors), got one with a tangent; differentiate in reverse mode, e.g. by srwm.vjp"
            )


def plan_of(
    check: Callable[..., tuple[int, ...]], op: str, operands: tuple[Tensor | None, ...], backend: str | None
) -> Plan:
    """The plan of tensors or None; raises as `check` does."""
    key: tuple[Any, ...] = (check, backend)
    for t in operands:
        key += (None,) if t is None else (t.shape, t.dtype, t.device)
    plan = known_plan(key)
    if plan is None:
        lead = check(op, *operands)
        assert operands[0] is not None
        plan = new_plan(key, _dispatch.resolve(op, operands[0].device.type, backend), lead)
    return plan


class _OnCpu(AbstractContextManager["_OnCpu"]):
    """CPU tensors as NumPy arrays. A context in which nothing is different from outside.

    torch's bfloat16 has no NumPy type: those tensors become int16 arrays and int16 arrays such tensors, or,
    where `widened`, float32 arrays for a backend that does not know of that.
    """

    def __init__(self, widened: bool) -> None:
        self.widened = widened

    def __enter__(self) -> _OnCpu:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def array(self, t: Tensor | None) -> Any:
        """The tensor's memory as an array."""
        if t is None:
            return None
        if t.dtype is torch.bfloat16:
            t = t.float() if self.widened else t.detach().resolve_neg().view(torch.int16)
        return t.numpy(force=True)

    @staticmethod
    def tensor(a: Any, dtype: torch.dtype | None = None) -> Any:
        """A result as a tensor that shares its memory, unless it has another dtype than is wanted."""
        if a is None:
            return None
        t = torch.from_numpy(a)
        if dtype is None or t.dtype is dtype:
            return t
        return t.view(dtype) if t.dtype is torch.int16 else t.to(dtype)


class _OnCuda:
    """CUDA tensors as CuPy arrays."""

    @staticmethod
    def array(t: Tensor | None) -> Any:
        """The tensor's memory as an array."""
        return None if t is None else _dlpack.cupy_of_tensor(t)

    @staticmethod
    def tensor(a: Any, dtype: torch.dtype | None = None) -> Any:
        """A result as a tensor."""
        del dtype  # the backend keeps it
        return None if a is None else _dlpack.tensor_of_cupy(a)


_on_cpu, _on_cpu_widened = _OnCpu(widened=False), _OnCpu(widened=True)


@contextmanager
def _on_cuda(device: torch.device) -> Iterator[_OnCuda]:
    with _dlpack.torch_on_cupy(device):
        yield _OnCuda()


def on_device_of(x: Tensor, backend: Any) -> AbstractContextManager[_OnCpu | _OnCuda]:
    """How tensors on the device of x become that backend's arrays, and results tensors again."""
    if x.is_cuda:
        return _on_cuda(x.device)
    return _on_cpu if backend.BFLOAT16_AS_INT16 else _on_cpu_widened


def threads(op: str, num_threads: int | None) -> int:
    """Threads on the CPU: as many as PyTorch uses, if none are asked for of srwm."""
    if num_threads is None:
        return threads_asked_for() or torch.get_num_threads()
    return _checks.thread_count(op, "num_threads", num_threads)


def register(name: str, compute: Any, fake: Any, autograd: Any, setup_context: Any, vmap: Any) -> None:
    """Register an operator of `library` on both devices, with what autograd, compilation and vmap want.

    `compute` runs it on a backend; an operator has no absent results, so None becomes an empty tensor.
    """

    def implementation(*arguments: Any) -> tuple[Tensor, ...]:
        results = compute(*arguments)
        return tuple(arguments[0].new_empty(0) if t is None else t for t in results)

    library.impl(name, implementation, "CPU")
    library.impl(name, implementation, "CUDA")
    operator = f"srwm::{name}"
    torch.library.register_fake(operator, fake, lib=library)
    torch.library.register_autograd(operator, autograd, setup_context=setup_context, lib=library)
    torch.library.register_vmap(operator, vmap, lib=library)


def differentiable(operands: int, compute: Any, autograd: Any) -> Callable[..., tuple[Any, ...]]:
    """A forward operator, the first arguments of which are its operands, as autograd alone knows it.

    For plain operands, see `is_plain`.
    """

    class Differentiable(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor | None, None]:
            y, state, kept = compute(*arguments)
            ctx.set_materialize_grads(False)
            ctx.save_for_backward(*arguments[:operands], kept)
            ctx.backend, ctx.num_threads = arguments[-2:]
            return y, state, None

        backward = staticmethod(autograd)

    # Function.apply itself would look once more for functorch's wrappers, at the price of a kernel.
    return super(torch.autograd.Function, Differentiable).apply


def no_second_derivative(op: str) -> Any:
    """The gradient of the gradient operator `op`: there is none."""

    def refuse(ctx: Any, *gradients: Tensor) -> None:
        del ctx, gradients
        raise RuntimeError(
            f"{op}: expected to be differentiated once, but a second derivative is wanted; compute "
            "the first without create_graph=True, or use an eager loop of torch operations"
        )

    return refuse


def same_dtype_under_autocast(x: Any, W: Any) -> Any:
    """x, in W's dtype where autocast is on: the state's precision decides, as it is what grows."""
    if x.dtype != W.dtype and torch.is_autocast_enabled(x.device.type):
        return x.to(W.dtype)
    return x


def require_tensors(op: str, like: Tensor, of: str, **others: Any) -> None:
    """Raise TypeError for what is no tensor beside the tensor `like`, whose name is `of`.

    A state S and a reset may be None.
    """
    for argument, a in others.items():
        if not (isinstance(a, Tensor) or (a is None and argument in ("S", "reset"))):
            _checks.array(op, argument, a)
            _checks.same_kind(op, argument, a, like, of=of)


def own_lead(t: Tensor | None, axis: int | None, core: int) -> int:
    """Leading axes of `t` besides the vmapped one."""
    return 0 if t is None else t.ndim - core - (axis is not None)


def batch_first(t: Tensor | None, axis: int | None, core: int, lead: int, size: int) -> Tensor | None:
    """`t` with the vmapped axis (of `size`) in front of exactly `lead` leading axes."""
    if t is None:
        return None
    t = t.unsqueeze(0).expand(size, *t.shape) if axis is None else t.movedim(axis, 0)
    missing = lead - (t.ndim - 1 - core)
    return t.reshape(size, *(1,) * missing, *t.shape[1:])


def one_by_one(
    operator: Any,
    fixed: tuple[Any, ...],
    gradients: tuple[Tensor | None, ...],
    axes: tuple[Any, ...],
    options: list[Any],
    size: int,
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """A backward operator vmapped over gradients alone (the rows of a Jacobian): one call for each.

    What forward kept belongs to all of its sequences together: there is none for `size` times as many.
    `fixed` and `options` stand before and behind the gradients, which are vmapped over these axes.
    """
    rows = []
    for i in range(size):
        row = [
            g if g is None or axis is None else g.select(axis, i)
            for g, axis in zip(gradients, axes, strict=True)
        ]
        rows.append(operator(*fixed, *row, *options))
    return tuple(torch.stack(column) for column in zip(*rows, strict=True)), (0,) * len(rows[0])
