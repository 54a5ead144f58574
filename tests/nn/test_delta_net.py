"""`DeltaNet` alone: the names of its weights, its published form, and a quantised copy."""

from __future__ import annotations

import pytest
import torch

from srwm.nn import SRWM, DeltaNet, FeedForward, Stack

d_model, H = 12, 3


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_the_published_form_is_the_default():
    layer = DeltaNet(d_model, H)
    assert (layer.residual, layer.eps) == ("pre_norm", 0)
    assert list(layer.state_dict()) == [
        "out_linear.weight",
        "layer_norm.weight",
        "layer_norm.bias",
        "slow_net.weight",
    ]


@pytest.mark.filterwarnings("ignore:.*quantiz")
def test_a_quantised_copy_works():
    layer = Stack([DeltaNet(d_model, H), FeedForward(d_model, 20), SRWM(d_model, H)]).eval()
    quantised = torch.ao.quantization.quantize_dynamic(layer, {torch.nn.Linear}, dtype=torch.qint8)
    h, reset = torch.randn(2, 5, d_model), torch.rand(2, 5) < 0.2
    mask = torch.rand(2, 5) < 0.8
    with torch.no_grad():
        out, state = layer(h, layer.initial_state(2), reset, mask)
        got, last = quantised(h, quantised.initial_state(2), reset, mask)
        got, last = got.detach(), last[0].detach()
    torch.testing.assert_close(got, out, rtol=0.05, atol=0.05)
    torch.testing.assert_close(last, state[0], rtol=0.05, atol=0.05)
    with pytest.raises(TypeError, match="DeltaNet: h: expected the dtype of the layer's parameters"):
        quantised.layers[0](h.double())
