"""CuPy arrays: streams, devices, captures, memory of other libraries.

`pytest -m gpu` runs them on a device, test_cupy_on_host.py without one. What is asked of `cuda` can be seen
only there.
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

import srwm
from srwm import _checks, _numpy, _plan
from srwm._raw_kernels import loader
from tests.cuda_host import under_cupy
from tests.cuda_host.tensors import taken_for_cuda
from tests.devices import ON_A_DEVICE, require_bfloat16_of_cupy
from tests.operators import (
    EVERYTHING,
    ON_CUDA,
    RECURRENT_DELTA,
    THOROUGH,
    TOLERANCE,
    assert_close,
    assert_same,
    each_operator,
    each_operator_and_start,
    random_case,
    starts_of,
    truth_of,
)

pytestmark = [*ON_A_DEVICE]

# Most of what this costs without a device is the compilation of kernels: those of this D and this Do serve
# tests/test_torch_on_cuda.py, too.
SIZE = ((2, 3), (3,), 5, 4, 6)
NEXT_TO_IT = ((2, 3), (2, 3), 5, 4, 6)  # the same with nothing that is broadcast


def cupy():
    import cupy

    return cupy


@pytest.fixture
def cuda():
    """CUDA on the host, with nothing launched yet; skips on a device."""
    if under_cupy.cuda is None:
        pytest.skip("a device does not tell what was launched where")
    under_cupy.cuda.launched.clear()
    return under_cupy.cuda


@pytest.fixture
def two_devices():
    if cupy().cuda.runtime.getDeviceCount() < 2:
        pytest.skip("there is one device")


def on_device(case):
    return case.map(cupy().asarray)


def computed(case):
    """The results, and the gradients of all operands."""
    results, pullback = case.row.vjp(case.flat)
    return results, pullback(*case.incoming)


def results_of(case):
    """All results of a case of CuPy arrays by name, as NumPy arrays."""
    results, gradients = computed(case)
    assert {a.device.id for a in (*results, *gradients) if a is not None} == {case.flat[0].device.id}
    return case.named(
        *([None if a is None else a.get() for a in arrays] for arrays in (results, gradients))
    )


@each_operator_and_start
def test_results_are_the_references_and_of_cupy(row, start):
    case = random_case(row, SIZE, **start)
    y = row.forward(on_device(case).flat)[0]
    assert isinstance(y, cupy().ndarray)
    assert_close(results_of(on_device(case)), truth_of(case), TOLERANCE["float64"])


@pytest.mark.slow_where(lambda row: row not in THOROUGH)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@each_operator
def test_every_dtype(row, dtype):
    if dtype is ml_dtypes.bfloat16:
        require_bfloat16_of_cupy()
    case = random_case(row, SIZE, **EVERYTHING).astype(dtype)
    got = results_of(on_device(case))
    assert {a.dtype for a in got.values()} == {np.dtype(dtype)}
    assert_close(got, truth_of(case), TOLERANCE[np.dtype(dtype).name])


def test_room_has_the_bytes_that_were_asked_for():
    a = cupy().zeros(3)
    address, memory = _numpy._CUDA.room(a)(1000)
    assert (memory.nbytes, memory.data.ptr, memory.device.id) == (1000, address, 0)


@each_operator
def test_launches_go_to_the_current_stream(row, cuda):
    case = on_device(random_case(row, SIZE))
    with cupy().cuda.Stream(non_blocking=True) as stream:
        results_of(case)
    assert {launched.stream for launched in cuda.launched} == {stream.ptr}
    cuda.launched.clear()
    results_of(case)
    assert {launched.stream for launched in cuda.launched} == {cupy().cuda.get_current_stream().ptr}


@each_operator
def test_a_call_without_a_gradient_is_one_launch(row, cuda):
    case = on_device(random_case(row, SIZE))
    for _ in range(3):
        row.forward(case.flat)
    assert [launched.kernel for launched in cuda.launched] == [f"{row.op.name}_forward"] * 3


@each_operator
def test_a_layout_that_has_come_before_is_not_checked_again(row, monkeypatch):
    case = on_device(random_case(row, SIZE, **EVERYTHING))
    expected = row.forward(case.flat)
    monkeypatch.setattr(_checks, "operands", None)
    for a, b in zip(row.forward(case.flat), expected, strict=True):
        assert (a.get() == b.get()).all()


@each_operator
def test_the_device_of_the_arrays_computes_and_the_current_one_stays(row, two_devices):
    case = random_case(row, SIZE)
    for index in (1, 0):
        with cupy().cuda.Device(index):
            there = on_device(case)
        with cupy().cuda.Device(1 - index):
            got = results_of(there)
            assert cupy().cuda.runtime.getDevice() == 1 - index
        assert_close(got, truth_of(case), TOLERANCE["float64"])


@each_operator
def test_launches_are_on_the_device_of_the_arrays(row, cuda):
    with cupy().cuda.Device(1):
        case = on_device(random_case(row, SIZE))
    results_of(case)
    assert {launched.device for launched in cuda.launched} == {1}


@each_operator
def test_a_thread_that_has_no_context_yet(row):
    case = random_case(row, SIZE)
    there = on_device(case)
    results_of(there)
    with ThreadPoolExecutor(1) as thread:
        assert_close(thread.submit(results_of, there).result(), truth_of(case), TOLERANCE["float64"])


@each_operator
def test_gradients_on_another_device_are_refused(row, two_devices):
    case = on_device(random_case(row, SIZE, **EVERYTHING))
    _, pullback = row.vjp(case.flat)
    for i, name in enumerate(row.op.gradient_arguments):
        with cupy().cuda.Device(1):
            incoming = [cupy().asarray(g.get()) if i == j else g for j, g in enumerate(case.incoming)]
        message = re.escape(f"{name}: expected on the device of {row.op.names[0]}, cuda:0, got cuda:1")
        with pytest.raises(ValueError, match=message):
            row.backward(case.flat, *incoming)
        with pytest.raises(ValueError, match=message):
            pullback(*incoming)


@each_operator
def test_operands_on_two_devices_are_refused(row, two_devices):
    case = on_device(random_case(row, SIZE, **EVERYTHING))
    for operand, a in list(zip(row.op.flat, case.flat, strict=True))[1:]:
        if a is None:
            continue
        with cupy().cuda.Device(1):
            elsewhere = cupy().asarray(a.get())
        flat = [elsewhere if other is a else other for other in case.flat]
        message = f"{operand.name}: expected on the device of {row.op.names[0]}, cuda:0, got cuda:1"
        with pytest.raises(ValueError, match=re.escape(message)):
            row.forward(flat)


def misaligned(a):
    """The same entries one byte further."""
    memory = cupy().zeros(a.nbytes + 1, np.uint8)
    moved = cupy().ndarray(a.shape, a.dtype, memory.data + 1)
    moved.set(a.get())
    assert moved.data.ptr % a.dtype.itemsize != 0
    return moved


@pytest.mark.parametrize("index", [0, 1])
@each_operator
def test_misaligned_arrays_are_copied_on_their_device(row, index):
    if index >= cupy().cuda.runtime.getDeviceCount():
        pytest.skip("there is one device")
    with cupy().cuda.Device(index):
        case = on_device(random_case(row, SIZE, **EVERYTHING))
        flats = [
            (*case.flat[:i], misaligned(a), *case.flat[i + 1 :])
            for i, a in enumerate(case.flat)
            if a is not None and a.dtype.itemsize > 1
        ]
        incomings = [
            (*case.incoming[:i], misaligned(g), *case.incoming[i + 1 :])
            for i, g in enumerate(case.incoming)
        ]
    expected = results_of(case)
    for flat in flats:
        assert_same(results_of(replace(case, flat=flat)), expected)
        assert row.forward(flat)[0].device.id == index
    for incoming in incomings:
        assert_same(results_of(replace(case, incoming=incoming)), expected)


class Elsewhere:
    """Arrays of a library that has nothing but DLPack, on a device."""

    def __init__(self, a):
        self.a, self.shape, self.dtype, self.ndim = a, a.shape, a.dtype, a.ndim

    def __dlpack__(self, **options):
        return self.a.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.a.__dlpack_device__()

    def __array_namespace__(self):
        return self

    @staticmethod
    def from_dlpack(a):
        return Elsewhere(cupy().from_dlpack(a))


@each_operator
def test_arrays_of_another_library_come_back_as_its_arrays(row):
    case = random_case(row, SIZE, **EVERYTHING)
    there = on_device(case).map(Elsewhere)
    results, pullback = row.vjp(there.flat)
    gradients = pullback(*there.incoming)
    got = [[None if a is None else a.a.get() for a in arrays] for arrays in (results, gradients)]
    assert_close(case.named(*got), truth_of(case), TOLERANCE["float64"])


# ---- the capture of a CUDA graph


@pytest.fixture
def nothing_loaded(monkeypatch):
    """As in a process that has called nothing yet."""
    monkeypatch.setattr(loader, "_loaded", {})
    _plan.forget()
    yield
    _plan.forget()


@pytest.fixture
def captured(cuda):
    """A context in which the current stream is captured."""

    @contextmanager
    def capture():
        with cupy().cuda.Stream(non_blocking=True) as stream:
            cuda.api.capturing.add(stream.ptr)
            try:
                yield
            finally:
                cuda.api.capturing.clear()

    return capture


@each_operator
def test_a_capture_that_comes_too_early_is_told_what_to_do(row, captured, nothing_loaded, cuda):
    case = on_device(random_case(row, SIZE))
    what_to_do = rf"^{row.op.name}_forward: .*call srwm\.warmup\(D, Do, dtype\) there"
    with captured(), pytest.raises(RuntimeError, match=what_to_do):
        row.forward(case.flat)
    assert cuda.launched == []
    computed(case)
    with captured():
        computed(case)


# In float64 states have no other dtype, and so few kernels. Of the operators with several states and with
# parameters one runs in all dtypes.
@pytest.mark.slow_where(
    lambda row, dtype: dtype is not np.float64 and row not in (*ON_CUDA, RECURRENT_DELTA)
)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
@each_operator
def test_a_warmed_step_can_be_captured(row, dtype, captured, nothing_loaded):
    """Whatever is broadcast, and whatever the dtype of the state: nothing is left to load."""
    if dtype is ml_dtypes.bfloat16:
        require_bfloat16_of_cupy()
    of_states = {np.dtype(dtype), np.dtype(np.float64 if dtype is np.float64 else np.float32)}
    cases = [
        on_device(random_case(row, size, **start, leads={"state": of}).astype(dtype, of_state))
        for size in (SIZE, NEXT_TO_IT, ((3,), (2, 3), 5, 4, 6))
        for start in starts_of(row).values()
        for of in ((2, 3), (3,))
        for of_state in of_states
    ]
    srwm.warmup(4, 6, np.dtype(dtype).name, operators=[row.op.module or row.op.name])
    loaded = set(loader._loaded)
    with captured():
        for case in cases:
            computed(case)
    assert set(loader._loaded) == loaded


# ---- tensors, by the same road to the driver


@each_operator
def test_tensors_are_launched_on_their_device_in_their_stream(row, cuda):
    torch = pytest.importorskip("torch")
    plain = random_case(row, SIZE, **EVERYTHING)
    case = plain.map(torch.tensor)
    with taken_for_cuda() as seen:
        seen.stream = 77
        for index in (0, 1):
            seen.device = index
            cuda.launched.clear()
            results, gradients = computed(case)
            assert {(launched.device, launched.stream) for launched in cuda.launched} == {(index, 77)}
            got = [[None if t is None else t.numpy() for t in tensors] for tensors in (results, gradients)]
            assert_close(plain.named(*got), truth_of(plain), TOLERANCE["float64"])


@each_operator
def test_a_capture_of_tensors_that_comes_too_early_is_told_what_to_do(row, cuda, nothing_loaded):
    torch = pytest.importorskip("torch")
    case = random_case(row, SIZE).map(torch.tensor)
    with taken_for_cuda() as seen:
        seen.stream = 78
        cuda.api.capturing.add(78)
        with pytest.raises(RuntimeError, match=rf"^{row.op.name}_forward: .*srwm\.warmup"):
            row.forward(case.flat)
        seen.stream = 79  # nothing is captured there
        row.forward(case.flat)
        seen.stream = 78
        row.forward(case.flat)
        cuda.api.capturing.clear()
    assert [launched.stream for launched in cuda.launched] == [79, 78]


@pytest.mark.parametrize("index", [0, 1])
@each_operator
def test_a_thread_of_tensors_gets_a_context_for_a_launch(row, index, cuda):
    """It may have none: torch's allocator may have memory for it without making one."""
    torch = pytest.importorskip("torch")
    case = random_case(row, SIZE).map(torch.tensor)
    with taken_for_cuda() as seen:
        seen.device = index
        expected = row.forward(case.flat)[0]
        cuda.api.with_context = False
        assert torch.equal(row.forward(case.flat)[0], expected)
    assert cuda.api.getDevice() == 0
