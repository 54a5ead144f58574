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
    y = srwm.delta.forward(*operands, reset=torch.tensor(case.reset, device="cuda"))
    assert_close({"y": y.cpu().numpy()}, {"y": run_delta(REFERENCE, case)["y"]}, TOLERANCE["float64"])


def on_device(arrays, requires_grad=False):
    import torch

    return [torch.tensor(a, device="cuda", requires_grad=requires_grad) for a in arrays]


def test_registration_is_what_torch_expects():
    import torch

    case, delta_case = (make(((2, 1), (3,), 7, 4, 5)) for make in (random_case, random_delta_case))
    operands = on_device(case[:2], requires_grad=True)
    torch.library.opcheck(torch.ops.srwm.forward.default, (*operands, None, None, True, True, None, None))
    operands = on_device(delta_case[:5], requires_grad=True)
    torch.library.opcheck(torch.ops.srwm.delta_forward.default, (*operands, None, None, True, True, None, None))


@pytest.mark.parametrize("requires_grad", [False, True])
def test_compiled_calls_are_the_operator(requires_grad):
    import torch

    operands = on_device(random_case(((4,), (4,), 9, 8, 8))[:2], requires_grad)

    def f(x, W):
        y, W_next = srwm.forward(x, W, return_state=True)
        return y.tanh().sum() + W_next.square().sum()

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*operands), f(*operands))
    if requires_grad:
        torch.testing.assert_close(
            torch.autograd.grad(compiled(*operands), operands), torch.autograd.grad(f(*operands), operands)
        )


def test_ordinary_tensors_go_past_the_dispatcher_to_the_same_result():
    import torch

    from srwm import autograd

    operands = on_device(random_case(((4,), (4,), 9, 8, 8))[:2], requires_grad=True)
    assert autograd._forward_of((*operands, None), True) is autograd._differentiable_forward
    past = srwm.forward(*operands, return_state=True)
    through = torch.ops.srwm.forward(*operands, None, True, True, None, None)[:2]
    upstream = [torch.ones_like(a) for a in past]
    for a, b in zip(past, through, strict=True):
        assert torch.equal(a, b)
    for a, b in zip(
        torch.autograd.grad(past, operands, upstream),
        torch.autograd.grad(through, operands, upstream),
        strict=True,
    ):
        assert torch.equal(a, b)


def test_vmap_adds_a_leading_axis():
    import torch

    x, W = on_device(random_case(((3,), (3,), 9, 8, 8))[:2])
    torch.testing.assert_close(torch.func.vmap(srwm.forward)(x, W), srwm.forward(x, W))


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
def test_tensors_with_empty_axes(lead, L):
    import torch

    case = random_case((*lead, L, 4, 3))
    x, W = operands = on_device(case[:2], requires_grad=True)
    y, W_next = results = srwm.forward(x, W, return_state=True)
    upstream = on_device([case.grad_y, case.grad_W_next])
    gx, gW = torch.autograd.grad(results, operands, upstream)
    got = {"y": y, "W_next": W_next, "gx": gx, "gW": gW}
    got = {name: t.detach().cpu().numpy() for name, t in got.items()}
    assert_close(got, run(REFERENCE, case), TOLERANCE["float64"])


def test_the_reference_on_cupy_arrays():
    import cupy

    case, delta_case = (make(((2,), (), 5, 4, 3)) for make in (random_case, random_delta_case))
    operands = [cupy.asarray(a) for a in case[:2]]
    y = srwm.forward(*operands, backend="reference")
    assert isinstance(y, cupy.ndarray)
    assert_close({"y": y.get()}, {"y": run(REFERENCE, case)["y"]}, TOLERANCE["float64"])
    y = srwm.delta.forward(*map(cupy.asarray, delta_case[:5]), backend="reference")
    assert_close({"y": y.get()}, {"y": run_delta(REFERENCE, delta_case)["y"]}, TOLERANCE["float64"])


def test_blocks_of_cupy_arrays():
    import cupy

    W = cupy.asarray(random_case(((2,), (2,), 5, 4, 3)).W)
    assert (srwm.pack(*srwm.unpack(W)) == W).all()


def test_operands_on_two_devices_are_refused():
    import torch

    x, W = (torch.tensor(a) for a in random_case(((), (), 3, 4, 4))[:2])
    with pytest.raises(ValueError, match=r"^srwm\.forward: .*cpu"):
        srwm.forward(x.cuda(), W)
    with pytest.raises(ValueError, match=r"^srwm\.forward: .*cpu"):
        srwm.forward(x, W.cuda())
