"""The agents of the published experiments have the published numbers of parameters."""

import pytest
import torch

from examples.rl.agent import build_agent
from examples.rl.encoder import ImpalaEncoder

# The published layers of these cores make a layer norm of 128 gains and 128 biases each and never call it
# (their residual form is "plain"); here there is none, in neither of the two layers.
UNUSED = 2 * (128 + 128)


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("options", "published", "unused"),
    [
        ({"core": "feedforward"}, 626_272, 0),
        ({"core": "feedforward", "scale": 2}, 1_441_696, 0),
        ({"core": "lstm"}, 1_153_616, 0),
        ({"core": "deeper"}, 921_168, 0),
        ({"core": "deltanet"}, 1_054_800, 0),
        ({"core": "linear"}, 1_052_752, 0),
        ({"core": "recurrent_delta"}, 1_067_344, 0),
        ({"core": "delta_rnn"}, 1_122_384, 0),
        ({"core": "srwm"}, 967_760, UNUSED),
        ({"core": "srwm_no_carry"}, 967_760, UNUSED),
        ({"core": "fake_sr"}, 958_544, UNUSED),
        ({"core": "sr_delta"}, 976_208, UNUSED),
    ],
    ids=str,
)
def test_agent(options, published, unused):
    agent = build_agent(**options)
    assert count(agent) == published - unused
    # None of ours is there for the count alone.
    output, states = agent(
        torch.randint(0, 256, (1, 2, 3, 64, 64), dtype=torch.uint8),
        torch.rand(1, 2),
        torch.zeros(1, 2, dtype=torch.bool),
    )
    used = torch.autograd.grad(
        output.logits.square().sum() + output.values.sum() + sum(state.sum() for state in states),
        list(agent.parameters()),
        allow_unused=True,
    )
    assert not [name for (name, _), g in zip(agent.named_parameters(), used, strict=True) if g is None]


def test_an_agent_by_default_is_the_published_srwm():
    agent = build_agent()
    assert count(agent) == 967_248
    assert count(agent.encoder) == count(ImpalaEncoder()) == 622_144
    assert [mixer.residual for mixer in agent.core.mixers] == ["plain", "plain"]
