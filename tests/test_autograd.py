"""The torch operators: gradients, compilation, transforms, shared memory, errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import srwm
from srwm import autograd
from tests.cases import assert_close, random_case, run


def tensors(case, dtype=torch.float64):
    x, W = (torch.tensor(a, dtype=dtype, requires_grad=True) for a in (case.x, case.W))
    return x, W, None if case.reset is None else torch.tensor(case.reset)


@pytest.fixture
def case():
    return random_case(((2, 1), (3,), 7, 4, 5), with_reset=True)


def test_gradcheck(case):
    x, W, reset = tensors(case)

    def f(x, W):
        return srwm.forward(x, W, reset=reset, return_state=True)

    assert torch.autograd.gradcheck(f, (x, W))


def test_equals_the_operator_on_arrays(case):
    x, W, reset = tensors(case)
    y, W_next = srwm.forward(x, W, reset=reset, return_state=True)
    torch.autograd.backward((y, W_next), (torch.tensor(case.grad_y), torch.tensor(case.grad_W_next)))
    got = {"y": y.detach(), "W_next": W_next.detach(), "gx": x.grad, "gW": W.grad}
    expected = run(srwm, case)
    assert_close(got, expected, 0.0)
    gx, gW = srwm.backward(x, W, torch.tensor(case.grad_y), torch.tensor(case.grad_W_next), reset=reset)
    (y, W_next), pullback = srwm.vjp(x, W, reset=reset)
    assert_close({"y": y, "W_next": W_next, "gx": gx, "gW": gW}, expected, 0.0)
    gx, gW = pullback(torch.tensor(case.grad_y), torch.tensor(case.grad_W_next))
    assert_close({"y": y, "W_next": W_next, "gx": gx, "gW": gW}, expected, 0.0)


def test_reference_backend_on_tensors(case):
    x, W, reset = tensors(case)
    y = srwm.forward(x, W, reset=reset, backend="reference")
    y.backward(torch.tensor(case.grad_y))
    gx, gW = srwm.backward(case.x, case.W, case.grad_y, reset=case.reset)
    assert_close({"gx": x.grad, "gW": W.grad}, {"gx": gx, "gW": gW}, 1e-12)


@pytest.mark.parametrize("which", ["y", "W_next"])
def test_gradient_of_one_result_alone(case, which):
    x, W, reset = tensors(case)
    y, W_next = srwm.forward(x, W, reset=reset, return_state=True)
    if which == "y":
        y.backward(torch.tensor(case.grad_y))
        gx, gW = srwm.backward(case.x, case.W, case.grad_y, reset=case.reset)
    else:
        W_next.backward(torch.tensor(case.grad_W_next))
        zero = np.zeros_like(case.grad_y)
        gx, gW = srwm.backward(case.x, case.W, zero, case.grad_W_next, reset=case.reset)
    assert_close({"gx": x.grad, "gW": W.grad}, {"gx": gx, "gW": gW}, 1e-13)


def test_awkward_gradients_and_retained_graphs(case):
    x, W, reset = tensors(case)
    y, W_next = srwm.forward(x, W, reset=reset, return_state=True)
    # an expanded gradient of y (all strides 0) and a transposed one of W_next, twice
    total = y.sum() + (W_next.mT * torch.tensor(case.grad_W_next).mT).sum()
    total.backward(retain_graph=True)
    once = x.grad.clone(), W.grad.clone()
    total.backward()
    torch.testing.assert_close((x.grad, W.grad), (2 * once[0], 2 * once[1]))
    ones = np.ones_like(case.grad_y)
    gx, gW = srwm.backward(case.x, case.W, ones, case.grad_W_next, reset=case.reset)
    assert_close({"gx": once[0], "gW": once[1]}, {"gx": gx, "gW": gW}, 1e-13)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_as_one_graph(case, dynamic):
    x, W, reset = tensors(case)

    def f(x, W):
        y, W_next = srwm.forward(x, W, reset=reset, return_state=True)
        return y.tanh().sum() + (W_next * W_next).sum()

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    expected = torch.autograd.grad(f(x, W), (x, W))
    torch.testing.assert_close(torch.autograd.grad(compiled(x, W), (x, W)), expected)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x, W), f(x, W))


def test_registration_is_what_torch_expects(case):
    x, W, reset = tensors(case)
    for keep in (False, True):
        for return_state in (False, True):
            torch.library.opcheck(
                torch.ops.srwm.forward.default,
                (x.detach(), W.detach(), reset, keep, return_state, None, None),
            )
    for return_state in (False, True):
        torch.library.opcheck(torch.ops.srwm.forward.default, (x, W, reset, True, return_state, None, None))
    with torch.no_grad():
        y, W_next, kept = torch.ops.srwm.forward(x, W, reset, True, True, None, None)
        torch.library.opcheck(
            torch.ops.srwm.backward.default,
            (x.detach(), W.detach(), reset, kept, y, W_next, None, None),
        )


def test_vmap_adds_a_leading_axis(case):
    x, W, reset = (t.detach() for t in tensors(case))
    many_x, many_W = torch.stack([x, 2 * x, -x]), torch.stack([W, W / 2, -W])
    vmapped = torch.func.vmap(
        lambda x, W: srwm.forward(x, W, reset=reset, return_state=True), in_dims=(0, 1)
    )(many_x, many_W.movedim(0, 1))
    for i in range(3):
        alone = srwm.forward(many_x[i], many_W[i], reset=reset, return_state=True)
        torch.testing.assert_close(tuple(r[i] for r in vmapped), alone)
    only_x = torch.func.vmap(lambda x: srwm.forward(x, W[0], reset=reset))(many_x)
    torch.testing.assert_close(only_x[2], srwm.forward(many_x[2], W[0], reset=reset))


def test_gradients_through_vmap_and_of_many_gradients_at_once(case):
    x, W, _ = tensors(case)
    y = torch.func.vmap(srwm.forward, in_dims=(0, None))(x.squeeze(1), W[0])
    gradients = torch.autograd.grad(y.square().sum(), (x, W))
    expected = torch.autograd.grad(srwm.forward(x.squeeze(1), W[0]).square().sum(), (x, W))
    torch.testing.assert_close(gradients, expected)

    def of_x(x):
        return srwm.forward(x, W.detach())

    jacobian = torch.autograd.functional.jacobian
    together = jacobian(of_x, x.detach(), vectorize=True)
    torch.testing.assert_close(together, jacobian(of_x, x.detach()))


def test_many_gradients_at_once_of_many_sequences():
    # So many that some are computed side by side, and some over: what is kept has a place for each.
    case = random_case(((35,), (1,), 9, 4, 3))
    x, W, _ = tensors(case)
    y, W_next = srwm.forward(x, W, return_state=True)
    generator = torch.Generator().manual_seed(0)
    upstream = [torch.randn(3, *t.shape, generator=generator, dtype=t.dtype) for t in (y, W_next)]
    together = torch.autograd.grad((y, W_next), (x, W), upstream, retain_graph=True, is_grads_batched=True)
    for i in range(3):
        alone = torch.autograd.grad((y, W_next), (x, W), [g[i] for g in upstream], retain_graph=True)
        torch.testing.assert_close(tuple(g[i] for g in together), alone)


def test_autocast_computes_in_the_states_dtype(case):
    x, W, _ = tensors(case, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = srwm.forward(x.bfloat16(), W)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, srwm.forward(x.bfloat16().float(), W))
    y.sum().backward()
    assert x.grad.dtype == W.grad.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves(case, dtype):
    x, W, reset = tensors(case)
    x, W = (t.detach().to(dtype).requires_grad_() for t in (x, W))
    y = srwm.forward(x, W, reset=reset)
    assert y.dtype == dtype
    y.sum().backward()
    wide = [t.detach().double().requires_grad_() for t in (x, W)]
    y_wide = srwm.forward(*wide, reset=reset)
    y_wide.sum().backward()
    assert x.grad.dtype == W.grad.dtype == dtype
    for a, b in ((y, y_wide), (x.grad, wide[0].grad), (W.grad, wide[1].grad)):
        torch.testing.assert_close(a.double(), b, rtol=8e-3, atol=8e-3 * b.abs().max().item())


def test_memory_is_shared_not_copied(case, monkeypatch):
    x, W, _ = tensors(case)
    seen = []
    module = autograd._dispatch.resolve("test", "cpu", None)
    original = module.forward

    def spy(x_array, W_array, *rest, **options):
        result = original(x_array, W_array, *rest, **options)
        seen.extend(a.ctypes.data for a in (x_array, W_array, *result[:2]))
        return result

    monkeypatch.setattr(module, "forward", spy)
    y, W_next = srwm.forward(x, W, return_state=True)
    assert seen == [t.data_ptr() for t in (x, W, y, W_next)]


def test_no_trace_is_kept_without_a_gradient(case, monkeypatch):
    x, W, _ = tensors(case)
    kept = []
    module = autograd._dispatch.resolve("test", "cpu", None)
    original = module.forward
    monkeypatch.setattr(
        module,
        "forward",
        lambda *a, keep, **o: (kept.append(keep), original(*a, keep=keep, **o))[1],
    )
    srwm.forward(x.detach(), W.detach())
    with torch.no_grad():
        srwm.forward(x, W)
    srwm.forward(x, W.detach())
    assert kept == [False, False, True]


def test_meta_tensors_have_shapes(case):
    x, W, _ = tensors(case)
    y, W_next = srwm.forward(x.to("meta"), W.to("meta"), return_state=True, backend="reference")
    assert (y.shape, W_next.shape) == (case.grad_y.shape, case.grad_W_next.shape)
    assert y.device.type == "meta"


def test_second_derivative_is_refused(case):
    x, W, reset = tensors(case)
    y = srwm.forward(x, W, reset=reset)
    (gx,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="a second derivative is wanted"):
        gx.sum().backward()


def test_a_state_changed_in_place_is_noticed_or_does_not_matter(case):
    x, W, reset = tensors(case)
    y, W_next = srwm.forward(x, W, reset=reset, return_state=True)
    with torch.no_grad():
        W_next.zero_()
    y.backward(torch.tensor(case.grad_y))
    gx, gW = srwm.backward(case.x, case.W, case.grad_y, reset=case.reset)
    assert_close({"gx": x.grad, "gW": W.grad}, {"gx": gx, "gW": gW}, 1e-13)


BAD = {
    "dtype": (lambda x, W: (x, W.float()), TypeError, "W: expected the dtype of x"),
    "integers": (
        lambda x, W: (x.int(), W.int()),
        TypeError,
        "x: expected dtype .* got torch.int32",
    ),
    "shape": (lambda x, W: (x, W[:, :3]), ValueError, "W: expected shape"),
    "array type": (
        lambda x, W: (x, W.detach().numpy()),
        TypeError,
        "W: expected the array type of x",
    ),
    "no array": (lambda x, W: (x, None), TypeError, "W: expected an array"),
    "device": (
        lambda x, W: (x, W.to("meta")),
        ValueError,
        "W: expected on the device of x, cpu, got meta",
    ),
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("operation", ["forward", "vjp", "backward"])
def test_bad_tensors(case, operation, bad):
    change, error, message = BAD[bad]
    x, W, _ = tensors(case)
    more = (torch.tensor(case.grad_y),) if operation == "backward" else ()
    with pytest.raises(error, match=rf"^srwm\.{operation}: {message}"):
        getattr(srwm, operation)(*change(x, W), *more)


def test_pack_of_tensors_is_differentiable():
    blocks = [torch.randn(2, 3, n, requires_grad=True) for n in (5, 3, 3, 4)]
    srwm.pack(*blocks).square().sum().backward()
    for block in blocks:
        torch.testing.assert_close(block.grad, 2 * block.detach())
