"""What the torch operators of both front ends share: the library they are in, tensors as arrays, vmap."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from srwm import _checks, _dlpack

library = torch.library.Library("srwm", "DEF")


def wide_dtype(x: Tensor) -> torch.dtype:
    """The dtype that tensors of x's dtype are computed in."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


class _OnCpu:
    """CPU tensors as NumPy arrays; halves are widened: torch's bfloat16 has no NumPy type."""

    def array(self, t: Tensor | None) -> Any:
        """The tensor's memory as an array."""
        if t is None:
            return None
        t = t.detach().resolve_neg()
        return (t.float() if t.dtype in (torch.float16, torch.bfloat16) else t).numpy()

    def tensor(self, a: Any, dtype: torch.dtype) -> Tensor:
        """A result as a tensor of that dtype, which shares its memory if it has it."""
        return torch.from_numpy(a).to(dtype)


class _OnCuda:
    """CUDA tensors as CuPy arrays."""

    def array(self, t: Tensor | None) -> Any:
        """The tensor's memory as an array."""
        return None if t is None else _dlpack.cupy_of_tensor(t.detach().resolve_neg())

    def tensor(self, a: Any, dtype: torch.dtype) -> Tensor:
        """A result as a tensor."""
        del dtype  # the backend keeps it
        return _dlpack.tensor_of_cupy(a)


@contextmanager
def on_device_of(x: Tensor) -> Iterator[_OnCpu | _OnCuda]:
    """How tensors on the device of x become the backends' arrays, and results tensors again."""
    if x.device.type != "cuda":
        yield _OnCpu()
        return
    with _dlpack.torch_on_cupy(x.device):
        yield _OnCuda()


def forward_results(
    own: _OnCpu | _OnCuda, like: Tensor, y: Any, state: Any, kept: Any
) -> tuple[Tensor, ...]:
    """What a backend's forward returned, as the operators' tensors: None as an empty one."""
    return (
        own.tensor(y, like.dtype),
        like.new_empty(0) if state is None else own.tensor(state, like.dtype),
        like.new_empty(0) if kept is None else own.tensor(kept, wide_dtype(like)),
    )


def threads(num_threads: int | None) -> int:
    """Threads on the CPU: as many as PyTorch uses, if none are asked for."""
    return torch.get_num_threads() if num_threads is None else num_threads


def register(
    name: str, implementation: Any, fake: Any, autograd: Any, setup_context: Any, vmap: Any
) -> None:
    """Register an operator of `library` on both devices, with what autograd, compilation and vmap want."""
    library.impl(name, implementation, "CPU")
    library.impl(name, implementation, "CUDA")
    operator = f"srwm::{name}"
    torch.library.register_fake(operator, fake, lib=library)
    torch.library.register_autograd(operator, autograd, setup_context=setup_context, lib=library)
    torch.library.register_vmap(operator, vmap, lib=library)


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
