"""The delta rule on arrays: by hand, by central differences, two halves, inputs kept, bad input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import srwm
from tests.cases import DeltaCase, assert_close, random_delta_case, run_delta

each_backend = pytest.mark.parametrize("backend", ["reference", "cython"])


@each_backend
def test_two_steps_by_hand(backend):
    q = np.array([[1.0, 0.0], [1.0, 2.0]])
    k = np.array([[0.0, 2.0], [1.0, 1.0]])
    v = np.array([[3.0], [5.0]])
    S = np.array([[4.0], [1.0]])
    # v_bar = 2, u = 0.5 (3 - 2): S = (4, 2), y = 4;  then v_bar = 6, u = 0.25 (5 - 6): S = (3.75, 1.75)
    y, S_next = srwm.delta_forward(q, k, v, np.array([0.5, 0.25]), S, return_state=True, backend=backend)
    assert np.array_equal(y, [[4.0], [3.75 + 2 * 1.75]])
    assert np.array_equal(S_next, [[3.75], [1.75]])


@each_backend
def test_central_differences(backend):
    case = random_delta_case(((2,), (), 6, 3, 2), with_reset=True)
    got = run_delta(srwm, case, backend=backend)

    def loss(changed):
        y, S_next = srwm.delta_forward(*changed[:5], reset=case.reset, return_state=True, backend=backend)
        return np.sum(y * case.grad_y) + np.sum(S_next * case.grad_S_next)

    for name in ("q", "k", "v", "beta", "S"):
        a, g = getattr(case, name), np.empty_like(getattr(case, name))
        for i in np.ndindex(a.shape):
            h = np.zeros_like(a)
            h[i] = 1e-6
            up, down = (loss(case._replace(**{name: a + sign * h})) for sign in (1, -1))
            g[i] = (up - down) / 2e-6
        assert_close({name: got[f"g{name}"]}, {name: g}, 1e-7)


@each_backend
def test_two_halves_with_carried_state_are_the_whole(backend):
    case = random_delta_case(((2,), (2,), 50, 8, 5))
    whole = run_delta(srwm, case, backend=backend)
    parts = [slice(0, 23), slice(23, 50)]
    first, second = (
        case._replace(**{n: getattr(case, n)[:, part] for n in ("q", "k", "v", "beta", "grad_y")})
        for part in parts
    )
    (y_1, S), pull_first = srwm.delta_vjp(*first[:5], backend=backend)
    (y_2, S_next), pull_second = srwm.delta_vjp(*second[:4], S, backend=backend)
    *g_2, g_S = pull_second(second.grad_y, case.grad_S_next)
    *g_1, gS = pull_first(first.grad_y, g_S)
    joined = [np.concatenate(pair, 1) for pair in zip((y_1, *g_1), (y_2, *g_2), strict=True)]
    halves = dict(zip(("y", "gq", "gk", "gv", "gbeta"), joined, strict=True)) | {"S_next": S_next, "gS": gS}
    assert_close(halves, {name: whole[name] for name in halves}, 1e-12)


def test_inputs_are_not_modified_and_may_be_read_only():
    case = random_delta_case(((2,), (), 40, 5, 3), with_reset=True)
    before = DeltaCase(*(a.copy() for a in case))
    for a in case:
        a.flags.writeable = False
    run_delta(srwm, case)
    for a, b in zip(case, before, strict=True):
        assert np.array_equal(a, b)


@given(
    lead=st.lists(st.integers(0, 3), max_size=2).map(tuple),
    L=st.integers(0, 40),
    D=st.integers(1, 20),
    Do=st.integers(1, 20),
    with_reset=st.booleans(),
    seed=st.integers(0, 9),
)
def test_any_shape(lead, L, D, Do, with_reset, seed):
    case = random_delta_case((lead, lead[1:], L, D, Do), with_reset=with_reset, seed=seed)
    assert_close(run_delta(srwm, case), run_delta(srwm, case, backend="reference"), 1e-11)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_same_bits_whatever_the_threads(threads):
    case = random_delta_case(((200,), (), 40, 16, 16)).astype(np.float32)
    one, many = (run_delta(srwm, case, num_threads=n) for n in (1, threads))
    for name in one:
        assert np.array_equal(one[name], many[name]), name


q, v, beta, S = np.ones((2, 5, 4)), np.ones((2, 5, 3)), np.ones((2, 5)), np.ones((2, 4, 3))
BAD = {
    "no array": ((q, [1], v, beta, S), {}, TypeError, r"k: expected an array"),
    "integers": ((q.astype(int), q, v, beta, S), {}, TypeError, r"q: expected .*float"),
    "mixed dtypes": ((q, q, v.astype("f4"), beta, S), {}, TypeError, r"v: expected the dtype of q"),
    "rank": ((q[0, 0], q, v, beta, S), {}, ValueError, r"q: .*\(\.\.\., L, D\)"),
    "D of k": ((q, q[..., :3], v, beta, S), {}, ValueError, r"k: expected shape \(\.\.\., L=5, D=4\)"),
    "steps of v": ((q, q, v[:, :4], beta, S), {}, ValueError, r"v: expected shape \(\.\.\., L=5, Do=3\)"),
    "steps of beta": ((q, q, v, beta[:, :4], S), {}, ValueError, r"beta: expected shape \(\.\.\., L=5\)"),
    "state": ((q, q, v, beta, S[..., :2]), {}, ValueError, r"S: expected shape \(\.\.\., D=4, Do=3\)"),
    "leading axes": ((q, q, v, beta, np.ones((3, 4, 3))), {}, ValueError, r"S: expected leading axes"),
    "reset": ((q, q, v, beta, S), {"reset": np.ones((2, 5))}, TypeError, r"reset: expected .*bool"),
    "backend": ((q, q, v, beta, S), {"backend": "cupy"}, ValueError, r"backend: expected one of cython"),
    "threads": ((q, q, v, beta, S), {"num_threads": 0}, ValueError, r"num_threads: expected"),
}


@pytest.mark.parametrize(("operands", "options", "error", "message"), BAD.values(), ids=BAD)
def test_bad_input_says_what_was_expected(operands, options, error, message):
    with pytest.raises(error, match=rf"^srwm\.delta_forward: {message}"):
        srwm.delta_forward(*operands, **options)
    with pytest.raises(error, match=rf"^srwm\.delta_vjp: {message}"):
        srwm.delta_vjp(*operands, **options)


def test_bad_gradients():
    with pytest.raises(ValueError, match=r"^srwm\.delta_backward: grad_y: expected .*\(2, 5, 3\)"):
        srwm.delta_backward(q, q, v, beta, S, v[:, :4])
    _, pullback = srwm.delta_vjp(q, q, v, beta, S)
    with pytest.raises(ValueError, match=r"^srwm\.delta_vjp: grad_S_next: expected .*\(2, 4, 3\)"):
        pullback(v, S[..., :2])
