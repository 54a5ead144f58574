"""`FeedForward`: pre-norm, called as the layers are."""

from __future__ import annotations

import torch

from srwm.nn import FeedForward


def test_feed_forward_is_pre_norm():
    torch.manual_seed(0)
    block = FeedForward(12, 50)
    h = torch.randn(3, 9, 12)
    first, last = block.ff_layers[0], block.ff_layers[3]
    out, state = block(h, None, torch.rand(3, 9) < 0.5)
    torch.testing.assert_close(out, h + last(first(block.layer_norm(h)).relu()))
    assert state is None
    assert block.initial_state(3) is None


def test_drawn_anew_it_is_as_drawn():
    torch.manual_seed(0)
    block = FeedForward(12, 50)
    torch.manual_seed(0)
    before = {name: p.clone() for name, p in block.state_dict().items()}
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.fill_(7)
    block.reset_parameters()
    assert all(torch.equal(p, before[name]) for name, p in block.state_dict().items())
