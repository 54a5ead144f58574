"""The table of layers that transforms, tools and several processes of torch are tried on, and arguments."""

from __future__ import annotations

import torch

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
from tests.nn.loops import random_state, randomised

B, L, H, D = 3, 4, 2, 3
d_model = H * D

MAKERS = {
    "SRWM": lambda **options: SRWM(d_model, H, residual="pre_norm", input_softmax=True, **options),
    "DeltaNet": lambda **options: DeltaNet(d_model, H, **options),
    "normalised DeltaNet": lambda **options: DeltaNet(d_model, H, normalise=1e-5, beta_range=2, **options),
    "normalised LinearAttention": lambda **options: LinearAttention(d_model, H, normalise=1e-6, **options),
    "RecurrentDeltaNet": lambda **options: RecurrentDeltaNet(d_model, H, **options),
    "DeltaRNN": lambda **options: DeltaRNN(d_model, H, **options),
    "DeltaDelta": lambda **options: DeltaDelta(d_model, H, base_weights=True, **options),
    "SRDelta": lambda **options: SRDelta(d_model, H, residual="norm_skip", **options),
    "FakeSR": lambda **options: FakeSR(d_model, H, **options),
    "SelfModifyingTitans": lambda **options: SelfModifyingTitans(d_model, H, rate_scale=0.5, **options),
    "DeltaCDE": lambda **options: DeltaCDE(d_model, H, **options),
    "FeedForward": lambda **options: FeedForward(d_model, 5, **options),
    "Stack": lambda **options: Stack([SRWM(d_model, H, **options), FeedForward(d_model, 5, **options)]),
}


# By a layer's name in the tables of tests: the operators that it runs, in their order.
OPERATORS_OF_LAYERS = {
    "SRWM": ["srwm"],
    "DeltaNet": ["delta"],
    "normalised DeltaNet": ["sum_rule", "delta"],
    "LinearAttention": ["sum_rule"],
    "normalised LinearAttention": ["normalised_sum_rule"],
    "RecurrentDeltaNet": ["recurrent_delta"],
    "DeltaRNN": ["delta", "delta_rnn"],
    "DeltaDelta": ["delta", "delta"],
    "DeltaDelta with base weights": ["delta", "delta"],
    "SRDelta": ["srwm", "delta"],
    "SelfModifyingTitans": ["self_modifying"],
    "DeltaCDE": ["delta"],
}


def made(name):
    """A layer of the table with random parameters, in float64."""
    return randomised(MAKERS[name]())


def arguments(layer, count=B, steps=L):
    """h with NaN at padding, a state, resets, a mask."""
    of_mask = torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1], [1, 0, 1, 1]], dtype=torch.bool)
    of_reset = torch.tensor([[0, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]], dtype=torch.bool)
    mask, reset = (
        flags.repeat(-(-count // 3), -(-steps // 4))[:count, :steps].contiguous()
        for flags in (of_mask, of_reset)
    )
    h = torch.randn(count, steps, d_model, dtype=torch.double)
    h[~mask] = torch.nan
    return h, random_state(layer, count, requires_grad=False), reset, mask
