import pytest
import torch

from examples.fewshot.encoders import Conv4, ResNet12
from examples.fewshot.models import FewShotLearner, build_learner
from examples.training.cores import build_core

CORES = (
    "srwm",
    "deltanet",
    "fake_sr",
    "lstm",
    "linear",
    "recurrent_delta",
    "delta_rnn",
    "delta_delta",
    "delta_cde",
)
each_core = pytest.mark.parametrize("core", CORES)


def small(core: str = "srwm", **options) -> FewShotLearner:
    torch.manual_seed(0)
    sizes = {"n_way": 3, "encoder_channels": 4, "n_layers": 2, "n_heads": 2, "d_model": 16}
    return build_learner(core=core, **{**sizes, **options}).double().eval()


def test_encode_takes_any_leading_axes():
    learner = small()
    images = torch.rand(2, 3, 1, 28, 28).double()
    one_by_one = torch.stack([learner.encode(row) for row in images])
    torch.testing.assert_close(learner.encode(images), one_by_one, rtol=1e-12, atol=1e-12)


@each_core
@pytest.mark.parametrize(("unknown_label", "shown_at_query"), [("class_0", 0), ("nothing", -1)])
def test_a_query_after_the_shared_support_answers_as_a_whole_sequence(core, unknown_label, shown_at_query):
    learner = small(core, unknown_label=unknown_label)
    support, query = torch.randn(4, 6, 4).double(), torch.randn(4, 5, 4).double()
    labels = torch.tensor([2, 0, 1, 1, 0, 2]).expand(4, 6)

    together = learner.classify(support, labels, query)

    for q in range(5):
        sequence = torch.cat([support, query[:, q : q + 1]], dim=1)
        shown = torch.cat([labels, torch.full((4, 1), shown_at_query)], dim=1)
        logits, _ = learner.read(sequence, shown)
        torch.testing.assert_close(together[:, q], logits[:, -1], rtol=1e-11, atol=1e-12)


@each_core
def test_the_gradient_is_that_of_whole_sequences(core):
    learner = small(core)
    support, query = torch.randn(2, 3, 4).double(), torch.randn(2, 4, 4).double()
    labels = torch.tensor([[0, 1, 2], [2, 1, 0]])
    cotangent = torch.randn(2, 4, 3).double()

    def gradients(logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(logits, list(learner.core.parameters()), cotangent)

    sequences = torch.cat(
        [support.unsqueeze(1).expand(2, 4, 3, 4), query.unsqueeze(2)], dim=2
    )  # (B, Q, S + 1, F)
    shown = torch.cat([labels, torch.zeros(2, 1, dtype=torch.int64)], dim=1)
    whole, _ = learner.read(sequences, shown.unsqueeze(1).expand(2, 4, 4))

    expected = gradients(whole[:, :, -1])
    for one, other in zip(gradients(learner.classify(support, labels, query)), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@each_core
def test_images_go_in_as_one_batch_and_come_out_as_logits(core):
    learner = small(core)
    support, query = torch.rand(2, 3, 1, 28, 28).double(), torch.rand(2, 5, 1, 28, 28).double()
    labels = torch.tensor([[0, 1, 2], [2, 1, 0]])
    expected = learner.classify(learner.encode(support), labels, learner.encode(query))
    torch.testing.assert_close(learner(support, labels, query), expected, rtol=1e-11, atol=1e-12)


@each_core
@pytest.mark.parametrize("encoder", ["conv4", "resnet12"])
def test_everything_learns_from_one_labelled_image_of_each_class(core, encoder):
    learner = small(core, encoder=encoder, image_size=16, channels=3).train()
    support, query = torch.rand(2, 3, 3, 16, 16).double(), torch.rand(2, 2, 3, 16, 16).double()
    logits = learner(support, torch.tensor([[0, 1, 2], [2, 1, 0]]), query)
    torch.nn.functional.cross_entropy(logits.mT, torch.tensor([[0, 1], [2, 0]])).backward()
    for name, parameter in learner.named_parameters():
        # What batch normalisation subtracts, a constant of a whole channel, cannot learn.
        before_norm = (
            encoder == "conv4" and name.startswith("encoder") and parameter.grad.abs().max() < 1e-12
        )
        assert before_norm == (name in BEFORE_NORM), name
    if core == "srwm":
        for mixer in learner.core.stack.layers[::2]:
            for block in mixer.W.grad.split([8, 8, 8, 1, 1, 1, 1], -1)[:4]:
                assert block.abs().max() > 1e-12


BEFORE_NORM = {f"encoder.blocks.{i}.bias" for i in range(0, 20, 5)}


def test_label_minus_one_shows_nothing():
    learner = small()
    received = []
    learner.core.register_forward_pre_hook(lambda _, inputs: received.append(inputs[0]))
    features = torch.randn(1, 4, 4).double()
    learner.read(features, torch.tensor([[0, 2, -1, 1]]))
    shown = torch.tensor([[1, 0, 0], [0, 0, 1], [0, 0, 0], [0, 1, 0]]).double()
    assert torch.equal(received[0], torch.cat([features, shown[None]], dim=-1))
    for label in (3, -2):
        with pytest.raises(RuntimeError, match="Class values must be"):
            learner.read(features, torch.full((1, 4), label))


def test_unit_features_are_centred_and_of_length_one():
    learner = small(unit_features=True)
    received = []
    learner.core.register_forward_pre_hook(lambda _, inputs: received.append(inputs[0][..., :4]))
    learner.read(10 * torch.randn(2, 5, 4).double() + 3, torch.zeros(2, 5, dtype=torch.int64))
    torch.testing.assert_close(received[0].norm(dim=-1), torch.ones(2, 5).double(), rtol=1e-4, atol=0)
    torch.testing.assert_close(received[0].sum(-1), torch.zeros(2, 5).double(), rtol=0, atol=1e-9)


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


def test_learners_refuse_what_does_not_fit():
    with pytest.raises(
        ValueError, match="build_learner: encoder must be one of conv4, resnet12, got 'vit'"
    ):
        small(encoder="vit")
    for core in ("gru", "transformer"):  # the latter carries nothing to the queries
        with pytest.raises(ValueError, match=f"build_learner: core must be one of srwm, .*, got '{core}'"):
            small(core)
    with pytest.raises(ValueError, match=r"build_core: input_softmax belongs to .* core 'deltanet'"):
        small("deltanet", input_softmax=True)
    with pytest.raises(ValueError, match="build_learner: big_resnet12 belongs to encoder resnet12"):
        small(big_resnet12=True)
    with pytest.raises(ValueError, match="build_learner: encoder_dropout_type belongs to encoder resnet12"):
        small(encoder_dropout_type="2d")
    with pytest.raises(ValueError, match="FewShotLearner: unknown_label must be one of class_0, nothing"):
        FewShotLearner(Conv4(), build_core("srwm", 69, 5), 5, unknown_label="mean")
