"""What only a device can show: streams, PyTorch's memory, CUDA graphs, determinism. `pytest -m gpu`."""

from __future__ import annotations

import numpy as np
import pytest

import srwm
from srwm import _dispatch
from tests.cases import TOLERANCE, assert_close, random_case, random_delta_case, run, run_delta
from tests.parity import CUDA, REFERENCE

pytestmark = [
    pytest.mark.gpu,
    # All of it is about a device; the states say why there is none.
    pytest.mark.skipif(_dispatch.states()["cuda"] != "usable", reason=_dispatch.states()["cuda"]),
]


@pytest.mark.parametrize("D", [16, 32, 64, 128])
def test_bitwise_the_same_ten_times(D):
    case = random_case(((64, 4), (4,), 50, D, D), with_reset=True).astype(np.float32)
    first = run(CUDA, case)
    for _ in range(10):
        again = run(CUDA, case)
        for name, a in first.items():
            assert np.array_equal(again[name], a), name


def test_more_sequences_than_run_at_a_time():
    case = random_case(((100_000,), (), 2, 4, 4)).astype(np.float32)
    assert_close(run(CUDA, case), run(REFERENCE, case.astype(np.float64)), TOLERANCE["float32"])


def test_cupy_arrays_in_any_stream_and_out_of_it():
    import cupy

    case = random_case(((8,), (), 20, 16, 16))
    truth = run(REFERENCE, case)
    with cupy.cuda.Stream(non_blocking=True) as stream:
        y = srwm.forward(cupy.asarray(case.x), cupy.asarray(case.W))
        stream.synchronize()
    assert isinstance(y, cupy.ndarray)
    assert_close({"y": y.get()}, {"y": truth["y"]}, TOLERANCE["float64"])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_torch_tensors(dtype):
    import torch

    case = random_case(((8, 1), (4,), 40, 16, 16), with_reset=True)
    operands = [torch.tensor(a, dtype=getattr(torch, dtype), device="cuda") for a in (case.x, case.W)]
    for t in operands:
        t.requires_grad_()
    reset = torch.tensor(case.reset, device="cuda")
    upstream = [
        torch.tensor(a, dtype=getattr(torch, dtype), device="cuda") for a in (case.grad_y, case.grad_W_next)
    ]
    x, W, grad_y, grad_W_next = (t.detach().double().cpu().numpy() for t in (*operands, *upstream))
    rounded = case._replace(x=x, W=W, grad_y=grad_y, grad_W_next=grad_W_next)
    with torch.cuda.stream(torch.cuda.Stream()):
        y, W_next = srwm.forward(*operands, reset=reset, return_state=True)
        torch.autograd.backward((y, W_next), upstream)
        torch.cuda.current_stream().synchronize()
    got = {"y": y, "W_next": W_next, "gx": operands[0].grad, "gW": operands[1].grad}
    got = {name: t.detach().double().cpu().numpy() for name, t in got.items()}
    assert_close(got, run(REFERENCE, rounded), TOLERANCE[dtype])


def test_torch_gradcheck():
    import torch

    case = random_case(((2,), (), 5, 3, 4))
    operands = [torch.tensor(a, device="cuda", requires_grad=True) for a in (case.x, case.W)]
    assert torch.autograd.gradcheck(lambda x, W: srwm.forward(x, W, return_state=True), operands)


def test_a_cuda_graph_is_captured_and_replayed():
    import torch

    case = random_case(((8,), (), 20, 16, 16))
    x, W = (torch.tensor(a, dtype=torch.float32, device="cuda") for a in (case.x, case.W))
    srwm.warmup(16, 16)
    srwm.forward(x, W)  # the first call compiles, which no capture can hold
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = srwm.forward(x, W)
    x.mul_(0.5)
    graph.replay()
    assert torch.equal(y, srwm.forward(x, W))


def test_the_delta_rule_on_tensors():
    import torch

    case = random_delta_case(((8,), (), 40, 16, 16), with_reset=True)
    operands = [torch.tensor(a, device="cuda") for a in case[:5]]
    y = srwm.delta_forward(*operands, reset=torch.tensor(case.reset, device="cuda"))
    assert_close({"y": y.cpu().numpy()}, {"y": run_delta(REFERENCE, case)["y"]}, TOLERANCE["float64"])
