"""What is on a device of ROCm is refused by name, on every road: the kernels are for the CPU and for CUDA.

A build of PyTorch for ROCm calls its devices "cuda", too.
"""

from __future__ import annotations

import re
import sys
from types import SimpleNamespace

import pytest

from srwm import _dispatch, _plan
from srwm._cy import exchange
from tests.operators import EVERYTHING, assert_close, each_operator, random_case, run

SIZE = ((2,), (), 5, 4, 3)
ROCM = 10  # DLPack's number

NOBODY = (
    "no backend takes arrays on the rocm device here ("
    "cython: it takes CPU arrays, these are on the rocm device; "
    "cuda: it takes CUDA arrays, these are on the rocm device; reference: "
)
BY_NAME = {
    None: NOBODY,
    "cuda": "backend 'cuda' cannot run: it takes CUDA arrays, these are on the rocm device; ask for",
    "cython": "backend 'cython' cannot run: it takes CPU arrays, these are on the rocm device; ask for",
}
each_backend = pytest.mark.parametrize("backend", BY_NAME, ids=str)


@pytest.fixture(autouse=True)
def fresh_table(monkeypatch):
    """The package's own backends, and nothing remembered."""
    monkeypatch.delitem(_dispatch.BACKENDS, "cuda-on-host", raising=False)
    _forget()
    yield
    _forget()


def _forget():
    _dispatch._resolve.cache_clear()
    _dispatch.module("cuda").unusable.cache_clear()
    _plan.forget()


def refused(row, verb, backend):
    """In it a call must be refused with this backend's message."""
    message = re.escape(f"{row.op.verb(verb)}: {BY_NAME[backend]}")
    return pytest.raises(RuntimeError, match=f"^{message}")


# ---- torch


@pytest.fixture
def torch(monkeypatch):
    """PyTorch as if it were built for ROCm."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.version, "hip", "7.1")
    return torch


@pytest.fixture
def fake(torch):
    """`fake(case)`: its operands and gradients as tensors on a device, without memory."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():

        def tensor(a):
            return torch.empty(a.shape, dtype=getattr(torch, a.dtype.name), device="cuda")

        yield lambda case: case.map(tensor)


@each_backend
@each_operator
def test_tensors_of_a_trace(row, backend, fake):
    from srwm._torch_operator import torch_operator

    flat = fake(random_case(row, SIZE, **EVERYTHING)).flat
    with refused(row, "forward", backend):
        torch_operator(row.op).forward(*flat, "it", True, *row.op.values, backend, None)


@each_backend
@each_operator
def test_vjp_and_backward(row, backend, fake):
    case = fake(random_case(row, SIZE, **EVERYTHING))
    with refused(row, "vjp", backend):
        row.vjp(case.flat, backend=backend)
    with refused(row, "backward", backend):
        row.backward(case.flat, *case.incoming, backend=backend)


@pytest.fixture
def tensors_of_rocm(torch, monkeypatch):
    """CPU tensors that the front end takes for a device's: they say what those of ROCm say."""
    from srwm import _checks, _torch_kernels

    def described(t):
        strides = tuple(t.element_size() * stride for stride in t.stride())
        return t.data_ptr(), _checks.dtype_name(t.dtype), (ROCM, 0), tuple(t.shape), strides

    read = staticmethod(lambda ts: exchange.pack(None if t is None else described(t) for t in ts))
    monkeypatch.setattr(_torch_kernels._Tensors, "read", read)


@each_backend
@each_operator
def test_plain_tensors(row, backend, torch, tensors_of_rocm):
    flat = random_case(row, SIZE, **EVERYTHING).map(torch.tensor).flat
    with refused(row, "forward", backend):
        row.forward(flat, backend=backend)
    leaves = [t if t is None else t.requires_grad_(t.is_floating_point()) for t in flat]
    with refused(row, "forward", backend):
        row.forward(tuple(leaves), backend=backend)


@each_operator
def test_the_reference_runs_where_it_is_asked_for(row, torch, tensors_of_rocm):
    case = random_case(row, SIZE, **EVERYTHING)
    expected = run(case, backend="reference")
    got = run(case.map(torch.tensor), backend="reference")
    assert_close(got, expected, 1e-12)


def test_what_a_tensor_says_without_the_exchange_api(torch):
    """As before PyTorch 2.11, which tells DLPack's type by itself."""
    from srwm import _torch_kernels

    def described(device):
        own = {"data_ptr": lambda: 64, "element_size": lambda: 4, "stride": lambda: (1,)}
        t = SimpleNamespace(**own, dtype=torch.float32, shape=(3,), device=torch.device(device))
        return _torch_kernels._described((t,))

    assert described("cuda:1") == exchange.pack([(64, "float32", (ROCM, 1), (3,), (4,))])
    assert described("cpu") == exchange.pack([(64, "float32", (1, 0), (3,), (4,))])


def test_the_same_devices_of_cuda(torch, monkeypatch):
    from srwm import _torch_kernels

    monkeypatch.setattr(torch.version, "hip", None)
    kinds = {name: _torch_kernels.kind_of(torch.device(name)) for name in ("cpu", "cuda", "meta")}
    assert kinds == {"cpu": "cpu", "cuda": "cuda", "meta": "meta"}


# ---- arrays of other libraries


class Array:
    """An array of a library that is neither NumPy nor CuPy, on a device."""

    def __init__(self, a, device):
        self.shape, self.dtype, self.device = a.shape, a.dtype, device

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, **options):
        raise AssertionError("nobody can take it")


@each_backend
@each_operator
def test_arrays(row, backend):
    case = random_case(row, SIZE, **EVERYTHING).map(lambda a: Array(a, (ROCM, 0)))
    with refused(row, "forward", backend):
        row.forward(case.flat, backend=backend)
    with refused(row, "vjp", backend):
        row.vjp(case.flat, backend=backend)
    with refused(row, "backward", backend):
        row.backward(case.flat, *case.incoming, backend=backend)


@each_operator
@pytest.mark.parametrize(
    ("number", "kind"), [(11, "rocm"), (8, "metal"), (14, "oneapi"), (99, "DLPack type 99")]
)
def test_arrays_of_other_devices(row, number, kind):
    flat = random_case(row, SIZE).map(lambda a: Array(a, (number, 0))).flat
    message = f"{row.op.verb('forward')}: {NOBODY}".replace("rocm", kind)
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}"):
        row.forward(flat)


@each_operator
@pytest.mark.parametrize("number", [2, 3, 13])
def test_arrays_of_cuda_without_cupy(row, number, monkeypatch):
    """In memory of the device, of the host, of both."""
    monkeypatch.setitem(sys.modules, "cupy", None)
    flat = random_case(row, SIZE).map(lambda a: Array(a, (number, 0))).flat
    message = (
        f"{row.op.verb('forward')}: {row.op.names[0]}: expected CuPy, which views arrays of a device, but "
    )
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}CuPy cannot be imported") as refusal:
        row.forward(flat)
    assert str(refusal.value).endswith("install srwm[cuda12] or srwm[cuda13]")
