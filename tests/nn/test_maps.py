"""The feature maps: literal loops, hand values, extremes, halves, transforms, and the draws of FAVOR+."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vmap

from srwm.nn import maps
from srwm.nn.maps import FeatureMap

# PyTorch's forward mode compiles its decompositions so.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

D, M = 5, 7
HALVES = [torch.float16, torch.bfloat16]
DTYPES = [*HALVES, torch.float32, torch.float64]
each_half = pytest.mark.parametrize("dtype", HALVES, ids=str)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


# P (entries, M) of float32 numbers, by the entries of a vector. Made beforehand: compilers would take the
# draws for part of the program.
PROJECTIONS = {
    n: torch.randn(n, M, generator=torch.Generator().manual_seed(n), dtype=torch.float32).double()
    for n in (1, 2, 3, 4, 5, 8, 27)
}
WIDE = {n: P.float() for n, P in PROJECTIONS.items()}


def beside(a):
    """P in the dtype that goes with `a`."""
    return (PROJECTIONS if a.dtype == torch.float64 else WIDE)[a.shape[-1]]


# Each with options, as a function of vectors alone.
MAPS = {
    "elu_plus_one": maps.elu_plus_one,
    "sum_norm": lambda a: maps.sum_norm(a.abs()),
    "sum_norm, eps": lambda a: maps.sum_norm(a.abs(), 0.3),
    "positive": maps.positive,
    "positive, eps": lambda a: maps.positive(a, 0.3),
    "softmax": maps.softmax,
    "l2_norm": maps.l2_norm,
    "l2_norm, eps": lambda a: maps.l2_norm(a, 3.0),
    "dpfp, 1": maps.dpfp,
    "dpfp, 3": lambda a: maps.dpfp(a, 3),
    "favor": lambda a: maps.favor(a, beside(a)),
    "favor, 0": lambda a: maps.favor(a, beside(a), eps=0.0),
}
each_map = pytest.mark.parametrize("name", MAPS)


# The definitions once more: of one vector, a list of floats.


def elu_plus_one(a):
    return [math.exp(x) if x < 0 else 1 + x for x in a]


def sum_norm(a, eps=0.0):
    return [x / (sum(a) + eps) for x in a]


def softmax(a):
    return sum_norm([math.exp(x) for x in a])


def l2_norm(a, eps=1e-6):
    return [x / max(math.hypot(*a), eps) for x in a]


def dpfp(a, nu=1):
    z = [max(x, 0.0) for x in a] + [max(-x, 0.0) for x in a]
    return [z[j] * z[(j - i) % len(z)] for i in range(1, nu + 1) for j in range(len(z))]


def favor(a, eps=1e-4):
    P = PROJECTIONS[len(a)].tolist()
    half = sum(x * x for x in a) / 2
    products = [sum(x * row[j] for x, row in zip(a, P, strict=True)) for j in range(M)]
    signed = [math.exp(sign * p - half) for sign in (1, -1) for p in products]
    return [(e + eps) / math.sqrt(2 * M) for e in signed]


LOOPS = {
    "elu_plus_one": elu_plus_one,
    "sum_norm": lambda a: sum_norm([abs(x) for x in a]),
    "sum_norm, eps": lambda a: sum_norm([abs(x) for x in a], 0.3),
    "positive": lambda a: sum_norm(elu_plus_one(a)),
    "positive, eps": lambda a: sum_norm(elu_plus_one(a), 0.3),
    "softmax": softmax,
    "l2_norm": l2_norm,
    "l2_norm, eps": lambda a: l2_norm(a, 3.0),
    "dpfp, 1": dpfp,
    "dpfp, 3": lambda a: dpfp(a, 3),
    "favor": favor,
    "favor, 0": lambda a: favor(a, 0.0),
}


def by_loop(name, a):
    """The map of each vector of `a`, in float64."""
    rows = [LOOPS[name](row) for row in a.double().reshape(-1, a.shape[-1]).tolist()]
    width = len(LOOPS[name]([1.0] * a.shape[-1]))
    return torch.tensor(rows, dtype=torch.double).reshape(*a.shape[:-1], width)


@each_map
@pytest.mark.parametrize(
    "shape", [(1,), (2,), (8,), (4, 3), (2, 3, 5), (1, 27), (0, 3), (2, 0, 4)], ids=str
)
def test_every_map_is_its_definition(name, shape):
    a = 2 * torch.randn(shape, dtype=torch.double)
    before = a.clone()
    got = MAPS[name](a)
    torch.testing.assert_close(got, by_loop(name, a), rtol=1e-13, atol=1e-15)
    assert torch.equal(a, before)


@each_map
def test_vectors_of_any_strides(name):
    a = torch.randn(3, 8, 2, dtype=torch.double)
    for view in (a.transpose(1, 2), a[:, ::2, 0], a[:1, :, 0].expand(4, 8), a.mT[..., 1:6]):
        torch.testing.assert_close(MAPS[name](view), by_loop(name, view), rtol=1e-13, atol=1e-15)


def test_dpfp_by_hand():
    a = torch.tensor([1.0, -2.0, 3.0])
    assert torch.equal(maps.dpfp(a), torch.zeros(6))
    expected = torch.zeros(12)
    expected[6], expected[8], expected[10] = 2, 3, 6
    assert torch.equal(maps.dpfp(a, nu=2), expected)
    # z = (1, 2, 0, 0, 0, 3): entry 1 is z1 z0, entry 0 is z0 z5.
    assert torch.equal(maps.dpfp(torch.tensor([1.0, 2.0, -3.0])), torch.tensor([3.0, 2, 0, 0, 0, 0]))


def test_dpfp_backward_by_hand():
    """g_z = sum over i of g_i roll(z, i) + roll(g_i z, -i), from the paper's definition."""
    a, nu = torch.randn(4, D, dtype=torch.double, requires_grad=True), 3
    g = torch.randn(4, 2 * nu * D, dtype=torch.double)
    z = torch.cat([a.detach().relu(), (-a.detach()).relu()], -1)
    g_z = sum(
        g_i * z.roll(i, -1) + (g_i * z).roll(-i, -1) for i, g_i in enumerate(g.chunk(nu, -1), start=1)
    )
    expected = g_z[:, :D] * (a > 0) - g_z[:, D:] * (a < 0)
    (got,) = torch.autograd.grad(maps.dpfp(a, nu), a, g)
    torch.testing.assert_close(got, expected)


def test_favor_by_hand():
    P = torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 0.0]], dtype=torch.double)
    got = maps.favor(torch.tensor([2.0, 0.0], dtype=torch.double), P)
    exponents = torch.tensor([0.0, -2, 2, -4, -2, -6], dtype=torch.double)
    torch.testing.assert_close(got, (exponents.exp() + 1e-4) / math.sqrt(6))


def test_very_negative_entries_keep_their_digits():
    a = torch.tensor([-1e-9, -17.0, -50.0, -87.0])
    torch.testing.assert_close(maps.elu_plus_one(a).double(), a.double().exp(), rtol=2e-7, atol=0)
    (slope,) = torch.autograd.grad(maps.elu_plus_one(x := a.requires_grad_()).sum(), x)
    torch.testing.assert_close(slope.double(), a.detach().double().exp(), rtol=2e-7, atol=0)


def extremes(dtype, large=1e4):
    """Rows with finite gradients, from zeros to large numbers, whose squares no float16 holds."""
    e = 1e-3 if dtype == torch.float16 else 1e-7
    rows = [
        [0.0, 0.0, 0.0, 0.0, 0.0],
        [-0.0, 0.0, -0.0, -0.0, 0.0],
        [large, large, large, large, large],
        [-large, -large, -large, -large, -large],
        [large, -large, large, -large, large],
        [e, -e, 0.0, e, e],
        [large, e, -e, 0.0, -0.0],
    ]
    return torch.tensor(rows, dtype=dtype, requires_grad=True)


@each_map
@each_dtype
def test_extremes_are_finite_with_their_gradients(name, dtype):
    products = dtype == torch.float16 and name.startswith("dpfp")  # 1e8 is no float16: see the next test
    a = extremes(dtype, 100.0 if products else 1e4)
    got = MAPS[name](a)
    assert got.dtype == dtype
    assert got.isfinite().all()
    weights = torch.randn_like(got)
    (first,) = torch.autograd.grad((got * weights).sum(), a, create_graph=True)
    if dtype == torch.float16 and name == "l2_norm":  # the slope at zero, 1e6, is more than it has
        assert not first.isnan().any()
    else:
        assert first.isfinite().all()
    if dtype == torch.float64 and first.requires_grad:  # 1 / eps² is too much for less
        (second,) = torch.autograd.grad(first.square().sum(), a)
        assert second.isfinite().all()


@each_dtype
@pytest.mark.parametrize("nu", [1, 2])
def test_normalised_products_of_any_size(dtype, nu):
    a = extremes(dtype)
    got = FeatureMap("dpfp", D, nu=nu, sum_norm=True)(a)
    empty = torch.tensor([not any(dpfp(row, nu)) for row in a.tolist()])
    assert 2 <= empty.sum() < len(a)
    assert (got[empty] == 0).all()
    rounding = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(got[~empty].sum(-1), torch.ones_like(got[~empty, 0]), rtol=rounding, atol=0)
    (gradient,) = torch.autograd.grad((got * torch.randn_like(got)).sum(), a)
    assert (gradient[empty] == 0).all()
    assert gradient.isfinite().all()


def test_products_of_alternating_signs_have_zero_shares_and_no_gradient():
    a = torch.tensor([[1.0, -2.0, 3.0], [1.0, 2.0, 3.0]], requires_grad=True)
    shares = maps.sum_norm(maps.dpfp(a))
    assert torch.equal(shares[0], torch.zeros(6))
    (gradient,) = torch.autograd.grad(shares.square().sum(), a)
    assert torch.equal(gradient[0], torch.zeros(3))
    assert gradient[1, 0] != 0


def test_zeros_have_zero_shares_and_no_gradient():
    a = torch.tensor([[0.0, 0.0, -0.0], [0.0, 1.0, 3.0]], requires_grad=True)
    shares = maps.sum_norm(a)
    assert torch.equal(shares.detach(), torch.tensor([[0, 0, 0], [0, 0.25, 0.75]]))
    (gradient,) = torch.autograd.grad(shares[:, 1].sum(), a)
    torch.testing.assert_close(gradient, torch.tensor([[0, 0, 0], [-1 / 16, 3 / 16, -1 / 16]]))


def test_sums_too_large_for_the_dtype():
    for dtype in DTYPES:
        greatest = torch.finfo(dtype).max
        a = torch.tensor([greatest, greatest, greatest, 0], dtype=dtype, requires_grad=True)
        for eps in (0.0, 1e-5):
            got = maps.sum_norm(a, eps)
            thirds = torch.tensor([1, 1, 1, 0], dtype=torch.double) / 3
            torch.testing.assert_close(got.double(), thirds, rtol=torch.finfo(dtype).eps, atol=0)
            (gradient,) = torch.autograd.grad(got[0], a)
            assert gradient.isfinite().all()


def test_small_sums_beside_eps():
    a = torch.tensor([[1e-40, 0.0], [1e-6, 3e-6], [0.0, 0.0]], requires_grad=True)
    got = maps.sum_norm(a, 1e-5)
    exact = a.detach().double()
    torch.testing.assert_close(
        got.double(), exact / (exact.sum(-1, keepdim=True) + 1e-5), rtol=1e-6, atol=1e-37
    )
    (gradient,) = torch.autograd.grad(got[:, 0].sum(), a)
    torch.testing.assert_close(gradient[2], torch.tensor([1e5, 0]))
    assert gradient.isfinite().all()


@pytest.mark.parametrize("eps", [0.0, 1e-6, 1.0])
@each_dtype
def test_lengths_of_any_size(dtype, eps):
    # Squares of these neither overflow nor vanish. Rows shorter than eps are divided by it.
    smallest, greatest = torch.finfo(torch.float32).tiny, torch.finfo(dtype).max / 2
    rows = [[3.0, -4.0], [greatest, greatest], [0.6, 0.8], [0.0, 5.0], [1e-7, 0.0], [0.0, -0.0]]
    a = torch.tensor(rows, dtype=dtype, requires_grad=True)
    got = maps.l2_norm(a, eps)
    expected = torch.tensor([l2_norm(row, max(eps, smallest)) for row in a.tolist()], dtype=torch.double)
    rounding = (4 if dtype in (torch.float32, torch.float64) else 0.51) * torch.finfo(dtype).eps
    atol = 3e-8 if dtype == torch.float16 else 0
    torch.testing.assert_close(got.double(), expected, rtol=rounding, atol=atol)
    # The slope at zero is that of a / eps, and no gradient is NaN.
    along = torch.autograd.grad(got[3, 1], a, retain_graph=True)[0]
    assert not along.any()  # a vector's own direction has no slope, also where one entry is all there is
    (gradient,) = torch.autograd.grad(got[:, 0].sum(), a)
    assert not gradient.isnan().any()
    if eps == 1:
        assert gradient[5].tolist() == [1, 0]
        # 1 / |a| - a² / |a|³, and -a b / |a|³: across the direction of a.
        torch.testing.assert_close(gradient[0], torch.tensor([0.128, 0.096], dtype=dtype))
        torch.testing.assert_close(gradient[3], torch.tensor([0.2, 0], dtype=dtype))


@each_half
@each_map
def test_halves_are_rounded_once(name, dtype):
    a = (1.5 * torch.randn(40, D)).to(dtype).requires_grad_()
    got = MAPS[name](a)
    assert got.dtype == dtype
    eps = torch.finfo(dtype).eps
    floor = 6e-8 if dtype == torch.float16 else 1e-37  # float16 ends there
    torch.testing.assert_close(got.double(), by_loop(name, a.detach()), rtol=0.51 * eps, atol=floor)
    exact = a.detach().double().requires_grad_()
    weights = torch.randn_like(got)
    (gradient,) = torch.autograd.grad((got * weights).float().sum(), a)
    assert gradient.dtype == dtype
    (expected,) = torch.autograd.grad((MAPS[name](exact) * weights.double()).sum(), exact)
    torch.testing.assert_close(gradient.double(), expected, rtol=0.51 * eps, atol=1e-5)


@each_map
def test_gradients_in_both_modes_and_twice(name):
    a = torch.randn(3, D, dtype=torch.double)
    a = (a + 0.1 * a.sign()).requires_grad_()  # away from 0, where relu and |a| have an edge
    assert torch.autograd.gradcheck(MAPS[name], (a,), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(MAPS[name], (a,), check_fwd_over_rev=True)


def test_gradients_of_a_projection():
    a = torch.randn(3, D, dtype=torch.double, requires_grad=True)
    P = PROJECTIONS[D].clone().requires_grad_()
    assert torch.autograd.gradcheck(maps.favor, (a, P), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(maps.favor, (a, P))


def scalar(name):
    return lambda a: MAPS[name](a).square().sum()


@each_map
def test_transforms(name):
    f, a = MAPS[name], torch.randn(4, 3, D, dtype=torch.double)
    for axis in (0, 1):
        torch.testing.assert_close(vmap(f, axis, axis)(a), f(a))
    x = a.clone().requires_grad_()
    (expected,) = torch.autograd.grad(scalar(name)(x), x)
    torch.testing.assert_close(grad(scalar(name))(a), expected)
    torch.testing.assert_close(vmap(grad(scalar(name)))(a), expected)
    one, tangent = a[0, 0], torch.randn(D, dtype=torch.double)
    jacobian = torch.autograd.functional.jacobian(f, one)
    torch.testing.assert_close(jacrev(f)(one), jacobian)
    torch.testing.assert_close(jacfwd(f)(one), jacobian)
    torch.testing.assert_close(jvp(f, (one,), (tangent,)), (f(one), jacobian @ tangent))
    torch.testing.assert_close(
        hessian(scalar(name))(one), torch.autograd.functional.hessian(scalar(name), one)
    )


@pytest.mark.slow_where(lambda name: name not in ("positive", "l2_norm", "dpfp, 3", "favor"))
@each_map
def test_compiled(name):
    f, a = MAPS[name], torch.randn(4, D)
    for own in (f, grad(scalar(name)), vmap(f), lambda a: jvp(f, (a,), (a,))):
        torch._dynamo.reset()
        compiled = torch.compile(own, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(a), own(a))
    x, y = a.clone().requires_grad_(), a.clone().requires_grad_()
    torch.compile(scalar(name), fullgraph=True, backend="aot_eager")(x).backward()
    scalar(name)(y).backward()
    torch.testing.assert_close(x.grad, y.grad)


@pytest.mark.slow
def test_compiled_by_inductor():
    """All maps in one program, to save time."""
    phi = FeatureMap("favor", D, n_features=M)

    def of_all(a):
        return [f(a) for f in MAPS.values()], phi(a), phi.eval()(a)

    a = torch.randn(4, D)
    plain, drawn, evaluated = torch.compile(of_all, fullgraph=True)(a)
    torch.testing.assert_close(plain, of_all(a)[0])
    torch.testing.assert_close(evaluated, phi.eval()(a))
    assert (drawn > 0).all()


@each_half
@each_map
def test_autocast_changes_no_digit(name, dtype):
    a = torch.randn(6, D)
    for vectors in (a, a.to(dtype)):
        expected = MAPS[name](vectors)
        with torch.autocast("cpu", dtype):
            got = MAPS[name](vectors)
        assert got.dtype == vectors.dtype
        assert torch.equal(got, expected)


@each_map
def test_meta_tensors(name):
    a = torch.empty(3, D, device="meta", dtype=torch.bfloat16)
    P = torch.empty(D, M, device="meta")
    f = (lambda a: maps.favor(a, P)) if name.startswith("favor") else MAPS[name]
    got = f(a)
    assert (got.shape, got.dtype, got.is_meta) == (MAPS[name](torch.ones(3, D)).shape, a.dtype, True)


def draws(count, entries, columns, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    return torch.stack(
        [
            maps.orthogonal_projection(entries, columns, generator=generator, dtype=torch.double, **options)
            for _ in range(count)
        ]
    )


@pytest.mark.parametrize(
    ("entries", "columns"), [(1, 1), (1, 3), (2, 5), (4, 4), (5, 3), (8, 20), (16, 16), (3, 7)]
)
def test_columns_of_a_projection_are_orthogonal_in_blocks(entries, columns):
    P = maps.orthogonal_projection(entries, columns, dtype=torch.double)
    assert (P.shape, P.dtype) == ((entries, columns), torch.double)
    for block in P.split(entries, 1):
        products = block.T @ block
        torch.testing.assert_close(products, products.diagonal().diag(), rtol=0, atol=1e-12)
        assert products.diagonal().min() > 0
    if columns > entries > 1:
        assert (P[:, 0] @ P[:, entries]).abs() > 1e-6  # of two blocks


def test_columns_of_a_projection_are_gaussian():
    P = draws(4000, 3, 5)
    error = len(P) ** -0.5  # of a mean of 4000 independent numbers of variance 1
    for j in range(5):
        column = P[:, :, j]
        assert column.mean(0).abs().max() < 4 * error
        covariance = column.T @ column / len(P)
        assert (covariance - torch.eye(3)).abs().max() < 4 * math.sqrt(2) * error
        # |column|² is chi-squared with 3 degrees of freedom: mean 3, variance 6, fourth central moment 252.
        square = column.square().sum(-1)
        assert (square.mean() - 3).abs() < 4 * math.sqrt(6) * error
        assert (square.var() - 6).abs() < 4 * math.sqrt(252 - 36) * error
        # Signs of single entries are fair: no direction is preferred.
        assert (column.sign().mean(0)).abs().max() < 4 * error
    # Lengths within a block are independent.
    squares = (P.square().sum(1) - 3) / math.sqrt(6)
    correlation = squares.T @ squares / len(P)
    assert (correlation - correlation.diagonal().diag()).abs().max() < 4 * error


def test_draws_come_from_the_generator():
    first, second = draws(2, 4, 6)
    assert not torch.equal(first, second)
    assert torch.equal(draws(2, 4, 6)[1], second)
    before = torch.get_rng_state()
    draws(1, 4, 6)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(3)
    from_global = maps.orthogonal_projection(4, 6, dtype=torch.double)
    assert torch.equal(from_global, draws(1, 4, 6, seed=3)[0])


def test_dtypes_and_devices_of_projections():
    assert maps.orthogonal_projection(3, 4).dtype == torch.float32
    for dtype in DTYPES:
        P = maps.orthogonal_projection(3, 4, dtype=dtype)
        assert (P.dtype, P.device.type, P.requires_grad) == (dtype, "cpu", False)
        assert P.abs().min() > 0
    P = maps.orthogonal_projection(3, 4, device="meta")
    assert (P.shape, P.is_meta) == ((3, 4), True)


def kernel(q, k, projections):
    """phi(q)·phi(k) for each of the projections, without eps."""
    return vmap(lambda P: maps.favor(q, P, eps=0.0) @ maps.favor(k, P, eps=0.0))(projections)


@pytest.mark.parametrize("length", [0.5, 1.0])
def test_favor_is_an_unbiased_estimate_of_the_softmax_kernel(length):
    count = 4000
    P = draws(count, 4, 8)
    for _ in range(3):
        q, k = length * maps.l2_norm(torch.randn(2, 4, dtype=torch.double))
        exact, estimates = (q @ k).exp(), kernel(q, k, P)
        error = estimates.std() / math.sqrt(count)
        assert error < 0.02 * exact  # so that the next line says something
        assert (estimates.mean() - exact).abs() < 4 * error


def test_orthogonal_columns_have_smaller_errors():
    q = maps.l2_norm(torch.randn(4, dtype=torch.double)) / 2
    independent = torch.randn(4000, 4, 4, dtype=torch.double)
    assert kernel(q, q, draws(4000, 4, 4)).var() < 0.8 * kernel(q, q, independent).var()


# `FeatureMap`: the arguments, the function, and the size of its results.
KINDS = {
    "identity": (("identity", D), {}, lambda a: a, D),
    "elu": (("elu", D), {}, maps.elu_plus_one, D),
    "elu, normalised": (("elu", D), {"sum_norm": True, "eps": 0.3}, MAPS["positive, eps"], D),
    "softmax": (("softmax", D), {}, maps.softmax, D),
    "l2": (("l2", D), {}, maps.l2_norm, D),
    "dpfp": (("dpfp", D), {}, maps.dpfp, 2 * D),
    "dpfp, normalised": (
        ("dpfp", D),
        {"nu": 3, "sum_norm": True, "eps": 0.3},
        lambda a: maps.sum_norm(maps.dpfp(a, 3), 0.3),
        6 * D,
    ),
}
each_kind = pytest.mark.parametrize("kind", KINDS)


@each_kind
def test_feature_maps_without_draws(kind):
    arguments, options, f, d_out = KINDS[kind]
    phi, a = FeatureMap(*arguments, **options), torch.randn(2, 3, D)
    assert phi.d_out == d_out
    assert torch.equal(phi(a), f(a))
    assert phi(a).shape == (2, 3, d_out)
    b = torch.randn(4, D, dtype=torch.double)
    first, second = phi(a, b)
    assert torch.equal(first, f(a))
    assert torch.equal(second, f(b))
    assert phi.projection is None
    assert not [*phi.parameters(), *phi.buffers(), *phi.state_dict()]
    phi.reset_parameters()
    again = pickle.loads(pickle.dumps(copy.deepcopy(phi)))
    assert torch.equal(again(a), f(a))


@each_half
def test_normalised_features_of_halves_are_rounded_once(dtype):
    phi = FeatureMap("dpfp", D, nu=2, sum_norm=True)
    a = (2 * torch.randn(30, D)).to(dtype)
    exact = torch.tensor([sum_norm(dpfp(row, 2)) for row in a.tolist()], dtype=torch.double)
    got = phi(a)
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), exact, rtol=0.51 * torch.finfo(dtype).eps, atol=6e-8)
    phi = FeatureMap("favor", D, n_features=M, sum_norm=True).eval()
    got = phi(a)
    assert got.dtype == dtype
    torch.testing.assert_close(got, phi(a.float()).to(dtype), rtol=0, atol=0)


@pytest.fixture
def phi():
    return FeatureMap("favor", D, n_features=M)


def test_favor_has_one_draw_for_queries_and_keys_and_another_at_the_next_call(phi):
    q, k = torch.randn(2, 4, D)
    seen = []
    for _ in range(3):
        of_q, of_k = phi(q, k)
        assert of_q.shape == (4, phi.d_out) == (4, 2 * M)
        assert torch.equal(of_q, maps.favor(q, phi.projection))
        assert torch.equal(of_k, maps.favor(k, phi.projection))
        seen.append(of_q)
    assert not torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[1], seen[2])
    normalised = FeatureMap("favor", D, n_features=M, sum_norm=True, eps=0.1)
    assert torch.equal(normalised(q), maps.sum_norm(maps.favor(q, normalised.projection), 0.1))
    for block in phi.projection.split(D, 1):
        products = block.T @ block
        torch.testing.assert_close(products, products.diagonal().diag(), rtol=0, atol=1e-5)


def test_evaluation_keeps_the_last_draw(phi):
    a = torch.randn(4, D)
    made = phi.projection.clone()
    assert torch.equal(phi.eval()(a), maps.favor(a, made))
    last = phi.train()(a)
    assert not torch.equal(phi.projection, made)
    state = torch.get_rng_state()
    for _ in range(2):
        assert torch.equal(phi.eval()(a), last)
    assert torch.equal(torch.get_rng_state(), state)
    phi.reset_parameters()
    assert not torch.equal(phi(a), last)


def test_draws_come_from_the_global_generator(phi):
    a = torch.randn(4, D)
    torch.manual_seed(5)
    first = phi(a)
    torch.manual_seed(5)
    assert torch.equal(phi(a), first)
    torch.manual_seed(5)
    assert torch.equal(maps.favor(a, maps.orthogonal_projection(D, M)), first)


def test_a_projection_is_a_buffer_that_is_not_saved(phi):
    assert [name for name, _ in phi.named_buffers()] == ["projection"]
    assert not phi.state_dict()
    phi.load_state_dict({})
    a = torch.randn(4, D)
    last = phi(a)
    for other in (copy.deepcopy(phi), pickle.loads(pickle.dumps(phi))):
        assert torch.equal(other.eval()(a), last)
    buffer = phi.projection
    phi(a)
    assert phi.projection is buffer  # DDP holds it
    assert phi.double()(a.double()).dtype == torch.double
    phi.bfloat16()
    assert phi(a.bfloat16()).dtype == phi.projection.dtype == torch.bfloat16
    assert FeatureMap("favor", D, n_features=M, dtype=torch.float64).projection.dtype == torch.double
    on_meta = FeatureMap("favor", D, n_features=M, device="meta")
    assert on_meta(a.to("meta")).shape == (4, 2 * M)
    drawn = on_meta.to_empty(device="cpu")
    drawn.projection.fill_(torch.nan)
    drawn.reset_parameters()
    assert drawn.eval()(a).isfinite().all()


def test_backward_after_several_calls_and_in_any_mode(phi):
    """The next draw changes nothing that an earlier call has saved."""
    a = torch.randn(4, D, requires_grad=True)
    total, expected = 0.0, 0.0
    for _ in range(3):
        total = total + phi(a).sum()
        expected = expected + maps.favor(a, phi.projection.clone()).sum()
    (got,) = torch.autograd.grad(total, a)
    torch.testing.assert_close(got, torch.autograd.grad(expected, a)[0])
    with torch.inference_mode():
        phi(a)
    phi.eval()(a).sum().backward()
    assert a.grad.isfinite().all()


def test_checkpoints_draw_the_same_projection_again(phi):
    a = torch.randn(4, D, requires_grad=True)
    result = torch.utils.checkpoint.checkpoint(phi, a, use_reentrant=False)
    (got,) = torch.autograd.grad(result.sum(), a)
    (expected,) = torch.autograd.grad(maps.favor(a, phi.projection).sum(), a)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_transforms_of_draws(phi, compiled):
    a, made = torch.randn(4, D), phi.projection.clone()

    def run(f):
        torch._dynamo.reset()
        return (torch.compile(f, fullgraph=True, backend="aot_eager") if compiled else f)(a)

    def same(a):
        return vmap(phi, randomness="same")(a)

    def different(a):
        return vmap(phi, randomness="different")(a)

    def first(a):
        return grad(lambda a: phi(a).sum())(a)

    torch.testing.assert_close(run(lambda a: same(a.new_ones(2, D)).diff(dim=0)), torch.zeros(1, 2 * M))
    assert run(lambda a: different(a.new_ones(2, D)).diff(dim=0)).abs().min() > 0
    assert run(first).isfinite().all()
    assert run(vmap(phi, randomness="different")).shape == (4, 2 * M)
    # A module may not change under transforms.
    assert torch.equal(phi.projection, made)
    phi.eval()
    expected = maps.favor(a, made)
    torch.testing.assert_close(run(phi), expected)
    torch.testing.assert_close(run(vmap(phi)), expected)
    torch.testing.assert_close(run(first), grad(lambda a: maps.favor(a, made).sum())(a))


def test_compiled_draws_are_new_at_each_call(phi):
    compiled = torch.compile(phi, fullgraph=True, backend="aot_eager")
    a = torch.randn(4, D)
    assert not torch.equal(compiled(a), compiled(a))
    one, other = compiled(a, a)
    assert torch.equal(one, other)


def test_ensembles_and_exports(phi):
    phis = [phi.eval(), FeatureMap("favor", D, n_features=M).eval()]
    a = torch.randn(4, D)
    _, buffers = stack_module_state(phis)
    base = copy.deepcopy(phi).to("meta")
    got = vmap(lambda b: functional_call(base, b, (a,)))(buffers)
    torch.testing.assert_close(got, torch.stack([phi(a) for phi in phis]))
    torch.testing.assert_close(torch.export.export(phi, (a,)).module()(a), phi(a))


def test_what_a_feature_map_prints():
    assert repr(FeatureMap("elu", 4)) == "FeatureMap('elu', 4)"
    phi = FeatureMap("dpfp", 4, nu=2, sum_norm=True, eps=1e-5)
    assert repr(phi) == "FeatureMap('dpfp', 4, nu=2, sum_norm=True, eps=1e-05)"
    assert repr(FeatureMap("favor", 4, n_features=8)) == "FeatureMap('favor', 4, n_features=8)"


# Errors: each says what was expected, what came, what to do, and where.


def wrong(kind, message, call, function, *arguments, **options):
    with pytest.raises(kind, match=message) as error:
        function(*arguments, **options)
    assert str(error.value).startswith(f"{call}: ")
    assert ";" in str(error.value)


FUNCTIONS = {
    "elu_plus_one": maps.elu_plus_one,
    "sum_norm": maps.sum_norm,
    "positive": maps.positive,
    "softmax": maps.softmax,
    "l2_norm": maps.l2_norm,
    "dpfp": maps.dpfp,
    "favor": lambda a: maps.favor(a, torch.ones(D, M)),
    "FeatureMap": FeatureMap("favor", D, n_features=M),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_vectors_that_are_none(name):
    call = name if name == "FeatureMap" else f"srwm.nn.maps.{name}"
    f = FUNCTIONS[name]
    for a in (None, [1.0], np.ones(D), 2.0):
        wrong(TypeError, f"a: expected a Tensor, got {type(a).__name__}", call, f, a)
    wrong(TypeError, "a: expected a dense Tensor", call, f, torch.ones(2, D).to_sparse())
    for dtype in (torch.int64, torch.bool, torch.complex64):
        wrong(TypeError, f"a: expected one of .*, got {dtype}", call, f, torch.ones(D, dtype=dtype))
    for shape in ((), (0,), (3, 0)):
        wrong(ValueError, r"a: expected shape \(\.\.\., D", call, f, torch.ones(shape))


def test_options_of_functions():
    a = torch.ones(2, D)
    for name in ("sum_norm", "positive", "l2_norm"):
        f, call = getattr(maps, name), f"srwm.nn.maps.{name}"
        wrong(ValueError, "eps: expected a finite number >= 0, got -1", call, f, a, -1)
        wrong(ValueError, "eps: expected a finite number >= 0, got nan", call, f, a, math.nan)
        wrong(TypeError, "eps: expected a finite number >= 0, got '1'", call, f, a, "1")
    for nu, kind in (
        (0, ValueError),
        (-1, ValueError),
        (1.0, TypeError),
        (True, TypeError),
        (None, TypeError),
    ):
        wrong(kind, f"nu: expected an int >= 1, got {nu}", "srwm.nn.maps.dpfp", maps.dpfp, a, nu)


def test_projections_that_do_not_fit():
    a, call = torch.ones(2, D), "srwm.nn.maps.favor"
    for shape in ((D,), (M, D), (D, 0), (1, D, M)):
        wrong(ValueError, r"projection: expected shape \(D=5, m\)", call, maps.favor, a, torch.ones(shape))
    wrong(TypeError, "projection: expected a Tensor, got ndarray", call, maps.favor, a, np.ones((D, M)))
    for given, dtype, expected in (
        (torch.float32, torch.float64, "torch.float32 to"),
        (torch.float64, torch.float32, "torch.float64 to"),
        (torch.float32, torch.float16, "torch.float32 to"),
        (torch.bfloat16, torch.float16, "torch.bfloat16 or torch.float32 to"),
    ):
        P = torch.ones(D, M, dtype=dtype)
        wrong(TypeError, f"projection: expected dtype {expected} go", call, maps.favor, a.to(given), P)
    meta = torch.ones(D, M, device="meta")
    wrong(ValueError, "projection: expected on the device of a, cpu, got meta", call, maps.favor, a, meta)
    wrong(ValueError, "eps: expected a finite number >= 0", call, maps.favor, a, torch.ones(D, M), -1)


def test_options_of_projections():
    draw, call = maps.orthogonal_projection, "srwm.nn.maps.orthogonal_projection"
    wrong(ValueError, "D: expected an int >= 1, got 0", call, draw, 0, 3)
    wrong(TypeError, "m: expected an int >= 1, got 2.5", call, draw, 3, 2.5)
    wrong(
        TypeError, "generator: expected a torch.Generator or None, got int", call, draw, 3, 3, generator=1
    )
    wrong(
        *(ValueError, "generator: expected one for the device of the result, meta, got one for cpu"),
        *(call, draw, 3, 3),
        **{"generator": torch.Generator(), "device": "meta"},
    )
    wrong(TypeError, "dtype: expected one of", call, draw, 3, 3, dtype=torch.int64)
    wrong(ValueError, "device: expected a device that torch can use", call, draw, 3, 3, device="cuda:99")


@pytest.mark.parametrize(
    ("kind", "message", "arguments", "options"),
    [
        (ValueError, "name: expected one of identity, elu, .*, got 'relu'", ("relu", D), {}),
        (ValueError, "name: expected one of .*, got None", (None, D), {}),
        (TypeError, "D: expected an int >= 1, got 2.0", ("elu", 2.0), {}),
        (ValueError, "D: expected an int >= 1, got 0", ("elu", 0), {}),
        (ValueError, "nu: expected an int >= 1, got 0", ("dpfp", D), {"nu": 0}),
        (ValueError, "nu: expected 1 with map 'elu'.*, got 2", ("elu", D), {"nu": 2}),
        (ValueError, "n_features: expected an int >= 1 with map 'favor', got None", ("favor", D), {}),
        (TypeError, "n_features: expected an int >= 1, got 2.5", ("favor", D), {"n_features": 2.5}),
        (ValueError, "n_features: expected an int >= 1, got 0", ("favor", D), {"n_features": 0}),
        (ValueError, "n_features: expected None with map 'dpfp'", ("dpfp", D), {"n_features": 8}),
        (ValueError, "sum_norm: expected False with map 'l2'", ("l2", D), {"sum_norm": True}),
        (ValueError, "sum_norm: expected False with map 'identity'", ("identity", D), {"sum_norm": True}),
        (TypeError, "sum_norm: expected True or False, got 1", ("elu", D), {"sum_norm": 1}),
        (ValueError, "eps: expected 0 without sum_norm", ("elu", D), {"eps": 1e-5}),
        (
            ValueError,
            "eps: expected a finite number >= 0, got -1",
            ("elu", D),
            {"sum_norm": True, "eps": -1},
        ),
        (TypeError, "dtype: expected one of", ("elu", D), {"dtype": torch.int32}),
    ],
)
def test_options_of_feature_maps(kind, message, arguments, options):
    wrong(kind, message, "FeatureMap", FeatureMap, *arguments, **options)


def test_vectors_that_do_not_fit_a_feature_map(phi):
    for shape in ((D + 1,), (D, 1)):
        wrong(
            ValueError, rf"a: expected shape \(\.\.\., D={D}\), got", "FeatureMap", phi, torch.ones(shape)
        )
        wrong(ValueError, "a: expected shape", "FeatureMap", FeatureMap("elu", D), torch.ones(shape))
    wrong(TypeError, "projection: expected dtype torch.float64", "FeatureMap", phi, torch.ones(D).double())
    made = phi.projection.clone()
    wrong(ValueError, "a: expected shape", "FeatureMap", phi, torch.ones(D), torch.ones(D + 1))
    assert torch.equal(phi.projection, made)  # nothing is drawn before all is checked
