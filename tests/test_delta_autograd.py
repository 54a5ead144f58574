"""The torch operators of the delta rule: as test_autograd.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import srwm
from tests.cases import TOLERANCE, assert_close, random_delta_case, run_delta


@pytest.fixture
def case():
    return random_delta_case(((2, 1), (3,), 7, 4, 5), with_reset=True)


def tensors(case, dtype=torch.float64):
    operands = [torch.tensor(a, dtype=dtype, requires_grad=True) for a in case[:5]]
    return operands, torch.tensor(case.reset)


def eager(q, k, v, beta, S, reset):
    """The delta rule in torch operations: an oracle that shares nothing with the package."""
    S_0, outputs = S, []
    for t in range(q.shape[-2]):
        k_t = k[..., t, :]
        S = torch.where(reset[..., t, None, None], S_0, S)
        v_bar = torch.einsum("...d,...do->...o", k_t, S)
        S = S + torch.einsum("...d,...o->...do", k_t, beta[..., t, None] * (v[..., t, :] - v_bar))
        outputs.append(torch.einsum("...d,...do->...o", q[..., t, :], S))
    return torch.stack(outputs, -2), S


@pytest.mark.parametrize("backend", ["cython", "reference"])
def test_equals_an_eager_loop(case, backend):
    operands, reset = tensors(case)
    y, S_next = eager(*operands, reset)
    upstream = torch.tensor(case.grad_y), torch.tensor(case.grad_S_next)
    gradients = torch.autograd.grad((y, S_next), operands, upstream)
    names = ("gq", "gk", "gv", "gbeta", "gS")
    truth = {"y": y.detach(), "S_next": S_next.detach(), **dict(zip(names, gradients, strict=True))}
    assert_close(run_delta(srwm, case, backend=backend), truth, 1e-12)
    y, S_next = srwm.delta_forward(*operands, reset=reset, return_state=True, backend=backend)
    gradients = torch.autograd.grad((y, S_next), operands, upstream)
    got = {"y": y.detach(), "S_next": S_next.detach(), **dict(zip(names, gradients, strict=True))}
    assert_close(got, truth, 1e-12)


def test_gradcheck(case):
    operands, reset = tensors(case)

    def f(*operands):
        return srwm.delta_forward(*operands, reset=reset, return_state=True)

    assert torch.autograd.gradcheck(f, operands)


def test_equals_the_operator_on_arrays(case):
    operands, reset = tensors(case)
    expected = run_delta(srwm, case)
    upstream = torch.tensor(case.grad_y), torch.tensor(case.grad_S_next)
    (y, S_next), pullback = srwm.delta_vjp(*operands, reset=reset)
    for gradients in (pullback(*upstream), srwm.delta_backward(*operands, *upstream, reset=reset)):
        names = ("gq", "gk", "gv", "gbeta", "gS")
        assert_close({"y": y, "S_next": S_next, **dict(zip(names, gradients, strict=True))}, expected, 0.0)


def test_awkward_gradients_and_retained_graphs(case):
    operands, reset = tensors(case)
    y = srwm.delta_forward(*operands, reset=reset)
    expanded = torch.tensor(2.0, dtype=y.dtype).expand(y.shape)
    first = torch.autograd.grad(y, operands, expanded, retain_graph=True)
    second = torch.autograd.grad(y, operands, expanded.clone(), retain_graph=True)
    turned = torch.autograd.grad(y, operands, expanded.clone().transpose(0, 1).contiguous().transpose(0, 1))
    for a, b, c in zip(first, second, turned, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


def test_a_missing_state_is_zero_and_has_no_gradient(case):
    operands, _ = tensors(case)
    y, S_next = srwm.delta_forward(*operands[:4], return_state=True)
    zero = srwm.delta_forward(*operands[:4], torch.zeros(4, 5, dtype=y.dtype))
    assert torch.equal(y, zero)
    assert S_next.shape == (2, 3, 4, 5)
    assert srwm.delta_backward(*operands[:4], None, torch.ones_like(y))[4] is None


def test_compiles_as_one_graph(case):
    operands, reset = tensors(case, torch.float32)

    def loss(*operands):
        y, S = srwm.delta_forward(*operands, reset=reset, return_state=True)
        return y.square().sum() + S.sum()

    expected = torch.autograd.grad(loss(*operands), operands)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for a, b in zip(torch.autograd.grad(compiled(*operands), operands), expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-6)


def test_registration_is_what_torch_expects(case):
    operands, reset = tensors(case)
    torch.library.opcheck(torch.ops.srwm.delta_forward.default, (*operands, reset, True, True, None, 1))
    y, S_next, kept = torch.ops.srwm.delta_forward(*operands, reset, True, True, None, 1)
    detached = [t.detach() for t in operands]
    arguments = (*detached, reset, kept, torch.ones_like(y), torch.ones_like(S_next), None, 1)
    torch.library.opcheck(torch.ops.srwm.delta_backward.default, arguments)


def test_vmap_adds_a_leading_axis(case):
    operands, _ = tensors(case)
    many = [torch.stack([t.detach(), 2 * t.detach()], 1) for t in operands[:2]]
    rest = [t.detach() for t in operands[2:]]
    got = torch.func.vmap(srwm.delta_forward, in_dims=(1, 1, None, None, None))(*many, *rest)
    for i in range(2):
        expected = srwm.delta_forward(many[0][:, i], many[1][:, i], *rest)
        assert torch.allclose(got[i], expected, rtol=1e-12, atol=1e-12)


def test_many_gradients_at_once_of_many_sequences():
    operands, _ = tensors(random_delta_case(((35,), (1,), 9, 4, 3), with_reset=True))
    y = srwm.delta_forward(*operands)
    upstream = torch.stack([torch.ones_like(y), y.detach()])
    together = torch.autograd.grad(y, operands, upstream, retain_graph=True, is_grads_batched=True)
    for i in range(2):
        alone = torch.autograd.grad(y, operands, upstream[i], retain_graph=True)
        torch.testing.assert_close(tuple(g[i] for g in together), alone)


def test_autocast_computes_in_the_states_dtype(case):
    operands, _ = tensors(case, torch.float32)
    halves = [t.detach().bfloat16() for t in operands[:4]]
    with torch.autocast("cpu", torch.bfloat16):
        y = srwm.delta_forward(*halves, operands[4])
    assert y.dtype == torch.float32
    with pytest.raises(TypeError, match=r"S: expected the dtype of q"):
        srwm.delta_forward(*halves, operands[4])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves(case, dtype):
    operands, reset = tensors(case, dtype)
    y = srwm.delta_forward(*operands, reset=reset)
    truth = srwm.delta_forward(*(t.detach().double() for t in operands), reset=reset)
    assert y.dtype == dtype
    tolerance = TOLERANCE[str(dtype).removeprefix("torch.")]
    assert_close({"y": y.detach().double().numpy()}, {"y": truth.numpy()}, tolerance)


def test_second_derivative_is_refused(case):
    operands, _ = tensors(case)
    (gq,) = torch.autograd.grad(srwm.delta_forward(*operands).sum(), operands[:1], create_graph=True)
    with pytest.raises(RuntimeError, match=r"srwm\.delta_backward: expected to be differentiated once"):
        gq.sum().backward()


def test_gradients_only_where_kept(case):
    operands, reset = tensors(case)
    with pytest.raises(
        RuntimeError, match=r"srwm::delta_forward: a gradient is wanted of a call with keep"
    ):
        torch.ops.srwm.delta_forward(*operands, reset, False, True, None, 1)
    with torch.no_grad():
        assert not srwm.delta_forward(*operands).requires_grad


def test_other_arrays_beside_tensors_are_refused(case):
    operands, _ = tensors(case)
    with pytest.raises(TypeError, match=r"srwm\.delta_forward: k: expected the array type of q, .*Tensor"):
        srwm.delta_forward(operands[0], np.ones((2, 1, 7, 4)), *operands[2:])
    with pytest.raises(TypeError, match=r"srwm\.delta_forward: v: expected an array"):
        srwm.delta_forward(operands[0], operands[1], None, *operands[3:])
