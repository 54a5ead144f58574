"""What only a device can show: streams, PyTorch's memory, CUDA graphs, determinism. `pytest -m gpu`.

torch's transforms and compilers on a device: rows of tests/test_transforms.py.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import srwm
from tests.devices import ON_A_DEVICE, require_bfloat16_of_cupy
from tests.operators import (
    CUDA,
    EVERYTHING,
    ON_CUDA,
    ROWS,
    SRWM,
    TOLERANCE,
    assert_close,
    assert_same,
    each_operator,
    each_operator_and_start,
    random_case,
    tensors_of,
    trained,
    truth_of,
    truth_of_tensors,
)

pytestmark = [*ON_A_DEVICE]


def on_device(case, dtype=None, *, requires_grad=False):
    """The case as tensors on the device, its state and gradients in its own dtype."""
    return tensors_of(case, "cuda", dtype, requires_grad=requires_grad)


# Kernels with a layout for each size run at all of them, the others where a state is in either memory.
OF_ALL_LAYOUTS = [(row, D) for row in ROWS for D in ((16, 32, 64, 128) if row in ON_CUDA else (16, 64))]


@pytest.mark.parametrize(("row", "D"), OF_ALL_LAYOUTS, ids=repr)
def test_bitwise_the_same_ten_times(row, D):
    case = random_case(row, ((64, 4), (4,), 50, D, D), **EVERYTHING).astype(np.float32)
    first = CUDA.run(case)
    for _ in range(10):
        assert_same(CUDA.run(case), first)


@each_operator
def test_more_sequences_than_run_at_a_time(row):
    case = random_case(row, ((100_000,), (), 2, 4, 4)).astype(np.float32)
    assert_close(CUDA.run(case), truth_of(case), TOLERANCE["float32"])


@each_operator
def test_cupy_arrays_in_any_stream_and_out_of_it(row):
    import cupy

    case = random_case(row, ((8,), (), 20, 16, 16), **EVERYTHING)
    truth = truth_of(case)
    with cupy.cuda.Stream(non_blocking=True) as stream:
        y, *_ = row.forward(case.map(cupy.asarray).flat)
        stream.synchronize()
    assert isinstance(y, cupy.ndarray)
    assert_close({"y": y.get()}, {"y": truth["y"]}, TOLERANCE["float64"])


@each_operator
def test_calls_of_a_thread_that_has_used_no_device_yet(row):
    """It has no context: PyTorch's allocator may have memory for it without making one."""
    case = on_device(random_case(row, ((8,), (), 20, 16, 16), **EVERYTHING), requires_grad=True)
    for _ in range(2):
        expected = trained(case)
        with ThreadPoolExecutor(1) as thread:
            assert_same(thread.submit(trained, case).result(), expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@each_operator_and_start
def test_tensors(row, start, dtype):
    import torch

    case = on_device(random_case(row, ((8, 1), (4,), 40, 16, 16), **start), dtype, requires_grad=True)
    truth = truth_of_tensors(case)
    with torch.cuda.stream(torch.cuda.Stream()):
        got = trained(case)
    assert_close(got, truth, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@each_operator_and_start
def test_the_reference_on_halves(row, start, dtype):
    case = on_device(random_case(row, ((2,), (), 5, 4, 3), **start), dtype, requires_grad=True)
    got = trained(case, lambda flat: row.forward(flat, backend="reference"))
    assert_close(got, truth_of_tensors(case), TOLERANCE[dtype])


@each_operator
def test_memory_that_another_stream_reads_is_not_given_out_again(row):
    """`record_stream` on a result: the allocator waits for that stream before it uses the memory again."""
    import torch

    case = on_device(random_case(row, ((4096,), (), 100, 16, 16)), "float32")  # 25 MiB: a block of its own
    other = torch.cuda.Stream()
    torch.cuda.empty_cache()
    for is_recorded in (False, True):
        y = row.forward(case.flat, return_state=False)
        at = y.data_ptr()
        if is_recorded:
            with torch.cuda.stream(other):
                torch.cuda._sleep(1_000_000_000)  # keeps it busy for half a second
            y.record_stream(other)
        del y
        again = row.forward(case.flat, return_state=False)
        assert (again.data_ptr() == at) == (not is_recorded)
        del again
    torch.cuda.synchronize()


@each_operator
def test_storages_of_results_are_emptied_and_filled_again(row):
    """As `FSDP` does with what it shards: the memory goes back to PyTorch's allocator."""
    import torch

    case = on_device(random_case(row, ((64,), (), 50, 16, 16)), "float32", requires_grad=True)
    results = row.forward(case.flat)
    gradients = torch.autograd.grad(results, case.given, case.incoming)
    for t in (t.detach() for t in (*results, *gradients)):
        kept, storage = t.clone(), t.untyped_storage()
        nbytes, before = storage.nbytes(), torch.cuda.memory_allocated()
        storage.resize_(0)
        assert before - torch.cuda.memory_allocated() >= nbytes
        storage.resize_(nbytes)
        t.copy_(kept)
        assert torch.equal(t, kept)


@each_operator
def test_a_cuda_graph_is_captured_and_replayed(row):
    import torch

    case = on_device(random_case(row, ((8,), (), 20, 16, 16), **EVERYTHING), "float32")
    srwm.warmup(16, 16, operators=[row.op.module or row.op.name])  # which is all that a capture needs
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = row.forward(case.flat)
    case.flat[0].mul_(0.5)
    graph.replay()
    for a, b in zip(captured, row.forward(case.flat), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@each_operator
def test_gradients_of_shared_halves_are_captured_and_replayed(row, dtype):
    """The gradient of a shared operand is a sum, whose parts want room in the graph's own memory."""
    import torch

    size = ((4, 3), (3,), 40, 16, 16)
    case = on_device(random_case(row, size, **EVERYTHING), dtype, requires_grad=True)

    def training_step():
        results = row.forward(case.flat)
        return *results, *torch.autograd.grad(results, case.given, case.incoming, materialize_grads=True)

    srwm.warmup(16, 16, dtype, operators=[row.op.module or row.op.name])
    torch.ones(1, device="cuda", requires_grad=True).sum().backward()  # starts autograd's thread
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = training_step()
    with torch.no_grad():
        case.flat[0].mul_(0.5)
    graph.replay()
    for a, b in zip(captured, training_step(), strict=True):
        assert torch.equal(a, b)


@each_operator
def test_ordinary_tensors_go_past_the_dispatcher_to_the_same_result(row):
    import torch

    from srwm._torch_operator import torch_operator
    from srwm._torch_private import is_plain

    case = on_device(random_case(row, ((4,), (4,), 9, 8, 8), **EVERYTHING))
    assert is_plain(case.flat)
    expected = row.forward(case.flat)
    through = torch_operator(row.op).forward(*case.flat, None, True, *row.op.values, None, None)
    for a, b in zip(expected, through[: len(expected)], strict=True):
        assert torch.equal(a, b)


LAYERS = (
    *("SRWM", "DeltaNet", "SRDelta", "FakeSR", "LinearAttention", "RecurrentDeltaNet", "DeltaRNN"),
    *("DeltaDelta", "SelfModifyingTitans"),
)


@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_those_of_the_cpu(name):
    """A sequence, then a step with its state; gradients of everything, and autocast's dtypes."""
    import torch

    from srwm import nn

    torch.manual_seed(0)
    layer = getattr(nn, name)(32, 4).double()
    h, step = torch.randn(3, 20, 32).double(), torch.randn(3, 1, 32).double()
    results = {}
    for device in ("cpu", "cuda"):
        layer.to(device).zero_grad()
        out, state = layer(h.to(device))
        last, _ = layer(step.to(device), state)
        (out.square().sum() + last.sum()).backward()
        results[device] = [out, last, *(p.grad.clone() for p in layer.parameters())]
    for ours, theirs in zip(results["cuda"], results["cpu"], strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-9, atol=1e-9)
    with torch.autocast("cuda", torch.bfloat16):
        out, state = layer.float()(h.float().cuda())
    assert out.isfinite().all()
    assert state is None or state.dtype == torch.float32


@pytest.mark.parametrize("lead", [((0,), ()), ((0, 2), (1, 2)), ((2,), (2,))])
@pytest.mark.parametrize("L", [0, 3])
@each_operator
def test_tensors_with_empty_axes(row, lead, L):
    plain = random_case(row, (*lead, L, 4, 3), **EVERYTHING)
    assert_close(trained(on_device(plain, requires_grad=True)), truth_of(plain), TOLERANCE["float64"])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@each_operator_and_start
def test_the_reference_on_cupy_arrays(row, start, dtype):
    import cupy
    import ml_dtypes

    if dtype == "bfloat16":
        require_bfloat16_of_cupy()
    stored = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    case = random_case(row, ((2,), (), 5, 4, 3), **start).astype(stored)
    results, pullback = row.vjp(case.map(cupy.asarray).flat, backend="reference")
    assert isinstance(results[0], cupy.ndarray)
    gradients = [None if g is None else g.get() for g in pullback(*map(cupy.asarray, case.incoming))]
    got = case.named([a.get() for a in results], gradients)
    assert {a.dtype for a in got.values()} == {case.flat[0].dtype}
    assert_close(got, truth_of(case), TOLERANCE[dtype])


def test_blocks_of_cupy_arrays():
    import cupy

    W = cupy.asarray(random_case(SRWM, ((2,), (2,), 5, 4, 3))["W"])
    assert (srwm.pack(*srwm.unpack(W)) == W).all()


@each_operator
def test_operands_on_two_devices_are_refused(row):
    import torch

    plain = random_case(row, ((), (), 3, 4, 4)).map(torch.tensor)
    for i in plain.places:
        flat = (*plain.flat[:i], plain.flat[i].cuda(), *plain.flat[i + 1 :])
        with pytest.raises(ValueError, match=rf"^{row.op.verb('forward')}: .*cpu"):
            row.forward(flat)
