"""The layers: residual forms, state, reset, parameters of the published code."""

from __future__ import annotations

import pytest
import torch

import srwm
from benchmarks.peers import eager_forward
from srwm.nn import SRWM, DeltaNet, FakeSR, FeedForward, SRDelta
from tests.cases import growth_case

B, L, H, D = 3, 9, 4, 8
d_model = H * D


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def by_hand(layer, h, x, residual):
    """The layer's equations with the eager loop in the operator's place; x is the op's input."""
    x = x.reshape(B, L, H, D).transpose(1, 2)
    if layer.input_softmax:
        x = x.softmax(-1)
    y, _ = eager_forward(x, layer.W)
    return residual + y.transpose(1, 2).reshape(B, L, d_model) @ layer.out_linear.weight.T


@pytest.mark.parametrize("input_softmax", [False, True])
@pytest.mark.parametrize("residual", ["norm_skip", "plain", "pre_norm"])
def test_residual_forms(residual, input_softmax):
    layer = SRWM(d_model, H, residual=residual, input_softmax=input_softmax)
    if layer.layer_norm is not None:
        torch.nn.init.normal_(layer.layer_norm.weight)
    h = torch.randn(B, L, d_model, requires_grad=True)
    norm = layer.layer_norm
    expected = {
        "norm_skip": lambda: by_hand(layer, h, h, norm(h)),
        "plain": lambda: by_hand(layer, h, h, h),
        "pre_norm": lambda: by_hand(layer, h, norm(h), h),
    }[residual]()
    out, _ = layer(h)
    torch.testing.assert_close(out, expected)
    cotangent = torch.randn_like(out)
    wanted = (h, *layer.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(out, wanted, cotangent),
        torch.autograd.grad(expected, wanted, cotangent),
        rtol=1e-4,
        atol=1e-4,
    )


def test_two_segments_with_carried_state_are_the_whole():
    layer = SRWM(d_model, H).double()
    h = torch.randn(B, L, d_model, dtype=torch.double, requires_grad=True)
    out, state = layer(h)
    first, carried = layer(h[:, :4])
    second, last = layer(h[:, 4:], carried)
    torch.testing.assert_close(torch.cat([first, second], 1), out)
    torch.testing.assert_close(last, state)
    wanted = (h, *layer.parameters())
    cotangents = torch.randn_like(out), torch.randn_like(state)
    whole = torch.autograd.grad((out, state), wanted, cotangents)
    halves = torch.autograd.grad((torch.cat([first, second], 1), last), wanted, cotangents)
    torch.testing.assert_close(halves, whole)


def test_state_is_the_shift_from_the_parameters():
    layer = SRWM(d_model, H).double()
    h = torch.randn(B, L, d_model, dtype=torch.double)
    _, state = layer(h)
    before, _ = layer(h, state)
    with torch.no_grad():
        layer.W += 0.1  # an optimiser step between segments moves the effective weights
    x = h.unflatten(-1, (H, D)).transpose(1, 2)
    _, W_next = srwm.forward(x, layer.W + state, return_state=True)
    after, shifted = layer(h, state)
    torch.testing.assert_close(shifted, W_next - layer.W)
    assert (after - before).abs().max() > 1e-3


@pytest.mark.parametrize("resets", [[0], [5], [0, 3, 8], []])
def test_reset_equals_stepping_with_the_state_dropped(resets):
    layer = SRWM(d_model, H).double()
    h = torch.randn(B, L, d_model, dtype=torch.double, requires_grad=True)
    start = (0.1 * torch.randn(B, H, D, 3 * D + 4, dtype=torch.double)).requires_grad_()
    reset = torch.zeros(B, L, dtype=torch.bool)
    reset[1, resets] = True
    out, last = layer(h, start, reset)
    outs, state = [], start
    for t in range(L):
        state = torch.where(reset[:, t, None, None, None], torch.zeros_like(state), state)
        one, state = layer(h[:, t : t + 1], state)
        outs.append(one)
    stepped = torch.cat(outs, 1)
    torch.testing.assert_close(out, stepped)
    torch.testing.assert_close(last, state)
    wanted = (h, start, *layer.parameters())
    cotangents = torch.randn_like(out), torch.randn_like(last)
    torch.testing.assert_close(
        torch.autograd.grad((out, last), wanted, cotangents),
        torch.autograd.grad((stepped, state), wanted, cotangents),
    )


def test_reset_without_a_state_and_one_step_at_a_time():
    layer = SRWM(d_model, H).double()
    h = torch.randn(B, L, d_model, dtype=torch.double)
    reset = torch.rand(B, L) < 0.3
    zero = torch.zeros(B, H, D, 3 * D + 4, dtype=torch.double)
    whole, last = layer(h, None, reset)
    torch.testing.assert_close(layer(h, zero, reset), (whole, last))
    state, outs = None, []
    for t in range(L):
        out, state = layer(h[:, t : t + 1], state, reset[:, t : t + 1])
        outs.append(out)
    torch.testing.assert_close(torch.cat(outs, 1), whole)
    torch.testing.assert_close(state, last)


@pytest.mark.parametrize("kind", [SRWM, SRDelta])
def test_what_would_have_come_without_the_reset_may_be_infinite(kind):
    case = growth_case()
    layer = kind(16, 1, residual="plain", input_softmax=False)
    y, *rewriting = torch.tensor(case.W, dtype=torch.float32).split([16, 16, 16, 4], -1)
    outputs = [1e35 * y] * (layer.W.shape[-1] // 16 - 2)  # and the 512 steps make it a million times that
    if kind is SRDelta:
        outputs.append(torch.zeros(16, 1))
    start = (torch.cat([*outputs, *rewriting], -1) - layer.W.detach())[None]
    if kind is SRDelta:
        start = torch.cat([start, torch.zeros(1, 1, 16, 16)], -1)
    h = torch.tensor(case.x[None], dtype=torch.float32, requires_grad=True)
    out, _ = layer(h, start, torch.arange(512)[None] == 1)
    assert not layer(h, start)[0].isfinite().all()
    for gradient in torch.autograd.grad(out[:, 1:].sum(), (h, *layer.parameters())):
        assert gradient.isfinite().all()


def test_an_unwanted_state_changes_nothing_else():
    layer = SRWM(d_model, H).double()
    h = torch.randn(B, L, d_model, dtype=torch.double, requires_grad=True)
    start = 0.1 * torch.randn(B, H, D, 3 * D + 4, dtype=torch.double)
    reset = torch.rand(B, L) < 0.3
    for arguments in ((h,), (h, start), (h, None, reset), (h, start, reset), (h[:, :1], start)):
        out, _ = layer(*arguments)
        alone, none = layer(*arguments, return_state=False)
        assert none is None
        torch.testing.assert_close(alone, out, rtol=0, atol=0)
        wanted = (h, *layer.parameters())
        torch.testing.assert_close(
            torch.autograd.grad(alone.square().sum(), wanted),
            torch.autograd.grad(out.square().sum(), wanted),
        )


def test_leading_axes_of_state_broadcast():
    layer = SRWM(d_model, H).double()
    support = torch.randn(B, L, d_model, dtype=torch.double)
    queries = torch.randn(B, 5, 1, d_model, dtype=torch.double)
    _, state = layer(support)
    out, _ = layer(queries, state.unsqueeze(1))
    for i in range(5):
        torch.testing.assert_close(out[:, i], layer(queries[:, i], state)[0])


def delta_net_by_hand(layer, h, S, reset):
    """DeltaNet's equations (Schlag et al. 2021, 23 to 25; read after write), one step after the other."""
    S, outputs = S.expand(B, H, D, D), []
    for t in range(h.shape[1]):
        S = torch.where(reset[:, t, None, None, None], 0, S)
        columns = torch.nn.functional.linear(layer.layer_norm(h[:, t]), layer.slow_net.weight)
        q, k, v, b = columns.reshape(B, H, 3 * D + 1).split([D, D, D, 1], -1)
        q, k = (torch.nn.functional.elu(a) + 1 for a in (q, k))
        q, k = (a / (a.sum(-1, keepdim=True) + layer.eps) for a in (q, k))
        v_bar = torch.einsum("bhi,bhij->bhj", k, S)
        S = S + torch.einsum("bhi,bhj->bhij", k, torch.sigmoid(b) * (v - v_bar))
        y = torch.einsum("bhi,bhij->bhj", q, S).reshape(B, d_model)
        outputs.append(h[:, t] + y @ layer.out_linear.weight.T)
    return torch.stack(outputs, 1), S


def doubled(layer):
    """The layer in float64, its layer norm with weights that show whether it is used."""
    if layer.layer_norm is not None:
        torch.nn.init.normal_(layer.layer_norm.weight)
        torch.nn.init.normal_(layer.layer_norm.bias)
    return layer.double()


def assert_same_gradients(results, others, wanted):
    cotangents = [torch.randn_like(result) for result in results]
    torch.testing.assert_close(
        torch.autograd.grad(results, wanted, cotangents),
        torch.autograd.grad(others, wanted, cotangents),
    )


@pytest.mark.parametrize("resets", [None, [0], [5], [0, 3, 8], []])
@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("eps", [0.0, 0.5])
def test_delta_net_equals_a_loop(eps, with_state, resets):
    layer = doubled(DeltaNet(d_model, H, eps=eps))
    h = torch.randn(B, L, d_model, dtype=torch.double, requires_grad=True)
    start = torch.randn(B, H, D, D, dtype=torch.double, requires_grad=True) if with_state else None
    reset = torch.zeros(B, L, dtype=torch.bool)
    reset[1, resets or []] = True
    out, state = layer(h, start, None if resets is None else reset)
    S = torch.zeros(D, D, dtype=torch.double) if start is None else start
    by_loop = delta_net_by_hand(layer, h, S, reset)
    torch.testing.assert_close((out, state), by_loop)
    wanted = [h, *layer.parameters(), *([start] if with_state else [])]
    assert_same_gradients((out, state), by_loop, wanted)


def sr_delta_by_hand(layer, h, W, S, reset):
    """SRDelta's equations, one step after the other: a self-referential matrix, then the delta rule."""
    W, S, outputs = W.expand(B, H, D, 5 * D + 5), S.expand(B, H, D, D), []
    for t in range(h.shape[1]):
        begins = reset[:, t, None, None, None]
        W, S = torch.where(begins, layer.W, W), torch.where(begins, 0, S)
        normed = h[:, t] if layer.layer_norm is None else layer.layer_norm(h[:, t])
        x = (normed if layer.residual == "pre_norm" else h[:, t]).reshape(B, H, 1, D)
        columns, W = eager_forward(x.softmax(-1) if layer.input_softmax else x, W)
        q, k, v, b = columns.squeeze(-2).split([D, D, D, 1], -1)
        q, k = q.softmax(-1), k.softmax(-1)
        v_bar = torch.einsum("bhi,bhij->bhj", k, S)
        S = S + torch.einsum("bhi,bhj->bhij", k, torch.sigmoid(b) * (v - v_bar))
        y = torch.einsum("bhi,bhij->bhj", q, S).reshape(B, d_model)
        skip = normed if layer.residual == "norm_skip" else h[:, t]
        outputs.append(skip + y @ layer.out_linear.weight.T)
    return torch.stack(outputs, 1), torch.cat([W - layer.W, S], -1)


@pytest.mark.parametrize("resets", [None, [0], [5], [0, 3, 8], []])
@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"residual": "norm_skip", "input_softmax": False}, {"residual": "pre_norm"}], ids=str
)
def test_sr_delta_equals_a_loop(options, with_state, resets):
    layer = doubled(SRDelta(d_model, H, **options))
    h = torch.randn(B, L, d_model, dtype=torch.double, requires_grad=True)
    start = torch.randn(B, H, D, 6 * D + 5, dtype=torch.double, requires_grad=True) if with_state else None
    reset = torch.zeros(B, L, dtype=torch.bool)
    reset[1, resets or []] = True
    out, state = layer(h, start, None if resets is None else reset)
    if start is None:
        W, S = layer.W, torch.zeros(D, D, dtype=torch.double)
    else:
        W, S = layer.W + start[..., : 5 * D + 5], start[..., 5 * D + 5 :]
    by_loop = sr_delta_by_hand(layer, h, W, S, reset)
    torch.testing.assert_close((out, state), by_loop)
    assert_same_gradients((out, state), by_loop, [h, *layer.parameters(), *([start] if with_state else [])])


def test_published_forms_of_the_layers_are_the_default():
    forms = {
        kind: (kind(d_model, H).residual, kind(d_model, H).input_softmax)
        for kind in (SRWM, SRDelta, FakeSR)
    }
    assert forms == {SRWM: ("norm_skip", False), SRDelta: ("plain", True), FakeSR: ("plain", False)}


@pytest.mark.parametrize("kind", [DeltaNet, SRDelta])
def test_segments_are_the_whole(kind):
    layer = doubled(kind(d_model, H))
    h = torch.randn(B, L, d_model, dtype=torch.double, requires_grad=True)
    reset = torch.rand(B, L) < 0.3
    whole = layer(h, None, reset)
    outs, state = [], None
    for steps in (slice(0, 1), slice(1, 5), slice(5, 9)):
        out, state = layer(h[:, steps], state, reset[:, steps])
        outs.append(out)
    segments = (torch.cat(outs, 1), state)
    torch.testing.assert_close(segments, whole)
    assert_same_gradients(segments, whole, (h, *layer.parameters()))


@pytest.mark.parametrize("with_reset", [False, True])
@pytest.mark.parametrize("kind", [SRWM, DeltaNet, SRDelta])
def test_gradient_through_a_carried_state(kind, with_reset):
    layer = doubled(kind(2, 1))
    h = torch.randn(2, 3, 2, dtype=torch.double, requires_grad=True)
    start = (0.3 * torch.randn_like(layer(h)[1].detach())).requires_grad_()
    reset = torch.tensor([[False, True, False], [False, False, False]]) if with_reset else None
    assert torch.autograd.gradcheck(lambda h, state: layer(h, state, reset), (h, start))


@pytest.mark.parametrize("kind", [DeltaNet, SRDelta])
def test_an_unwanted_state_of_fast_weights_changes_nothing_else(kind):
    layer = doubled(kind(d_model, H))
    h = torch.randn(B, L, d_model, dtype=torch.double)
    start = torch.randn_like(layer(h)[1])
    reset = torch.rand(B, L) < 0.3
    for arguments in ((h,), (h, start), (h, None, reset), (h, start, reset), (h[:, :1], start)):
        alone, none = layer(*arguments, return_state=False)
        assert none is None
        torch.testing.assert_close(alone, layer(*arguments)[0], rtol=0, atol=0)


def test_delta_net_keeps_small_queries_apart():
    layer = DeltaNet(d_model, H)
    a = torch.tensor([-30.0, -31.0, -60.0, -80.0])
    torch.testing.assert_close(layer._positive(a), a.softmax(-1))  # exp alone, on this side
    torch.testing.assert_close(layer._positive(-a), (1 - a) / (1 - a).sum())


@pytest.mark.parametrize("kind", [SRWM, DeltaNet, SRDelta, FakeSR])
def test_any_leading_axes(kind):
    layer = doubled(kind(d_model, H))
    h = torch.randn(2, 3, L, d_model, dtype=torch.double)
    reset = torch.rand(2, 3, L) < 0.2
    out, state = layer(h, None, reset)
    for i in range(2):
        for j in range(3):
            one, last = layer(h[i, j], None, reset[i, j])
            torch.testing.assert_close(out[i, j], one)
            if kind is FakeSR:
                assert state is last is None
            else:
                torch.testing.assert_close(state[i, j], last)
    if kind is not FakeSR:  # queries that share the state of their support
        queries = torch.randn(2, 3, 5, 1, d_model, dtype=torch.double)
        shared, _ = layer(queries, state.unsqueeze(2))
        torch.testing.assert_close(shared[1, 2, 3], layer(queries[1, 2, 3], state[1, 2])[0])


@pytest.mark.parametrize("input_softmax", [False, True])
@pytest.mark.parametrize("residual", ["norm_skip", "plain", "pre_norm"])
def test_fake_sr_is_an_srwm_that_never_writes(residual, input_softmax):
    fake = doubled(FakeSR(d_model, H, residual=residual, input_softmax=input_softmax))
    layer = SRWM(d_model, H, residual=residual, input_softmax=input_softmax).double()
    weights = fake.state_dict()
    W = torch.zeros_like(layer.W)
    W[..., :D] = weights.pop("W_y")  # W_q = W_k = 0: both uniform, their difference 0
    h = torch.randn(B, L, d_model, dtype=torch.double, requires_grad=True)
    layer.load_state_dict(weights | {"W": W})
    out, state = fake(h, None, torch.rand(B, L) < 0.3)
    expected, _ = layer(h)
    assert state is None
    torch.testing.assert_close(out, expected)
    # Gradients are not the SRWM's, which could begin to write.
    x = fake.layer_norm(h) if residual == "pre_norm" else h
    x = x.reshape(B, L, H, D).softmax(-1) if input_softmax else x.reshape(B, L, H, D)
    y = torch.stack([x[:, :, i] @ fake.W_y[i] for i in range(H)], 2).reshape(B, L, d_model)
    skip = fake.layer_norm(h) if residual == "norm_skip" else h
    by_hand = skip + y @ fake.out_linear.weight.T
    torch.testing.assert_close(out, by_hand)
    assert_same_gradients((out,), (by_hand,), (h, *fake.parameters()))


@pytest.mark.parametrize("kind", [SRWM, DeltaNet, SRDelta, FakeSR])
def test_dropout_is_on_what_is_added(kind):
    layer = kind(d_model, H, dropout=0.5)
    h = torch.randn(B, L, d_model)
    added = layer(h)[0] - (layer.layer_norm(h) if kind is SRWM else h)
    whole = layer.eval()(h)[0] - (layer.layer_norm(h) if kind is SRWM else h)
    dropped = added.abs() < 1e-6
    assert 0.4 < dropped.float().mean() < 0.6
    torch.testing.assert_close(added[~dropped], 2 * whole[~dropped], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [DeltaNet, SRDelta])
def test_the_state_keeps_its_precision_under_autocast(kind):
    layer, h = kind(d_model, H), torch.randn(B, L, d_model)
    with torch.autocast("cpu", torch.bfloat16):
        _, state = layer(h)
        _, state = layer(h, state)
        FakeSR(d_model, H)(h)
    assert state.dtype == torch.float32


@pytest.mark.parametrize("kind", [SRWM, SRDelta])
def test_published_parameter_names_load(kind):
    layer, other = kind(d_model, H, residual="norm_skip"), kind(d_model, H, residual="norm_skip")
    W_y, W_q, W_k, w_b = (block.unsqueeze(0) for block in srwm.unpack(layer.W.detach()))
    published = {
        "W_y": W_y,
        "W_q": W_q,
        "W_k": W_k,
        "w_b": w_b,
        "out_linear.weight": layer.out_linear.weight,
        "layer_norm.weight": layer.layer_norm.weight,
        "layer_norm.bias": layer.layer_norm.bias,
    }
    untouched = dict(published)
    other.load_state_dict(published)
    assert published.keys() == untouched.keys()
    for name, parameter in layer.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], parameter)
    stacked = torch.nn.Sequential(torch.nn.Identity(), other)
    stacked.load_state_dict({f"1.{name}": a for name, a in published.items()})
    plain = kind(d_model, H, residual="plain")
    plain.load_state_dict(published)  # with the layer norm that its published form has, unused
    torch.testing.assert_close(plain.W, layer.W)


def test_initial_weights():
    layer = SRWM(512, 4, beta_init=-1.0, q_scale=0.01)
    W_y, W_q, W_k, w_beta = srwm.unpack(layer.W.detach() * 128**0.5)
    assert W_y.std().item() == pytest.approx(1, rel=0.03)
    assert W_k.std().item() == pytest.approx(1, rel=0.03)
    assert W_q.std().item() == pytest.approx(0.01, rel=0.03)
    assert layer.W[..., -4:].mean().item() == pytest.approx(-1, abs=0.02)
    assert w_beta.std().item() == pytest.approx(1, rel=0.06)
    assert FakeSR(512, 4).W_y.std().item() == pytest.approx(128**-0.5, rel=0.03)
    programming = SRDelta(512, 4, beta_init=-1.0, q_scale=0.01)
    W_y, W_q, W_k, w_beta = srwm.unpack(programming.W.detach() * 128**0.5)
    assert W_y.shape[-1] == 3 * 128 + 1
    assert W_y.std().item() == pytest.approx(1, rel=0.03)
    assert W_q.std().item() == pytest.approx(0.01, rel=0.03)
    assert programming.W[..., -4:].mean().item() == pytest.approx(-1, abs=0.02)


def test_parameter_counts_of_the_paper():
    def count(module):
        return sum(p.numel() for p in module.parameters())

    assert count(SRWM(256, 16)) == 79_360
    assert count(DeltaNet(256, 16)) == 266_752
    assert count(FakeSR(256, 16)) == 256 * 16 + 256**2
    assert count(SRDelta(128, 8)) == 8 * (16 * 49 + 2 * 16**2 + 4 * 16) + 128**2
    assert count(FeedForward(256, 256)) == 132_096
    assert count(FeedForward(256, 4 * 256)) == 526_080
    assert count(FeedForward(256, 8 * 256)) == 1_051_392


@pytest.mark.parametrize("kind", [SRWM, SRDelta])
def test_layer_compiles_as_one_graph(kind):
    layer = kind(d_model, H)
    h, reset = torch.randn(B, L, d_model), torch.rand(B, L) < 0.2
    state = layer(h)[1].detach()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(h, state, reset), layer(h, state, reset))


def test_feed_forward_is_pre_norm():
    block = FeedForward(d_model, 50)
    h = torch.randn(B, L, d_model)
    first, last = block.ff_layers[0], block.ff_layers[3]
    torch.testing.assert_close(block(h), h + last(first(block.layer_norm(h)).relu()))


def test_layer_errors_name_the_argument():
    with pytest.raises(ValueError, match="SRWM: d_model: expected a multiple of n_heads = 5, got 32"):
        SRWM(32, 5)
    with pytest.raises(ValueError, match="SRWM: residual: expected one of norm_skip, plain, pre_norm"):
        SRWM(32, 4, residual="post_norm")
    with pytest.raises(ValueError, match=r"SRWM: h: expected shape .*d_model=32\), got \(3, 9, 31\)"):
        SRWM(32, 4)(torch.zeros(3, 9, 31))
    with pytest.raises(ValueError, match="DeltaNet: d_model: expected a multiple of n_heads = 5, got 32"):
        DeltaNet(32, 5)
    with pytest.raises(ValueError, match="SRDelta: d_model: expected a multiple of n_heads = 5, got 32"):
        SRDelta(32, 5)
    with pytest.raises(ValueError, match=r"FakeSR: residual: expected one of .*, got 'post_norm'"):
        FakeSR(32, 4, residual="post_norm")
    with pytest.raises(ValueError, match=r"FakeSR: state: expected None, .*got shape \(4, 8, 8\)"):
        FakeSR(32, 4)(torch.zeros(3, 9, 32), torch.zeros(4, 8, 8))
