"""The layers' equations once more, one sequence and one step after the other, in plain torch operations.

Padding is taken out beforehand: what a layer makes of a mask is what these make of shorter sequences.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import elu, layer_norm, linear, softplus

from srwm.nn import SRWM, DeltaCDE, DeltaNet, FakeSR, FeedForward, SelfModifyingTitans, SRDelta, Stack


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
        y, carried = step(layer, x[t], carried)
        outs.append(linear(y.flatten(), layer.out_linear.weight))
    added = torch.stack(outs) if outs else h.new_zeros(0, layer.d_out)
    skip = {"norm_skip": normed, "plain": h, "pre_norm": h, "none": 0}[layer.residual]
    return skip + added, as_state(layer, carried)


def norm(layer, h):
    return layer_norm(h, h.shape[-1:], layer.layer_norm.weight, layer.layer_norm.bias)


def start(layer, state):
    """The matrices of a sequence, from its state or from where it begins."""
    D = layer.d_head
    zeros = layer.out_linear.weight.new_zeros(layer.n_heads, D, D)
    if isinstance(layer, (SRWM, SelfModifyingTitans)):
        return layer.W if state is None else layer.W + state
    if isinstance(layer, SRDelta):
        if state is None:
            return layer.W, zeros
        return layer.W + state[..., : 5 * D + 5], state[..., 5 * D + 5 :]
    if isinstance(layer, DeltaNet):
        return zeros if state is None else state
    if isinstance(layer, DeltaCDE):
        state = layer.out_linear.weight.new_zeros(layer.state_shape) if state is None else state
        return state[..., :D], state[..., D].flatten(), state[0, 0, D + 1], state[0, 0, D + 2]
    return None


def as_state(layer, carried):
    """The state that stands for a sequence's matrices."""
    if isinstance(layer, (SRWM, SelfModifyingTitans)):
        return carried - layer.W
    if isinstance(layer, SRDelta):
        return torch.cat([carried[0] - layer.W, carried[1]], -1)
    if isinstance(layer, DeltaCDE):
        S, x, time, begun = carried
        columns = [x.reshape(*S.shape[:2], 1), *(a.expand(*S.shape[:2], 1) for a in (time, begun))]
        return torch.cat([S, *columns], -1)
    return carried


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
    """The delta rule: all but S (H, D, D) are (H, 1, .)."""
    S = S + k.mT @ (b.sigmoid() * (v - k @ S))
    return q @ S, S


def srwm_step(layer, x, W):
    raw = x.reshape(layer.n_heads, 1, -1)
    read = {"x": None, "raw": raw, "softmax": raw.softmax(-1)}[layer.read]
    y, W = rewrite(heads(layer, x), W, read)
    if layer.y_lnorm is not None:
        y = layer_norm(y, y.shape[-1:], layer.y_lnorm.weight, layer.y_lnorm.bias)
    return y, W


def sr_delta_step(layer, x, carried):
    W, S = carried
    D = layer.d_head
    columns, W = rewrite(heads(layer, x), W)
    q, k, v, b = columns.split([D, D, D, 1], -1)
    y, S = write_and_read(q.softmax(-1), k.softmax(-1), v, b, S)
    return y, (W, S)


def delta_net_step(layer, x, S):
    D = layer.d_head
    columns = linear(x, layer.slow_net.weight).reshape(layer.n_heads, 1, 3 * D + 1)
    q, k, v, b = columns.split([D, D, D, 1], -1)
    q, k = (elu(a) + 1 for a in (q, k))
    q, k = (a / (a.sum(-1, keepdim=True) + layer.eps) for a in (q, k))
    return write_and_read(q, k, v, b, S)


def fake_sr_step(layer, x, carried):
    return heads(layer, x) @ layer.W_y, carried


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


STEPS = {
    SRWM: srwm_step,
    DeltaNet: delta_net_step,
    SRDelta: sr_delta_step,
    FakeSR: fake_sr_step,
    SelfModifyingTitans: titans_step,
    DeltaCDE: delta_cde_step,
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
