import pytest
import torch
import torch.nn.functional as F
from torch import nn

from examples.rl.encoder import ImpalaEncoder


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def frames_of(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def by_hand(encoder: nn.Module, frames: torch.Tensor, sections: int) -> torch.Tensor:
    """The published encoder's equations."""
    weights = encoder.state_dict()

    def convolution(x, name):
        return F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1)

    x = frames.double() / 255
    for s in range(sections):
        x = F.max_pool2d(convolution(x, f"sections.{s}.convolution"), 3, stride=2, padding=1)
        for b in range(2):
            name = f"sections.{s}.blocks.{b}"
            x = x + convolution(convolution(x.relu(), f"{name}.first").relu(), f"{name}.second")
    x = x.relu().reshape(len(x), -1)
    return (x @ weights["linear.weight"].T + weights["linear.bias"]).relu()


@pytest.mark.parametrize(
    ("shape", "channels", "scale"),
    [((2, *size), (3, 4, 5), 1) for size in ((16, 16), (13, 9), (5, 3), (1, 1))] + [((1, 6, 6), (2, 3), 2)],
)
def test_encoder_by_hand(shape, channels, scale):
    encoder = ImpalaEncoder(shape, channels=channels, scale=scale, n_features=7).double()
    found = [section.convolution.out_channels for section in encoder.sections]
    assert found == [scale * n for n in channels]
    frames = frames_of(4, *shape)
    features = encoder(frames)
    assert features.shape == (4, 7)
    torch.testing.assert_close(features, by_hand(encoder, frames, len(channels)))


def test_filters_and_maps_are_channels_last():
    seen = []  # that the layout changes no value is what the equations by hand show
    encoder = ImpalaEncoder((3, 16, 16))
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d | nn.MaxPool2d):
            module.register_forward_hook(lambda _, inputs, output: seen.extend([inputs[0], output]))
    encoder(frames_of(2, 3, 16, 16))
    assert len(seen) == 2 * 3 * 6
    filters = [module.weight for module in encoder.modules() if isinstance(module, nn.Conv2d)]
    assert all(a.is_contiguous(memory_format=torch.channels_last) for a in seen + filters)


@pytest.mark.parametrize(
    ("made", "frames", "error", "message"),
    [
        ({}, torch.rand(2, 3, 8, 8), TypeError, r"frames must be uint8, .*got torch.float32; the enc"),
        ({}, frames_of(2, 8, 8, 3), ValueError, r"frames must be .*\(3, 8, 8\), got \(2, 8, 8, 3\)"),
        ({}, frames_of(3, 8, 8), ValueError, r"frames must be \(N, C, H, W\) .*got \(3, 8, 8\)"),
        ({"channels": ()}, None, ValueError, r"channels must be .*, got \(\)"),
        ({"channels": (4, 0)}, None, ValueError, r"channels must be .*, got \(4, 0\)"),
    ],
)
def test_encoder_refuses_what_does_not_fit(made, frames, error, message):
    with pytest.raises(error, match=f"ImpalaEncoder: .*{message}"):
        ImpalaEncoder(**{"frame_shape": (3, 8, 8), **made})(frames)
