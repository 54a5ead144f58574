"""The layers' equations once more, one sequence and one step after the other, in plain torch operations.

Padding is taken out beforehand: what a layer makes of a mask is what these make of shorter sequences.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import elu, layer_norm, linear, softplus

from srwm.nn import (
    SRWM,
    DeltaCDE,
    DeltaDelta,
    DeltaNet,
    DeltaRNN,
    FakeSR,
    FeedForward,
    LinearAttention,
    RecurrentDeltaNet,
    SelfModifyingTitans,
    SRDelta,
    Stack,
)


def by_loop(layer, h, state=None, reset=None, mask=None):
    """Outputs and state of a batch h (B, L, d_model); state, reset and mask have its leading axis."""
    B, L = h.shape[:2]
    outs, states = [], []
    for i in range(B):
        steps = torch.arange(L) if mask is None else mask[i].nonzero()[:, 0]
        own = entry(state, i)
        begins = [False] * len(steps) if reset is None else reset[i, steps].tolist()
        out, last = sequence(layer, h[i, steps], own, begins)
        outs.append(h.new_zeros(L, layer.d_out).index_put((steps,), out))
        states.append(last)
    return torch.stack(outs), together(states)


def entry(state, i):
    """The state of sequence i."""
    if isinstance(state, tuple):
        return tuple(entry(own, i) for own in state)
    return None if state is None else state[i]


def together(states):
    """The states of all sequences."""
    if isinstance(states[0], tuple):
        return tuple(together(own) for own in zip(*states, strict=True))
    return None if states[0] is None else torch.stack(states)


def sequence(layer, h, state, begins):
    """Outputs (L, d_out) and state of one sequence h (L, d_model)."""
    if isinstance(layer, Stack):
        states = []
        for inner, own in zip(layer.layers, state or [None] * len(layer.layers), strict=True):
            h, own = sequence(inner, h, own, begins)
            states.append(own)
        return h, tuple(states)
    if isinstance(layer, FeedForward):
        first, last = layer.ff_layers[0], layer.ff_layers[3]
        hidden = linear(norm(layer, h), first.weight, first.bias).relu()
        return h + linear(hidden, last.weight, last.bias), None
    step = STEPS[type(layer)]
    normed = h if layer.layer_norm is None else norm(layer, h)
    x = normed if layer.residual == "pre_norm" else h
    carried, outs = start(layer, state), []
    for t in range(len(h)):
        if begins[t]:
            carried = start(layer, None)
        y, *carried = step(layer, x[t], *carried)
        outs.append(linear(y.flatten(), layer.out_linear.weight))
    added = torch.stack(outs) if outs else h.new_zeros(0, layer.d_out)
    skip = {"norm_skip": normed, "plain": h, "pre_norm": h, "none": 0}[layer.residual]
    return skip + added, as_state(layer, carried)


def norm(layer, h):
    return layer_norm(h, h.shape[-1:], layer.layer_norm.weight, layer.layer_norm.bias)


def start(layer, state):
    """The matrices and vectors of a sequence, as a tuple, from its state or from where it begins."""
    if isinstance(layer, FakeSR):
        return ()
    D = layer.d_head
    if state is None:
        state = layer.out_linear.weight.new_zeros(layer.state_shape)
    if isinstance(layer, DeltaCDE):
        return state[..., :D], state[..., D].flatten(), state[0, 0, D + 1], state[0, 0, D + 2]
    columns = {
        SRWM: [3 * D + 4],
        SelfModifyingTitans: [layer.state_shape[-1]],
        SRDelta: [5 * D + 5, D],
        DeltaDelta: [3 * D + 1, D],
        RecurrentDeltaNet: [D, 1],
        DeltaRNN: [D, D, 1],
    }.get(type(layer), [D] if layer.state_shape[-1] == D else [D, 1])
    first, *others = state.split(columns, -1)
    W = getattr(layer, "W", None)
    return (first if W is None else layer.W + first, *others)


def as_state(layer, carried):
    """The state that stands for a sequence's matrices and vectors."""
    if not carried:
        return None
    if isinstance(layer, DeltaCDE):
        S, x, time, begun = carried
        columns = [x.reshape(*S.shape[:2], 1), *(a.expand(*S.shape[:2], 1) for a in (time, begun))]
        return torch.cat([S, *columns], -1)
    first, *others = carried
    W = getattr(layer, "W", None)
    return torch.cat([first if W is None else first - W, *others], -1)


def heads(layer, x):
    """x (d_model) -> (H, 1, D), through the softmax where the layer has one."""
    x = x.reshape(layer.n_heads, 1, -1)
    return x.softmax(-1) if layer.input_softmax else x


def rewrite(x, W, read=None):
    """x (H, 1, D), W (H, D, M) -> outputs (H, 1, Do), also of another input, and the W after the step."""
    D = x.shape[-1]
    Do = W.shape[-1] - 2 * D - 4
    y, q, k, b = (x @ W).split([Do, D, D, 4], -1)
    if read is not None:
        y = read @ W[..., :Do]
    k, beta = k.softmax(-1), b.sigmoid()
    change = (q.softmax(-1) - k) @ W
    sizes = torch.tensor([y.shape[-1], D, D, 4])
    return y, W + k.mT @ (change * beta.repeat_interleave(sizes, -1))


def write_and_read(q, k, v, b, S):
    """The delta rule: all but S (H, Dphi, Do) are (H, 1, .)."""
    return write_and_read_at(b.sigmoid(), q, k, v, S)


def write_and_read_at(beta, q, k, v, S):
    S = S + k.mT @ (beta * (v - k @ S))
    return q @ S, S


def columns_of(layer, x, sizes):
    """x (d_model) -> the outputs of slow_net for each head, (H, 1, .) each."""
    return linear(x, layer.slow_net.weight).reshape(layer.n_heads, 1, -1).split(sizes, -1)


def shares(a, eps=0.0):
    return a / (a.sum(-1, keepdim=True) + eps)


def phi(layer, a):
    """The layer's feature map of a (H, 1, D)."""
    options = layer.feature_map
    if options.name == "dpfp":
        z = torch.cat([a.relu(), (-a).relu()], -1)
        a = torch.cat([z * z.roll(i, -1) for i in range(1, options.nu + 1)], -1)
    elif options.name == "favor":
        x, half = a @ options.projection, (a * a).sum(-1, keepdim=True) / 2
        a = (torch.cat([x - half, -x - half], -1).exp() + 1e-4) / (2 * options.n_features) ** 0.5
    else:
        a = {
            "elu": lambda a: elu(a) + 1,
            "softmax": lambda a: a.softmax(-1),
            "l2": lambda a: a / (a * a).sum(-1, keepdim=True).sqrt(),
            "identity": lambda a: a,
        }[options.name](a)
    return shares(a, options.eps) if options.sum_norm else a


def srwm_step(layer, x, W):
    raw = x.reshape(layer.n_heads, 1, -1)
    read = {"x": None, "raw": raw, "softmax": raw.softmax(-1)}[layer.read]
    y, W = rewrite(heads(layer, x), W, read)
    if layer.y_lnorm is not None:
        y = layer_norm(y, y.shape[-1:], layer.y_lnorm.weight, layer.y_lnorm.bias)
    return y, W


def sr_delta_step(layer, x, W, S):
    D = layer.d_head
    columns, W = rewrite(heads(layer, x), W)
    q, k, v, b = columns.split([D, D, D, 1], -1)
    y, S = write_and_read(q.softmax(-1), k.softmax(-1), v, b, S)
    return y, W, S


def linear_attention_step(layer, x, S, z=None):
    D = layer.d_head
    q, k, v = columns_of(layer, x, [D, D, D])
    q, k = phi(layer, q), phi(layer, k)
    S = S + k.mT @ v
    if z is None:
        return layer.scale * q @ S, S
    z = z + k.mT
    return layer.scale * q @ S / (q @ z + layer.normalise), S, z


def delta_net_step(layer, x, S, z=None):
    D = layer.d_head
    q, k, v, b = columns_of(layer, x, [D, D, D, 1])
    q, k = phi(layer, q), phi(layer, k)
    beta = layer.beta_range * b.sigmoid()
    if z is None:
        y, S = write_and_read_at(beta, q, k, v, S)
        return layer.scale * y, S
    m = torch.stack([(k @ z)[h] if z[h].any() else torch.ones_like(b[h]) for h in range(layer.n_heads)])
    y, S = write_and_read_at(beta * m, q, k / (m + layer.normalise), v, S)
    z = z + k.mT
    return layer.scale * y / (q @ z + layer.normalise), S, z


def recurrent_delta_net_step(layer, x, S, last):
    D = layer.d_head
    q, k, v, b = columns_of(layer, x, [D, D, D, 1])
    r = last.mT.tanh()
    q, k, v = q + r @ layer.R_q, k + r @ layer.R_k, v + r @ layer.R_v
    b = b + (r * layer.r_b[:, None]).sum(-1, keepdim=True)
    y, S = write_and_read(q.softmax(-1), k.softmax(-1), v, b, S)
    return y, S, y.mT


def delta_rnn_step(layer, x, S, R, last):
    D = layer.d_head
    q, k, v, recurrent_k, recurrent_v, b, recurrent_b = columns_of(layer, x, [D] * 5 + [1, 1])
    z, S = write_and_read(phi(layer, q), phi(layer, k), v, b, S)
    h = last.mT
    s = shares(h.exp(), 1e-6) if layer.version == 2 else h
    read, R = write_and_read(s, recurrent_k.softmax(-1), recurrent_v, recurrent_b, R)
    y = z + read
    if layer.version == 1:
        y = y.softmax(-1)
    return y, S, R, y.mT


def delta_delta_step(layer, x, W, S):
    D = layer.d_head

    def features(*vectors):
        return [shares(elu(a) + 1, layer.eps) for a in vectors]

    q, k, v, b = columns_of(layer, x, [D, D, 3 * D + 1, 1])
    columns, W = write_and_read(*features(q, k), v, b, W)
    q, k, v, b = columns.split([D, D, D, 1], -1)
    y, S = write_and_read(*features(q, k), v, b, S)
    return y, W, S


def fake_sr_step(layer, x):
    return (heads(layer, x) @ layer.W_y,)


def titans_step(layer, x, W):
    D = layer.d_head
    x = x.reshape(layer.n_heads, 1, D)
    _, k, v, eta, alpha, q = (x @ W).split([D, D, D, 1, 1, W.shape[-1] - 3 * D - 2], -1)
    if not layer.adaptive_query:
        q = x @ layer.W_q
    y = q @ W[..., :D]
    k = k.softmax(-1) if layer.keys == "softmax" else k / k.norm(dim=-1, keepdim=True).clamp(min=layer.eps)
    eta = layer.rate_scale * (eta.sigmoid() if layer.rate == "sigmoid" else softplus(eta))
    k_read, v_read = k @ W, v @ W
    if layer.objective == "l2":
        towards = v_read - k_read
    elif layer.objective == "l2_doubled":
        towards = 2 * (v_read - k_read)
    else:
        towards = {"dot": 1, "dot_printed": -1}[layer.objective] * v_read
    retained = alpha.sigmoid() * W - eta * k.mT @ k_read  # preconditioned
    return y, retained + eta * k.mT @ towards


def delta_cde_step(layer, x, carried, length=None):
    """A step of this length, or of one unit."""
    S, before, time, begun = carried
    if begun == 0:
        before, length = torch.zeros_like(x), None
    dt = 1.0 if length is None else length
    slope, D = (x - before) / dt, layer.d_head

    def blocks(part):
        path = before + part * dt * slope
        by_slope = linear(slope, layer.slope_net.weight).reshape(layer.n_heads, 1, -1)
        if layer.drive == "dx":
            columns = by_slope
        else:
            by_path = linear(path, layer.path_net.weight).reshape(layer.n_heads, 1, -1)
            columns = torch.cat([by_slope, by_path] if layer.drive == "v2" else [by_path, by_slope], -1)
        q, k, b, v = columns.split([D, D, 1, D], -1)
        return q.softmax(-1), k.softmax(-1), b.sigmoid(), v.tanh()

    def change(part, S):
        _, k, beta, v = blocks(part)
        return k.mT @ (beta * (v - k @ S))

    if layer.method == "euler":
        S = S + dt * change(1, S)
    else:
        one = change(0, S)
        two = change(1 / 2, S + dt / 2 * one)
        three = change(1 / 2, S + dt / 2 * two)
        S = S + dt / 6 * (one + 2 * two + 2 * three + change(1, S + dt * three))
    return blocks(1)[0] @ S, (S, x, time + dt, torch.ones_like(begun))


def delta_cde_unit_step(layer, x, *carried):
    y, carried = delta_cde_step(layer, x, carried)
    return y, *carried


STEPS = {
    SRWM: srwm_step,
    LinearAttention: linear_attention_step,
    DeltaNet: delta_net_step,
    RecurrentDeltaNet: recurrent_delta_net_step,
    DeltaRNN: delta_rnn_step,
    DeltaDelta: delta_delta_step,
    SRDelta: sr_delta_step,
    FakeSR: fake_sr_step,
    SelfModifyingTitans: titans_step,
    DeltaCDE: delta_cde_unit_step,
}


def flat(results) -> list[Tensor]:
    """The tensors among results, states in tuples too."""
    if isinstance(results, tuple):
        return [tensor for result in results for tensor in flat(result)]
    return [] if results is None else [results]


def assert_same(got, expected, wanted, cotangents=None, **tolerance):
    """Equal values, and equal gradients of `wanted`, for random cotangents or these."""
    got, expected = flat(got), flat(expected)
    torch.testing.assert_close(got, expected, **tolerance)
    if cotangents is None:
        cotangents = [torch.randn_like(result) for result in got]
    gradients = (
        torch.autograd.grad(results, wanted, cotangents, allow_unused=True, materialize_grads=True)
        for results in (got, expected)
    )
    torch.testing.assert_close(*gradients, **tolerance)


def randomised(layer):
    """The layer in float64, every parameter random, so that each shows whether it is used."""
    layer = layer.double()
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if "norm" in name or "bias" in name:
                parameter.normal_()
    return layer


def random_state(layer, *lead, requires_grad=True):
    """A state of any layer that is nobody's beginning."""
    state = layer.initial_state(*lead)

    def fill(own):
        if isinstance(own, tuple):
            return tuple(fill(part) for part in own)
        return None if own is None else (0.3 * torch.randn_like(own)).requires_grad_(requires_grad)

    return fill(state)
