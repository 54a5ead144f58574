"""What stands in front of a kernel: the host's cost of a call on tensors, itemised.

    python -m benchmarks.host_cost
    python -m benchmarks.host_cost --before ../before  # a checkout of a231a98, its kernels built in place

On "cuda" CPU tensors are taken for a device's, and CUDA's functions do nothing
(tests/cuda_host/cuda_api.py): all that runs on the host runs, CuPy's code too, but no kernel. On a device
three launches (2 to 3 us each), dearer allocations and the hand-over to autograd's thread come on top. On
"cpu" kernels run; a single step is so short that what stands in front of it counts.

An empty autograd.Function is timed beside, as PyTorch asks that much of any. Rows of both checkouts take
turns, one thread; run it while nothing else runs.
"""

from __future__ import annotations

import runpy
import statistics
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import tyro

ROOT = Path(__file__).parents[1]
SIZES = {"cuda": (16, 16, 26, 16), "cpu": (1, 8, 1, 16)}  # (B, H, L, D)
LAYERS = 10  # of a graph
CPU, CUDA = 1, 2  # DLPack's device types

EMPTY, TRAINED = "empty Function, forward and backward", "forward and backward"
BEYOND = "forward and backward beyond an empty Function"


@dataclass(frozen=True)
class Args:
    """Itemise what stands in front of the kernels."""

    before: Path | None = None
    """A checkout of a231a98, with its kernels built in place, to time beside this one."""
    turns: int = 31
    """Turns of each row."""
    seconds: float = 0.02
    """Length of a turn."""
    cache: Path = Path("runs", "host_cost")
    """Where what is compiled is kept."""


def _taken_for_cuda(x: Any, W: Any) -> dict[str, Callable[[], Any]]:
    """Let srwm take CPU tensors for those of a device; then the items of a call on x and W, by name."""
    import torch

    from srwm import _plan, _torch, _torch_kernels
    from srwm._cy import exchange
    from srwm._torch_private import is_plain
    from srwm.operators.srwm import SRWM

    def room(like: Any) -> Callable[[int], tuple[int, Any]]:
        def of_device(size: int) -> tuple[int, Any]:
            memory = torch.empty(size, dtype=torch.uint8, device=like.device)
            return memory.data_ptr(), memory

        return of_device

    def stream(like: Any) -> int:  # which asks what the real one asks
        return 0 if like.is_cuda else exchange.current_stream(torch.Tensor, CPU, like.device.index or 0)

    library: Any = _torch_kernels._Tensors
    _plan._KINDS[CPU] = "cuda"
    library.room, library.stream = staticmethod(room), staticmethod(stream)
    flat = (x, W, None, None)
    y, (key, addresses) = _torch.forward(SRWM, flat, False, (None, 1)), library.read(flat)
    plan = _plan._plans[SRWM, None, key]
    launch, places = plan.forward(False), (y.data_ptr(), 0)
    return {
        "is_plain": lambda: is_plain(flat),
        "key and addresses": lambda: library.read(flat),
        "plan of a key": lambda: _plan.find((SRWM, None, key)),
        "torch.empty_like of the result": lambda: library.empty_like(x),
        "its address": lambda: library.addresses((y, None, None)),
        "current stream": lambda: stream(x),
        "launch": lambda: launch(addresses, places, 0, 1, 7, None),
    }


def _taken_for_cuda_before(api: Any, x: Any, W: Any) -> dict[str, Callable[[], Any]]:
    """The same for a231a98, which goes through arrays of CuPy."""
    import cupy
    import torch

    package = "srwm"  # another checkout's, with other modules than this one's
    old: Any = import_module(f"{package}._tensors")
    autograd: Any = import_module(f"{package}.autograd")
    dispatch: Any = import_module(f"{package}._dispatch")
    exported: Any = import_module(f"{package}._dlpack")._Exported
    dlpack: Any = import_module("torch.utils.dlpack")
    device, to_dlpack, from_dlpack = torch.device("cpu", 0), dlpack.to_dlpack, dlpack.from_dlpack
    backend = dispatch._module(dispatch.BACKENDS["cuda"])
    stream = SimpleNamespace(cuda_stream=7, __cuda_stream__=lambda: (0, 7))
    for owner, name, replacement in (
        (dispatch, "resolve", lambda *asked: backend),
        (autograd, "on_device_of", lambda x, of: old._on_cuda(device)),
        (exported, "__dlpack_device__", lambda exported: (CUDA, 0)),
        (dlpack, "to_dlpack", lambda t: api.on_device(to_dlpack(t), CUDA)),
        (dlpack, "from_dlpack", lambda capsule: from_dlpack(api.on_device(capsule, CPU))),
        (torch.cuda, "current_stream", lambda device: stream),
    ):
        setattr(owner, name, replacement)
    on_cuda = old._OnCuda()

    def contexts() -> None:
        with old._on_cuda(device):
            pass

    def result() -> None:
        with old._on_cuda(device):
            cupy.empty(tuple(x.shape), "float32")

    flat, a = (x, W, None), on_cuda.array(x)
    return {
        "is_plain": lambda: old.is_plain(flat),
        "plan": lambda: old.plan_of(autograd._check, "srwm.forward", flat, None),
        "contexts of device, stream, allocator": contexts,
        "the same and cupy.empty of the result": result,
        "operand as an array, by DLPack": lambda: on_cuda.array(x),
        "result as a tensor, by DLPack": lambda: on_cuda.tensor(a),
    }


def rows(where: str, cache: str) -> dict[str, Callable[[], Any]]:
    """What is timed, by name. It runs in both checkouts."""
    api: Any = None
    if where == "cuda":  # before CuPy is imported
        api = runpy.run_path(str(ROOT / "tests" / "cuda_host" / "cuda_api.py"))["install"](Path(cache))
    import torch

    import srwm

    class Empty(torch.autograd.Function):
        """What PyTorch asks of any Function, without work."""

        @staticmethod
        def forward(ctx: Any, x: torch.Tensor, W: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x, W)
            return torch.empty(1)

        @staticmethod
        def backward(ctx: Any, *grad: torch.Tensor) -> Any:
            return ctx.saved_tensors

    torch.set_num_threads(1)
    torch.manual_seed(0)
    B, H, L, D = SIZES[where]
    x, W, grad_y = torch.randn(B, H, L, D), torch.randn(H, D, 3 * D + 4) / D**0.5, torch.ones(B, H, L, D)
    leaves, one = (x.clone().requires_grad_(), W.clone().requires_grad_()), torch.ones(1)

    def trained() -> Any:
        y = srwm.forward(*leaves)
        return y, *torch.autograd.grad(y, leaves, grad_y)

    def layers() -> Any:
        y = leaves[0]
        for _ in range(LAYERS):
            y = srwm.forward(y, leaves[1])
        return torch.autograd.grad(y, leaves, grad_y)

    items: dict[str, Callable[[], Any]] = {}
    if where == "cuda":
        is_before = not hasattr(srwm, "operators")
        items = _taken_for_cuda_before(api, x, W) if is_before else _taken_for_cuda(x, W)
        import cupy

        b, U = cupy.asarray(x.numpy()), cupy.asarray(W.numpy())
        items["forward, CuPy"] = lambda: srwm.forward(b, U)
    else:
        a, V = x.numpy(), W.numpy()
        items = {"forward, NumPy": lambda: srwm.forward(a, V, num_threads=1)}
    return {
        **{f"  {name}": item for name, item in items.items()},
        "forward": lambda: srwm.forward(x, W),
        EMPTY: lambda: torch.autograd.grad(Empty.apply(*leaves), leaves, one),
        TRAINED: trained,
        f"{LAYERS} layers, forward and backward": layers,
    }


def compared(where: str, checkouts: list[Any]) -> None:
    """Raise AssertionError unless calls give the same; for "cuda" the shapes, as nothing is computed."""
    for name in ("forward", TRAINED):
        mine, *others = ([np.array(a) for a in checkout.ask(name)] for checkout in checkouts)
        for results in others:
            for a, b in zip(mine, results, strict=True):
                assert a.shape == b.shape, name
                if where == "cpu":
                    np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4, err_msg=name)


def measured(where: str, args: Args, checkouts: list[Any]) -> list[dict[str, float]]:
    """Microseconds of each row of each checkout: medians over turns."""
    compared(where, checkouts)
    names = [checkout.ask() for checkout in checkouts]
    found: list[dict[str, list[float]]] = [{name: [] for name in of_one} for of_one in names]
    for turn in range(args.turns):
        for name in dict.fromkeys(name for of_one in names for name in of_one):
            for i in sorted(range(len(checkouts)), reverse=turn % 2 == 1):
                if name in found[i]:
                    found[i][name].append(1e6 * checkouts[i].ask(name, args.seconds))
    medians = [{name: statistics.median(times) for name, times in of_one.items()} for of_one in found]
    for of_one in medians:
        of_one[BEYOND] = of_one[TRAINED] - of_one[EMPTY]
        of_one["one of the layers"] = of_one[f"{LAYERS} layers, forward and backward"] / LAYERS
    return medians


def main(args: Args) -> None:
    """Print the medians of all rows, in microseconds."""
    # Here, as `rows` also runs where there is another checkout's benchmarks.
    from benchmarks.checkout import Checkout

    args.cache.mkdir(parents=True, exist_ok=True)
    roots = [ROOT] if args.before is None else [ROOT, args.before]
    for where, size in SIZES.items():
        program = Path(__file__), where, str(args.cache.resolve())
        with ExitStack() as stack:
            checkouts = [stack.enter_context(Checkout(root, *program)) for root in roots]
            now, *before = measured(where, args, checkouts)
        print(f"\n{where}, (B, H, L, D) = {size}: us, the other checkout's, ratio\n")
        for name in dict.fromkeys(name for of_one in (*before, now) for name in of_one):
            cells = [f"{of_one[name]:.2f}" if name in of_one else "" for of_one in (now, *before)]
            cells += [f"{now[name] / b[name]:.3f}" for b in before if name in now and name in b]
            print(f"{name:46s}" + "".join(f"{cell:>10s}" for cell in cells), flush=True)


if __name__ == "__main__":
    main(tyro.cli(Args))
