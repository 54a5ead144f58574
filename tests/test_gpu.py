"""What only a device can show: streams, PyTorch's memory, CUDA graphs, determinism. `pytest -m gpu`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import srwm
from srwm import _dispatch
from tests.operators import (
    CUDA,
    ROWS,
    SRWM,
    STARTS,
    TOLERANCE,
    assert_close,
    assert_same,
    each_operator,
    each_start,
    random_case,
    truth_of,
)

pytestmark = [
    pytest.mark.gpu,
    # All of it is about a device; the states say why there is none.
    pytest.mark.skipif(_dispatch.states()["cuda"] != "usable", reason=_dispatch.states()["cuda"]),
]


def on_device(case, *, dtype=None, requires_grad=False):
    """The case as tensors on the device, its state and gradients in its own dtype."""
    import torch

    def tensor(a):
        t = torch.tensor(a, device="cuda")
        return t if dtype is None or t.dtype == torch.bool else t.to(getattr(torch, dtype))

    case = case.map(tensor)
    for t in case.given if requires_grad else ():
        t.requires_grad_()
    return case


def trained(case):
    import torch

    results = case.row.forward(case.flat)
    gradients = torch.autograd.grad(results, case.given, case.incoming, materialize_grads=True)
    named = {f"g{case.row.op.flat[i].name}": g for i, g in zip(case.places, gradients, strict=True)}
    named |= dict(zip(case.row.result_names, results, strict=True))
    return {name: t.detach().double().cpu().numpy() for name, t in named.items()}


@pytest.mark.parametrize("D", [16, 32, 64, 128])
@each_operator
def test_bitwise_the_same_ten_times(row, D):
    case = random_case(row, ((64, 4), (4,), 50, D, D), **STARTS["state-reset"]).astype(np.float32)
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

    case = random_case(row, ((8,), (), 20, 16, 16), **STARTS["state-reset"])
    truth = truth_of(case)
    with cupy.cuda.Stream(non_blocking=True) as stream:
        y, _ = row.forward(case.map(cupy.asarray).flat)
        stream.synchronize()
    assert isinstance(y, cupy.ndarray)
    assert_close({"y": y.get()}, {"y": truth["y"]}, TOLERANCE["float64"])


@each_operator
def test_calls_of_a_thread_that_has_used_no_device_yet(row):
    """It has no context: PyTorch's allocator may have memory for it without making one."""
    case = on_device(random_case(row, ((8,), (), 20, 16, 16), **STARTS["state-reset"]), requires_grad=True)
    for _ in range(2):
        expected = trained(case)
        with ThreadPoolExecutor(1) as thread:
            assert_same(thread.submit(trained, case).result(), expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@each_start
@each_operator
def test_tensors(row, start, dtype):
    import torch

    case = on_device(random_case(row, ((8, 1), (4,), 40, 16, 16), **start), dtype=dtype, requires_grad=True)
    rounded = case.map(lambda t: (t if t.dtype == torch.bool else t.detach().double()).cpu().numpy())
    with torch.cuda.stream(torch.cuda.Stream()):
        got = trained(case)
    assert_close(got, truth_of(rounded), TOLERANCE[dtype])


@each_start
@each_operator
def test_gradcheck(row, start):
    import torch

    case = on_device(random_case(row, ((2,), (), 5, 3, 4), **start), requires_grad=True)
    assert torch.autograd.gradcheck(lambda *a: row.forward(case.of_given(a)), case.given)


@each_operator
def test_a_cuda_graph_is_captured_and_replayed(row):
    import torch

    case = on_device(random_case(row, ((8,), (), 20, 16, 16), **STARTS["state-reset"]), dtype="float32")
    srwm.warmup(16, 16)
    row.forward(case.flat)  # the first call compiles, which no capture can hold
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y, state = row.forward(case.flat)
    case.flat[0].mul_(0.5)
    graph.replay()
    for a, b in zip((y, state), row.forward(case.flat), strict=True):
        assert torch.equal(a, b)


@each_start
@each_operator
def test_registration_is_what_torch_expects(row, start):
    import torch

    from srwm._torch_operator import torch_operator

    case = on_device(random_case(row, **start), requires_grad=True)
    torch.library.opcheck(torch_operator(row.op).forward, (*case.flat, False, True, None, None))


@each_operator
def test_compiled_calls_are_the_operator(row):
    import torch

    case = on_device(random_case(row, ((4,), (4,), 9, 8, 8), **STARTS["state-reset"]), requires_grad=True)

    def f(*given):
        y, state = row.forward(case.of_given(given))
        return y.tanh().sum() + state.square().sum()

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*case.given), f(*case.given))
    got, expected = (torch.autograd.grad(g(*case.given), case.given) for g in (compiled, f))
    torch.testing.assert_close(got, expected)


@each_operator
def test_ordinary_tensors_go_past_the_dispatcher_to_the_same_result(row):
    import torch

    from srwm._torch_operator import torch_operator
    from srwm._torch_private import is_plain

    case = on_device(random_case(row, ((4,), (4,), 9, 8, 8), **STARTS["state-reset"]))
    assert is_plain(case.flat)
    through = torch_operator(row.op).forward(*case.flat, None, True, None, None)[:2]
    for a, b in zip(row.forward(case.flat), through, strict=True):
        assert torch.equal(a, b)


@each_operator
def test_vmap_adds_a_leading_axis(row):
    import torch

    case = on_device(random_case(row, ((3,), (3,), 9, 8, 8)))
    vmapped = torch.func.vmap(lambda *given: row.forward(case.of_given(given)))(*case.given)
    torch.testing.assert_close(vmapped, row.forward(case.flat))


@pytest.mark.parametrize("name", ["SRWM", "DeltaNet", "SRDelta", "FakeSR"])
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
    plain = random_case(row, (*lead, L, 4, 3), **STARTS["state-reset"])
    assert_close(trained(on_device(plain, requires_grad=True)), truth_of(plain), TOLERANCE["float64"])


@each_start
@each_operator
def test_the_reference_on_cupy_arrays(row, start):
    import cupy

    case = random_case(row, ((2,), (), 5, 4, 3), **start)
    results, pullback = row.vjp(case.map(cupy.asarray).flat, backend="reference")
    assert isinstance(results[0], cupy.ndarray)
    gradients = [None if g is None else g.get() for g in pullback(*map(cupy.asarray, case.incoming))]
    assert_close(case.named([a.get() for a in results], gradients), truth_of(case), TOLERANCE["float64"])


def test_blocks_of_cupy_arrays():
    import cupy

    W = cupy.asarray(random_case(SRWM, ((2,), (2,), 5, 4, 3))["W"])
    assert (srwm.pack(*srwm.unpack(W)) == W).all()


@pytest.mark.parametrize("row", ROWS, ids=repr)
def test_operands_on_two_devices_are_refused(row):
    import torch

    plain = random_case(row, ((), (), 3, 4, 4)).map(torch.tensor)
    for i in plain.places:
        flat = (*plain.flat[:i], plain.flat[i].cuda(), *plain.flat[i + 1 :])
        with pytest.raises(ValueError, match=rf"^{row.op.verb('forward')}: .*cpu"):
            row.forward(flat)
