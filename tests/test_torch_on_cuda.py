"""The torch front end on a device, without one: CPU tensors that it takes for a device's."""

from __future__ import annotations

import re
import threading
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from srwm import _torch_kernels
from srwm._cy import exchange, launch
from srwm._raw_kernels import backend as cuda
from srwm._torch_operator import torch_operator
from tests.cuda_host import backend as on_host
from tests.cuda_host.tensors import on_cuda
from tests.operators import (
    EVERYTHING,
    ON_CUDA,
    THOROUGH,
    TOLERANCE,
    assert_close,
    each_operator,
    each_operator_and_start,
    random_case,
    run,
    tensors_of,
    trained,
    truth_of,
    truth_of_tensors,
)
from tests.test_transforms import EAGER, Problem, assert_agree
from tests.test_transforms import (
    test_autocast_computes_in_the_dtype_of_the_initial_matrices as autocast_computes_right,
)

# Without a C++ compiler no kernel can be built; in CI tests/operators.py fails for that.
pytestmark = [
    pytest.mark.skipif(on_host.unusable() is not None, reason=str(on_host.unusable())),
    # PyTorch 2.13's forward mode compiles its decompositions so.
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning"),
]

SIZE = ((2,), (), 5, 4, 6)  # the D and the Do of Problem: one compilation of each kernel serves both


@pytest.fixture
def seen():
    with on_cuda() as seen:
        yield seen


# Ordinary tensors go past torch's dispatcher; what is compiled or transformed goes through it.
ROADS_OF_THE_REFERENCE = {
    "plain": lambda row, flat: row.forward(flat, backend="reference"),
    "dispatcher": lambda row, flat: torch_operator(row.op).forward(
        *flat, None, True, *row.op.values, "reference", None
    )[:-1],
}


def kernels_of(row, *verbs):
    return [f"{row.op.name}_{verb}" for verb in verbs]


@each_operator_and_start
def test_results_and_gradients_are_the_references(row, start, seen):
    case = random_case(row, SIZE, **start)
    got = run(case.map(torch.tensor))
    launched = [kernel for kernel, _ in seen.launched]
    assert launched[:1] == kernels_of(row, "forward")
    assert kernels_of(row, "backward")[0] in launched
    assert_close(got, truth_of(case), 1e-12)  # of NumPy arrays: another front end


@pytest.mark.parametrize("road", ROADS_OF_THE_REFERENCE)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@each_operator_and_start
def test_the_reference_takes_halves_on_a_device(row, start, dtype, road, seen):
    case = tensors_of(random_case(row, SIZE, **start), dtype=dtype, requires_grad=True)
    got = trained(case, lambda flat: ROADS_OF_THE_REFERENCE[road](row, flat))
    assert_close(got, truth_of_tensors(case), TOLERANCE[dtype])
    assert seen.launched == []


# Which go through the most of what an operator's operands decide: which of them want a gradient, and
# which of them are shared.
OF_EVERY_ROW = ("autograd of each alone", "vmap(grad), each shared", "autograd of vmap, each shared")


@pytest.mark.slow_where(lambda row, transform: row not in ON_CUDA and transform not in OF_EVERY_ROW)
@pytest.mark.parametrize("transform", EAGER)
@each_operator
def test_every_eager_transform(row, transform, seen):
    p = Problem(row, EVERYTHING)
    assert_agree(EAGER[transform](p, p.ours), EAGER[transform](p, p.plain))


@each_operator
def test_a_call_without_a_gradient_is_one_launch(row, seen):
    case = random_case(row, SIZE).map(torch.tensor)
    for _ in range(3):
        row.forward(case.flat)
    assert seen.launched == [(kernels_of(row, "forward")[0], 11)] * 3


@each_operator
def test_launches_go_to_the_stream_that_is_current(row, seen):
    """Of the forward call, and of the backward call: torch makes forward's current again for that."""
    case = random_case(row, SIZE).map(torch.tensor)
    leaves = [t if t is None else t.requires_grad_(t.is_floating_point()) for t in case.flat]
    seen.stream = 21
    y, *_ = row.forward(tuple(leaves))
    assert {stream for _, stream in seen.launched} == {21}
    seen.launched.clear()
    seen.stream = 22
    y.sum().backward()
    assert len(seen.launched) > 0
    assert {stream for _, stream in seen.launched} == {22}


@pytest.mark.slow_where(lambda row: row not in THOROUGH)
@each_operator_and_start
def test_autocast(row, start, seen):
    autocast_computes_right(row, start, "cpu")
    assert {kernel for kernel, _ in seen.launched} >= set(kernels_of(row, "forward", "backward"))


@pytest.mark.parametrize("has_api", [True, False])
def test_the_stream_is_asked_of_torch_for_the_device_of_the_tensors(has_api, monkeypatch):
    asked, device = [], torch.device("cuda:3")

    def current_stream(*of):
        asked.append(of)
        return 77 if has_api else SimpleNamespace(cuda_stream=77)

    monkeypatch.setattr(_torch_kernels, "_HAS_API", has_api)
    owner = exchange if has_api else torch.cuda
    monkeypatch.setattr(owner, "current_stream", current_stream)
    like = SimpleNamespace(is_cuda=True, device=device)
    assert _torch_kernels._Tensors.stream(like) == 77
    assert asked == [(torch.Tensor, 2, 3) if has_api else (device,)]


def test_working_memory_is_of_torch_on_the_device_of_the_tensors(monkeypatch):
    asked, memory = [], torch.zeros(5)

    def empty(*sizes, **of):
        asked.append((*sizes, of))
        return memory

    monkeypatch.setattr(torch, "empty", empty)
    like = SimpleNamespace(is_cuda=True, device=torch.device("cuda:3"))
    address, owner = _torch_kernels._Tensors.room(like)(40)
    assert (address, owner) == (memory.data_ptr(), memory)
    assert asked == [(40, {"dtype": torch.uint8, "device": like.device})]


def test_a_misaligned_tensor_is_copied_by_its_bytes(monkeypatch):
    """A kernel of torch's on a device would stop at its entries."""
    memory, cloned, clone = torch.arange(200, dtype=torch.uint8)[1:], [], torch.Tensor.clone
    t = torch.frombuffer(memory.numpy(), dtype=torch.float32, count=24).reshape(4, 6)[:, ::2]
    monkeypatch.setattr(torch.Tensor, "clone", lambda t, **how: cloned.append(t.dtype) or clone(t, **how))
    copy = _torch_kernels._Tensors.copy(t)
    assert cloned == [torch.uint8]
    assert copy.is_contiguous()
    assert torch.equal(copy, t)
    assert copy.data_ptr() % copy.element_size() == 0


@each_operator
def test_operands_on_two_devices_are_refused(row, seen):
    case = random_case(row, SIZE, **EVERYTHING).map(torch.tensor)
    for operand, t in list(zip(row.op.flat, case.flat, strict=True))[1:]:
        if t is None:
            continue
        seen.devices = {t.data_ptr(): 1}
        where = f"expected on the device of {row.op.names[0]}, cuda:0, got cuda:1"
        message = f"{row.op.verb('forward')}: {operand.name}: {where}"
        with pytest.raises(ValueError, match=rf"^{re.escape(message)}"):
            row.forward(case.flat)
    assert seen.launched == []


@each_operator
def test_misaligned_operands_and_gradients_are_copied(row, seen):
    case = random_case(row, SIZE, **EVERYTHING).map(torch.tensor)

    def misaligned(t):
        memory = torch.zeros(t.numel() * t.element_size() + 1, dtype=torch.uint8)[1:]
        odd = torch.frombuffer(memory.numpy(), dtype=t.dtype).reshape(t.shape)
        assert odd.data_ptr() % t.element_size() != 0
        return odd.copy_(t)

    def results(flat, incoming):
        return (*row.forward(flat), *row.backward(flat, *incoming))

    def each_misaligned(arrays):
        for i, t in enumerate(arrays):
            if t is not None and t.element_size() > 1:
                yield (*arrays[:i], misaligned(t), *arrays[i + 1 :])

    expected = results(case.flat, case.incoming)
    found = [results(flat, case.incoming) for flat in each_misaligned(case.flat)]
    found += [results(case.flat, incoming) for incoming in each_misaligned(case.incoming)]
    assert len(found) > 4
    for got in found:
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@each_operator
def test_threads_share_a_plan(row, seen):
    case = random_case(row, SIZE).map(torch.tensor)
    expected = row.forward(case.flat)
    failures = []

    def work():
        for _ in range(5):
            got = row.forward(case.flat)
            if not all(torch.equal(a, b) for a, b in zip(got, expected, strict=True)):
                failures.append(got)

    lock = threading.Lock()  # the stand-in keeps one call's memory at a time
    launched = on_host._OnHost._run

    def one_at_a_time(*arguments, **options):
        with lock:
            launched(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(on_host._OnHost, "_run", one_at_a_time)
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []


@each_operator
def test_what_is_saved_has_the_size_of_the_devices_backend(row, monkeypatch):
    """Where compilers ask: on tensors that have a device and no memory."""
    from srwm import _dispatch

    monkeypatch.setattr(cuda, "unusable", lambda: None)
    _dispatch._resolve.cache_clear()
    case = random_case(row, SIZE, **EVERYTHING).map(torch.tensor)
    with FakeTensorMode():
        flat = [
            None if t is None else torch.empty(t.shape, dtype=t.dtype, device="cuda") for t in case.flat
        ]
        *results, saved = torch_operator(row.op).forward(*flat, "it", True, *row.op.values, None, None)
    _dispatch._resolve.cache_clear()
    _, _, L, D, Do = SIZE
    assert saved.shape[-1] == launch.saved_entries(row.op.name, L, D, Do)
    assert [t.device.type for t in (*results, saved)] == ["cuda"] * (len(row.op.results) + 1)


@each_operator
def test_the_cpus_backend_declines_a_devices_tensors(row, seen):
    case = random_case(row, SIZE).map(torch.tensor)
    with pytest.raises(
        RuntimeError, match="'cython' cannot run: it takes CPU arrays, these are on the cuda"
    ):
        row.forward(case.flat, backend="cython")
