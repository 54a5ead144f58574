"""What a learner answers, what of it learns, and that it is the one that was asked for."""

from typing import get_args

import pytest
import torch

from examples.fewshot.encoders import ResNet12
from examples.fewshot.models import FewShotLearner, build_learner
from examples.fewshot.settings import CoreName, Settings

each_core = pytest.mark.parametrize("core", get_args(CoreName))
LABELS = torch.tensor([[0, 1, 2], [2, 1, 0]])


def small(core: str = "srwm", **options) -> FewShotLearner:
    torch.manual_seed(0)
    sizes = {"n_way": 3, "encoder_channels": 4, "n_layers": 2, "n_heads": 2, "d_model": 16}
    usual = {"core": core, "unit_features": False, "input_gain": 1.0}
    return build_learner(Settings(**{**sizes, **usual, **options})).double().eval()


@each_core
@pytest.mark.parametrize(("unknown_label", "shown_at_query"), [("class_0", 0), ("nothing", -1)])
def test_queries_after_the_shared_support_are_answered_as_whole_sequences(
    core, unknown_label, shown_at_query
):
    """Logits and gradients."""
    learner = small(core, unknown_label=unknown_label)
    support, query = torch.randn(2, 3, 4).double(), torch.randn(2, 4, 4).double()
    cotangent = torch.randn(2, 4, 3).double()
    together = learner.classify(support, LABELS, query)

    sequences = torch.cat(
        [support.unsqueeze(1).expand(2, 4, 3, 4), query.unsqueeze(2)], dim=2
    )  # (B, Q, S + 1, F)
    shown = torch.cat([LABELS, torch.full((2, 1), shown_at_query)], dim=1)
    whole, _ = learner.read(sequences, shown.unsqueeze(1).expand(2, 4, 4))
    torch.testing.assert_close(together, whole[:, :, -1], rtol=1e-11, atol=1e-12)
    found, expected = (
        torch.autograd.grad(logits, list(learner.core.parameters()), cotangent)
        for logits in (together, whole[:, :, -1])
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_images_go_in_as_one_batch_and_come_out_as_logits():
    learner = small()
    support, query = torch.rand(2, 3, 1, 28, 28).double(), torch.rand(2, 5, 1, 28, 28).double()
    encoded = torch.stack([learner.encode(row) for row in support])
    torch.testing.assert_close(learner.encode(support), encoded, rtol=1e-12, atol=1e-12)
    expected = learner.classify(encoded, LABELS, learner.encode(query))
    torch.testing.assert_close(learner(support, LABELS, query), expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("unit_features", [False, True])
def test_the_core_receives_features_and_labels(unit_features):
    """Label -1 shows nothing; unit features are centred and of length one."""
    learner = small(unit_features=unit_features)
    received = []
    learner.core.register_forward_pre_hook(lambda _, inputs: received.append(inputs[0]))
    features = 10 * torch.randn(1, 4, 4).double() + 3
    learner.read(features, torch.tensor([[0, 2, -1, 1]]))
    found, shown = received[0].split([4, 3], dim=-1)
    assert shown.tolist() == [[[1, 0, 0], [0, 0, 1], [0, 0, 0], [0, 1, 0]]]
    if unit_features:
        torch.testing.assert_close(found.norm(dim=-1), torch.ones(1, 4).double(), rtol=1e-4, atol=0)
        torch.testing.assert_close(found.sum(-1), torch.zeros(1, 4).double(), rtol=0, atol=1e-9)
    else:
        assert torch.equal(found, features)


def test_a_learner_is_what_is_asked_for():
    resnet = small(encoder="resnet12", big_resnet12=True, image_size=32, channels=3, n_way=4)
    assert isinstance(resnet.encoder, ResNet12)
    assert resnet.encoder.n_features == 512
    assert resnet.core.input_proj.in_features == 516
    dropping = small(encoder_dropout=0.3, input_dropout=0.2, dropout=0.1)
    rates = {m.p for m in dropping.encoder.modules() if isinstance(m, torch.nn.Dropout)}
    assert rates == {0.3, 0.2}
    assert {m.p for m in dropping.core.modules() if isinstance(m, torch.nn.Dropout)} == {0.1}
    by_channel = small(
        encoder="resnet12", channels=3, encoder_dropout=0.3, encoder_dropout_type="2d_inblock"
    )
    assert {m.p for m in by_channel.modules() if isinstance(m, torch.nn.Dropout2d)} == {0.3}
    core = small(beta_init=9.0, q_scale=0.0, input_softmax=True, input_gain=20.0, ff_factor=3).core
    layers = core.stack.layers
    for mixer, feed_forward in zip(layers[::2], layers[1::2], strict=True):
        assert mixer.W[..., -4:].min() > 5
        assert not mixer.W[..., 8:16].any()
        assert mixer.input_softmax
        assert feed_forward.ff_layers[0].out_features == 48
    torch.testing.assert_close(core.input_proj.weight, 20 * small().core.input_proj.weight)


@pytest.mark.parametrize("option", [{"big_resnet12": True}, {"encoder_dropout_type": "2d"}])
def test_learners_refuse_what_does_not_fit(option):
    [name] = option
    with pytest.raises(ValueError, match=f"build_learner: {name} belongs to encoder resnet12"):
        small(**option)
