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


def batch_norm(x, weights, name):
    mean, var, gain, bias = (
        weights[f"{name}.{part}"][:, None, None]
        for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (var + 1e-5).sqrt() * gain + bias


def test_conv4_by_hand():
    encoder = randomised(Conv4(2, 3, 20))
    weights = encoder.state_dict()
    x = images = torch.rand(4, 2, 20, 20).double()
    for block in range(0, 20, 5):
        name, norm = f"blocks.{block}", f"blocks.{block + 1}"
        x = F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1)
        x = F.max_pool2d(batch_norm(x, weights, norm).relu(), 2)
    torch.testing.assert_close(encoder(images), x.reshape(4, 3))


def test_resnet12_by_hand():
    encoder = randomised(ResNet12(3, 32))
    weights = encoder.state_dict()

    def convolution(x, name, index):
        filters = weights[f"{name}.{index}.weight"]
        x = F.conv2d(x, filters, padding=filters.shape[-1] // 2)
        return batch_norm(x, weights, f"{name}.{index + 1}")

    x = images = torch.rand(2, 3, 32, 32).double()
    for block in range(4):
        body = f"blocks.{block}.body"
        y = F.leaky_relu(convolution(x, body, 0), 0.1)
        y = F.leaky_relu(convolution(y, body, 4), 0.1)
        y = convolution(y, body, 8) + convolution(x, f"blocks.{block}.shortcut", 0)
        x = F.max_pool2d(F.leaky_relu(y, 0.1), 2)
    torch.testing.assert_close(encoder(images), x.mean(dim=(2, 3)))


def test_initial_filters_of_resnet12():
    encoder = ResNet12(3, 32)
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)


def zeros_seen(encoder: nn.Module, images: torch.Tensor) -> tuple[bool, bool, bool]:
    """Whether a training pass drops units within a block, at the blocks' ends, and whole channels alone."""
    inside, ends = [], []
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == module.out_channels:
            module.register_forward_pre_hook(lambda _, inputs: inside.append(inputs[0] == 0))
    for block in encoder.blocks:
        block.register_forward_hook(lambda _, __, output: ends.append(output == 0))
    encoder.train()(images)
    dropped = [*inside, *ends]
    whole = all((zero.flatten(2).all(-1) == zero.flatten(2).any(-1)).all() for zero in dropped)
    assert len(inside) == 8
    assert len(ends) == 4
    each = {where: [bool(zero.any()) for zero in zeros] for where, zeros in (("in", inside), ("end", ends))}
    assert all(len(set(flags)) == 1 for flags in each.values()), "some blocks drop and others do not"
    return each["in"][0], each["end"][0], whole


def test_each_kind_of_dropout_drops_what_its_name_says():
    images = torch.randn(4, 3, 32, 32)
    seen = {
        kind: zeros_seen(ResNet12(3, 32, dropout=0.3, dropout_type=kind), images)
        for kind in ("base", "inblock", "2d", "2d_inblock")
    }
    assert seen == {
        "base": (False, True, False),
        "inblock": (True, True, False),
        "2d": (False, True, True),
        "2d_inblock": (True, True, True),
    }
    assert zeros_seen(ResNet12(3, 32, dropout_type="2d_inblock"), images) == (False, False, True)


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


def test_dropout_of_conv4_is_in_every_block():
    pooled = []
    encoder = Conv4(dropout=0.5)
    for relu in encoder.blocks[4::5]:
        relu.register_forward_pre_hook(lambda _, inputs: pooled.append(inputs[0] == 0))
    encoder.train()(torch.rand(8, 1, 28, 28))
    assert [zero.float().mean().item() for zero in pooled] == pytest.approx([0.5] * 4, abs=0.1)
    pooled.clear()
    encoder.eval()(torch.rand(8, 1, 28, 28))
    assert not any(zero.any() for zero in pooled)


def test_encoders_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match="Conv4: image_size must be at least 16, got 15"):
        Conv4(1, 64, 15)
    with pytest.raises(ValueError, match="ResNet12: image_size must be at least 16, got 8"):
        ResNet12(3, 8)
    with pytest.raises(ValueError, match=r"ResNet12: dropout_type must be one of base, .*, got 'all'"):
        ResNet12(3, 32, dropout_type="all")
    with pytest.raises(ValueError, match=r"Conv4: images .*\(1, 28, 28\), got \(2, 3, 28, 28\)"):
        Conv4()(torch.zeros(2, 3, 28, 28))
    with pytest.raises(ValueError, match=r"ResNet12: images .*\(3, 32, 32\), got \(2, 3, 84, 84\)"):
        ResNet12()(torch.zeros(2, 3, 84, 84))
