import pytest
import torch
import torch.nn.functional as F
from torch import nn

from examples.fewshot.encoders import Conv4, ResNet12


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def randomised(encoder: nn.Module) -> nn.Module:
    """In evaluation, float64, with batch norms that are not the identity."""
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean):
                nn.init.normal_(tensor)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return encoder.double().eval()


def convolution(x, weights, name: str, norm: str):
    """With the batch normalisation after it."""
    filters, bias = weights[f"{name}.weight"], weights.get(f"{name}.bias")
    parts = (weights[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(F.conv2d(x, filters, bias, padding=filters.shape[-1] // 2), *parts)


def test_conv4_by_hand():
    encoder = randomised(Conv4(2, 3, 20))
    weights = encoder.state_dict()
    x = images = torch.rand(4, 2, 20, 20).double()
    for block in range(0, 20, 5):
        x = F.max_pool2d(convolution(x, weights, f"blocks.{block}", f"blocks.{block + 1}").relu(), 2)
    torch.testing.assert_close(encoder(images), x.reshape(4, 3))


def test_resnet12_by_hand():
    encoder = randomised(ResNet12(3, 32))
    weights = encoder.state_dict()
    x = images = torch.rand(2, 3, 32, 32).double()
    for block in range(4):
        body, shortcut = f"blocks.{block}.body", f"blocks.{block}.shortcut"
        y = x
        for first in (0, 4):
            y = F.leaky_relu(convolution(y, weights, f"{body}.{first}", f"{body}.{first + 1}"), 0.1)
        y = convolution(y, weights, f"{body}.8", f"{body}.9")
        y = y + convolution(x, weights, f"{shortcut}.0", f"{shortcut}.1")
        x = F.max_pool2d(F.leaky_relu(y, 0.1), 2)
    torch.testing.assert_close(encoder(images), x.mean(dim=(2, 3)))


def test_initial_filters_of_resnet12():
    encoder = ResNet12(3, 32)
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)


@pytest.mark.parametrize(
    ("kind", "rate", "within", "at_ends", "whole_channels"),
    [
        ("base", 0.3, False, True, False),
        ("inblock", 0.3, True, True, False),
        ("2d", 0.3, False, True, True),
        ("2d_inblock", 0.3, True, True, True),
        ("2d_inblock", 0.0, False, False, True),
    ],
)
def test_each_kind_of_dropout_drops_what_its_name_says(kind, rate, within, at_ends, whole_channels):
    """Units within blocks, at the blocks' ends, or whole channels there; the same in every block."""
    encoder = ResNet12(3, 32, dropout=rate, dropout_type=kind)
    inside, ends = [], []
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == module.out_channels:
            module.register_forward_pre_hook(lambda _, inputs: inside.append(inputs[0] == 0))
    for block in encoder.blocks:
        block.register_forward_hook(lambda _, __, output: ends.append(output == 0))
    encoder.train()(torch.randn(4, 3, 32, 32))
    assert [bool(zero.any()) for zero in inside] == [within] * 8
    assert [bool(zero.any()) for zero in ends] == [at_ends] * 4
    whole = [(zero.flatten(2).all(-1) == zero.flatten(2).any(-1)).all() for zero in (*inside, *ends)]
    assert all(whole) == whole_channels


@pytest.mark.parametrize("encoder", [Conv4, ResNet12])
def test_dropout_of_the_input_drops_single_values_in_training_alone(encoder):
    seen = []
    built = encoder(3, image_size=32, input_dropout=0.5)
    built.blocks.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = torch.rand(4, 3, 32, 32) + 1
    built.train()(images)
    built.eval()(images)
    dropped = seen[0] == 0
    assert 0.45 < dropped.float().mean() < 0.55
    torch.testing.assert_close(seen[0][~dropped], 2 * images[~dropped])
    assert torch.equal(seen[1], images)


@pytest.mark.parametrize(("training", "share"), [(True, 0.5), (False, 0.0)])
def test_dropout_of_conv4_is_in_every_block(training, share):
    pooled = []
    encoder = Conv4(dropout=0.5).train(training)
    for relu in encoder.blocks[4::5]:
        relu.register_forward_pre_hook(lambda _, inputs: pooled.append(inputs[0] == 0))
    encoder(torch.rand(8, 1, 28, 28))
    assert [zero.float().mean().item() for zero in pooled] == pytest.approx([share] * 4, abs=0.2 * share)


def test_encoders_refuse_what_does_not_fit():
    for make, message in (
        (lambda: Conv4(1, 64, 15), "Conv4: image_size must be at least 16, got 15"),
        (lambda: ResNet12(3, 8), "ResNet12: image_size must be at least 16, got 8"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
