"""`FakeSR`: what is left of an `SRWM` that never writes."""

from __future__ import annotations

import pytest
import torch

from srwm.nn import SRWM, FakeSR
from tests.nn.loops import randomised

H, D = 4, 3
d_model = H * D


@pytest.mark.parametrize("input_softmax", [False, True])
@pytest.mark.parametrize("residual", ["norm_skip", "plain", "pre_norm", "none"])
def test_fake_sr_is_an_srwm_that_never_writes(residual, input_softmax):
    torch.manual_seed(0)
    fake = randomised(FakeSR(d_model, H, residual=residual, input_softmax=input_softmax))
    layer = SRWM(d_model, H, residual=residual, input_softmax=input_softmax).double()
    weights = fake.state_dict()
    W = torch.zeros_like(layer.W)
    W[..., :D] = weights.pop("W_y")  # W_q = W_k = 0: both uniform, their difference 0
    layer.load_state_dict(weights | {"W": W})
    h, reset = torch.randn(3, 5, d_model, dtype=torch.double), torch.rand(3, 5) < 0.3
    out, state = fake(h, None, reset)
    assert state is None
    torch.testing.assert_close(out, layer(h, None, reset)[0])


def test_initial_weights():
    torch.manual_seed(0)
    assert FakeSR(512, 4).W_y.std().item() == pytest.approx(128**-0.5, rel=0.03)
    assert FakeSR(512, 4).initial_state(3) is None
