"""The learners of the published supervised experiments have the published numbers of parameters."""

import pytest
import torch

from examples.fewshot.encoders import Conv4, ResNet12
from examples.fewshot.models import build_learner

OMNIGLOT = {"image_size": 28, "channels": 1, "encoder_channels": 64}
MINI_IMAGENET = {"image_size": 84, "channels": 3, "encoder_channels": 32}
FC100 = {"image_size": 32, "channels": 3, "encoder_channels": 32}
FC100_RESNET = {"image_size": 32, "channels": 3, "encoder": "resnet12"}
FC100_BIG_RESNET = {**FC100_RESNET, "big_resnet12": True}
LSTM_512 = {"core": "lstm", "n_layers": 1, "d_model": 512}
LSTM_1024 = {"core": "lstm", "n_layers": 1, "d_model": 1024}


def srwm(n_layers: int, ff_factor: int) -> dict:
    return {"core": "srwm", "n_layers": n_layers, "ff_factor": ff_factor}


def deltanet(n_layers: int, ff_factor: int) -> dict:
    return {"core": "deltanet", "n_layers": n_layers, "ff_factor": ff_factor}


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("encoder", "core", "parameters"),
    [
        (OMNIGLOT, srwm(2, 4), 1_342_021),
        (OMNIGLOT, srwm(3, 4), 1_947_461),
        (OMNIGLOT, deltanet(2, 4), 1_716_805),
        (OMNIGLOT, LSTM_512, 1_308_485),
        (OMNIGLOT, LSTM_1024, 4_602_181),
        (MINI_IMAGENET, srwm(3, 4), 2_052_837),
        (MINI_IMAGENET, srwm(3, 8), 3_628_773),  # 5-shot, and bootstrapping
        (MINI_IMAGENET, deltanet(4, 8), 5_509_093),
        (MINI_IMAGENET, LSTM_1024, 7_533_797),
        (FC100, srwm(3, 4), 1_880_805),
        (FC100, deltanet(3, 8), 4_018_917),
        (FC100, LSTM_1024, 4_781_285),
        (FC100_RESNET, srwm(3, 4), 4_117_125),
        (FC100_RESNET, deltanet(3, 4), 4_679_301),
        (FC100_RESNET, LSTM_1024, 7_509_125),
        (FC100_BIG_RESNET, srwm(3, 4), 9_947_013),
        (MINI_IMAGENET, srwm(3, 1), 870_885),  # two data sets in sequence
        (MINI_IMAGENET, deltanet(3, 1), 1_433_061),
    ],
)
def test_learner(encoder, core, parameters):
    assert count(build_learner(**encoder, **core)) == parameters


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


def test_a_learner_by_default_is_the_published_one_for_omniglot():
    learner = build_learner()
    assert count(learner) == 1_342_021
    assert count(learner.core.mixers[0]) == 79_360
    assert count(learner.core.feed_forwards[0]) == 526_080
