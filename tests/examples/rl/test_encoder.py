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


@pytest.mark.parametrize(("height", "width"), [(16, 16), (13, 9), (5, 3), (1, 1)])
def test_encoder_by_hand(height, width):
    encoder = ImpalaEncoder((2, height, width), channels=(3, 4, 5), n_features=7).double()
    frames = frames_of(4, 2, height, width)
    features = encoder(frames)
    assert features.shape == (4, 7)
    torch.testing.assert_close(features, by_hand(encoder, frames, 3))


def test_number_and_scale_of_the_sections():
    encoder = ImpalaEncoder((1, 6, 6), channels=(2, 3), scale=2, n_features=7).double()
    frames = frames_of(4, 1, 6, 6)
    assert [section.convolution.out_channels for section in encoder.sections] == [4, 6]
    assert encoder.linear.in_features == 6 * 2 * 2
    torch.testing.assert_close(encoder(frames), by_hand(encoder, frames, 2))


@pytest.mark.parametrize("size", [3, 8, 11])
def test_every_pixel_counts(size):
    encoder = ImpalaEncoder((1, size, size), channels=(4, 4), n_features=64).double()
    frame, pixels = frames_of(size * size), torch.eye(size * size, dtype=torch.uint8)
    # Two other values of each, as pooling may hide one that is no maximum.
    others = torch.stack([frame ^ 255 * pixels, frame ^ 128 * pixels]).reshape(-1, 1, size, size)
    changes = encoder(others) - encoder(frame.reshape(1, 1, size, size))
    assert (changes.abs().amax(-1).reshape(2, -1).amax(0) > 1e-9).all()


def test_filters_and_maps_are_channels_last():
    layouts = []  # that they change no value is what the equations by hand show
    encoder = ImpalaEncoder((3, 16, 16))
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d | nn.MaxPool2d):
            module.register_forward_hook(
                lambda _, inputs, output: layouts.append(
                    [a.is_contiguous(memory_format=torch.channels_last) for a in (inputs[0], output)]
                )
            )
    encoder(frames_of(2, 3, 16, 16))
    assert len(layouts) == 3 * 6
    assert all(all(pair) for pair in layouts)
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.is_contiguous(memory_format=torch.channels_last)


def test_encoder_refuses_what_does_not_fit():
    encoder = ImpalaEncoder((3, 8, 8))
    with pytest.raises(
        TypeError, match=r"ImpalaEncoder: frames must be uint8, .*got torch.float32; the enc"
    ):
        encoder(torch.rand(2, 3, 8, 8))
    with pytest.raises(
        ValueError, match=r"frames must be \(N, C, H, W\) .*\(3, 8, 8\), got \(2, 8, 8, 3\)"
    ):
        encoder(frames_of(2, 8, 8, 3))
    with pytest.raises(ValueError, match=r"frames must be \(N, C, H, W\) .*got \(3, 8, 8\)"):
        encoder(frames_of(3, 8, 8))
    with pytest.raises(ValueError, match=r"ImpalaEncoder: frame_shape must be .*got \(3, 0, 8\)"):
        ImpalaEncoder((3, 0, 8))
    with pytest.raises(ValueError, match=r"there must be a section, got channels \(\)"):
        ImpalaEncoder(channels=())
    with pytest.raises(ValueError, match=r"ImpalaEncoder: channels, scale .*scale 0"):
        ImpalaEncoder(scale=0)
