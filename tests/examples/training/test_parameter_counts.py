"""The learners and agents of the published experiments have the published numbers of parameters."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from examples.fewshot.encoders import Conv4, ResNet12
from examples.fewshot.models import build_learner
from examples.fewshot.settings import Settings
from examples.rl.agent import Agent
from examples.rl.encoder import ImpalaEncoder
from examples.rl.settings import Settings as RlSettings
from examples.rl.train import make_agent

OMNIGLOT = {"image_size": 28, "channels": 1, "encoder_channels": 64}
FC100 = {"image_size": 32, "channels": 3, "encoder_channels": 32}
FC100_RESNET = {"image_size": 32, "channels": 3, "encoder": "resnet12"}
FC100_BIG_RESNET = {**FC100_RESNET, "big_resnet12": True}

# The published layers of these agents make a layer norm of 128 gains and 128 biases each and never call it
# (their residual form is "plain"); here there is none, in neither of the two layers.
UNUSED = 2 * (128 + 128)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def agent_of(**options) -> Agent:
    """One for Procgen."""
    return make_agent(RlSettings(**options), SimpleNamespace(frame_shape=(3, 64, 64), n_actions=15))


def srwm(n_layers: int, ff_factor: int) -> dict:
    return {"core": "srwm", "n_layers": n_layers, "ff_factor": ff_factor}


def deltanet(n_layers: int, ff_factor: int) -> dict:
    return {"core": "deltanet", "n_layers": n_layers, "ff_factor": ff_factor}


def lstm(d_model: int) -> dict:
    return {"core": "lstm", "n_layers": 1, "d_model": d_model}


@pytest.mark.parametrize(
    ("encoder", "core", "parameters"),
    [
        ({}, {}, 1_342_021),  # by default the one for Omniglot
        (OMNIGLOT, srwm(3, 4), 1_947_461),
        (OMNIGLOT, deltanet(2, 4), 1_716_805),
        (OMNIGLOT, lstm(512), 1_308_485),
        (OMNIGLOT, lstm(1024), 4_602_181),
        (FC100, lstm(1024), 4_781_285),
        (FC100_RESNET, deltanet(3, 4), 4_679_301),
        (FC100_RESNET, lstm(1024), 7_509_125),
        (FC100_BIG_RESNET, srwm(3, 4), 9_947_013),
    ],
)
def test_learner(encoder, core, parameters):
    assert count(build_learner(Settings(**encoder, **core))) == parameters


@pytest.mark.parametrize(
    ("encoder", "parameters", "features"),
    [
        (lambda: Conv4(1, 64, 28), 111_936, 64),
        (lambda: Conv4(3, 32, 84), 28_896, 800),
        (lambda: Conv4(3, 32, 32), 28_896, 128),
        (lambda: ResNet12(3, 32), 2_232_448, 256),
        (lambda: ResNet12(3, 32, big=True), 7_996_800, 512),
    ],
)
def test_encoder(encoder, parameters, features):
    built = encoder()
    assert built(torch.rand(2, *built.image_shape)).shape == (2, features)
    assert (count(built), built.n_features) == (parameters, features)


@pytest.mark.parametrize(
    ("options", "published", "unused"),
    [
        ({}, 967_760, UNUSED),  # by default srwm
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
    agent = agent_of(**options)
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


def test_parts_of_the_default_learner_and_agent():
    mixer, block, *_ = build_learner(Settings()).core.stack.layers
    assert (count(mixer), count(block)) == (79_360, 526_080)
    agent = agent_of()
    assert count(agent.encoder) == count(ImpalaEncoder()) == 622_144
    assert [mixer.residual for mixer in agent.core.stack.layers[::2]] == ["plain", "plain"]
