"""`srwm.trajectory`: the matrices after every step are those of forward over the steps up to there."""

from __future__ import annotations

import array_api_strict
import ml_dtypes
import numpy as np
import pytest

import srwm

D, Do, L = 3, 2, 7
M = Do + 2 * D + 4


def operands(dtype=np.float64, state_dtype=None):
    """x (2, 1, L, D), W (3, D, M), a state (2, 1, D, M) and resets (3, L)."""
    rng = np.random.default_rng(0)
    x, W = rng.standard_normal((2, 1, L, D)), rng.standard_normal((3, D, M))
    state, reset = rng.standard_normal((2, 1, D, M)), rng.random((3, L)) < 0.3
    assert reset.any()
    return x.astype(dtype), W.astype(dtype), state.astype(state_dtype or dtype), reset


def by_steps(x, W, state=None, reset=None):
    """The update rule once more: Do columns y, D q, D k and 4 rates."""

    def softmax(a):
        return np.exp(a) / np.exp(a).sum(-1, keepdims=True)

    lead = np.broadcast_shapes(x.shape[:-2], W.shape[:-2])
    W = np.broadcast_to(W, (*lead, D, M))
    S, matrices = np.broadcast_to(W if state is None else state, W.shape), []
    for t in range(x.shape[-2]):
        if reset is not None:
            S = np.where(reset[..., t, None, None], W, S)
        o = (x[..., t, None, :] @ S)[..., 0, :]
        q, k = softmax(o[..., Do : Do + D]), softmax(o[..., Do + D : Do + 2 * D])
        rates = np.repeat(1 / (1 + np.exp(-o[..., -4:])), [Do, D, D, 4], axis=-1)
        u = rates * ((q - k)[..., None, :] @ S)[..., 0, :]
        S = S + k[..., :, None] * u[..., None, :]
        matrices.append(S)
    return np.stack(matrices, -3)


@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("with_reset", [False, True])
def test_the_update_rule(with_state, with_reset):
    x, W, state, reset = operands()
    given = (state if with_state else None), (reset if with_reset else None)
    got = srwm.trajectory(x, W, given[0], reset=given[1])
    np.testing.assert_allclose(got, by_steps(x, W, *given), rtol=1e-12)
    _, last = srwm.forward(x, W, given[0], reset=given[1], return_state=True)
    np.testing.assert_allclose(got[..., -1, :, :], last, rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_precision_is_that_of_one_call(dtype):
    for state_dtype in {dtype, dtype if dtype == np.float64 else np.float32}:
        x, W, state, reset = operands(dtype, state_dtype)
        for start in (None, state):
            got = srwm.trajectory(x, W, start, reset=reset)
            for t in range(L):
                _, last = srwm.forward(
                    x[..., : t + 1, :], W, start, reset=reset[..., : t + 1], return_state=True
                )
                assert got.dtype == last.dtype
                one_unit = 4 * float(ml_dtypes.finfo(last.dtype).eps)
                np.testing.assert_allclose(
                    *(a.astype(np.float64) for a in (got[..., t, :, :], last)), rtol=one_unit, atol=one_unit
                )


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_halves_are_rounded_once(dtype):
    x, W, _, _ = operands(dtype)
    got = srwm.trajectory(x, W)[..., -1, :, :].astype(np.float64)
    _, last = srwm.forward(x, W, W.astype(np.float32), return_state=True)
    half_a_unit = 0.51 * float(ml_dtypes.finfo(dtype).eps)
    np.testing.assert_allclose(got, last, rtol=half_a_unit, atol=1e-6)


def test_no_steps_and_no_sequences():
    x, W, state, reset = operands()
    assert srwm.trajectory(x[..., :0, :], W, reset=reset[..., :0]).shape == (2, 3, 0, D, M)
    assert srwm.trajectory(x[:0], W, state[:0]).shape == (0, 3, L, D, M)


def test_arguments_are_not_changed():
    given = operands()
    before = [a.copy() for a in given]
    srwm.trajectory(*given[:3], reset=given[3])
    assert all(np.array_equal(a, b) for a, b in zip(given, before, strict=True))


@pytest.mark.parametrize("library", ["array_api_strict", "jax", "torch"])
def test_other_libraries(library):
    if library == "array_api_strict":
        convert = array_api_strict.asarray
    elif library == "jax":
        jax = pytest.importorskip("jax")
        jax.config.update("jax_enable_x64", True)
        convert = jax.numpy.asarray
    else:
        convert = pytest.importorskip("torch").from_numpy
    x, W, state, reset = operands()
    got = srwm.trajectory(convert(x), convert(W), convert(state), reset=convert(reset))
    assert type(got) is type(convert(x))
    np.testing.assert_allclose(np.from_dlpack(got), srwm.trajectory(x, W, state, reset=reset), rtol=1e-12)


def test_tensors_come_back_detached_and_under_vmap():
    torch = pytest.importorskip("torch")
    x, W, state, _ = map(torch.from_numpy, operands())
    expected = srwm.trajectory(x, W, state)
    assert not srwm.trajectory(x.requires_grad_(), W.requires_grad_(), state).requires_grad
    got = torch.func.vmap(srwm.trajectory, in_dims=(0, None, 0))(x.detach(), W.detach(), state)
    torch.testing.assert_close(got, expected)


def test_errors_name_the_function():
    x, W, state, reset = operands()
    for kind, message, given in (
        (ValueError, r"^srwm\.trajectory: W: expected .*, got", (x, W[:, :2])),
        (ValueError, r"^srwm\.trajectory: W: expected M = Do", (x, W[..., :9])),
        (ValueError, r"^srwm\.trajectory: reset: expected", (x, W, None, reset[:, 1:])),
        (ValueError, r"^srwm\.trajectory: state: expected", (x, W, state[..., 1:])),
        (TypeError, r"^srwm\.trajectory: x: expected", (x.tolist(), W)),
        (TypeError, r"^srwm\.trajectory: W: expected", (x, W.astype(np.float32))),
        (TypeError, r"^srwm\.trajectory: reset: expected", (x, W, None, reset.astype(int))),
    ):
        with pytest.raises(kind, match=message):
            srwm.trajectory(*given[:3], **({"reset": given[3]} if len(given) > 3 else {}))
