import torch

from examples.fewshot.models import Conv4, FewShotLearner


def small() -> FewShotLearner:
    torch.manual_seed(0)
    learner = FewShotLearner(3, encoder_channels=4, n_layers=2, n_heads=2, d_model=16)
    return learner.double().eval()


def test_parameter_count_of_the_published_omniglot_model():
    learner = FewShotLearner()
    assert sum(p.numel() for p in learner.parameters()) == 1_342_021
    assert sum(p.numel() for p in learner.encoder.parameters()) == 111_936


def test_conv4_gives_64_features_of_an_omniglot_image():
    assert Conv4()(torch.rand(2, 1, 28, 28)).shape == (2, 64)


def test_encode_takes_any_leading_axes():
    learner = small()
    images = torch.rand(2, 3, 1, 28, 28).double()
    one_by_one = torch.stack([learner.encode(row) for row in images])
    torch.testing.assert_close(learner.encode(images), one_by_one, rtol=1e-12, atol=1e-12)


def test_a_query_after_the_shared_support_answers_as_a_whole_sequence():
    learner = small()
    support, query = torch.randn(4, 6, 4).double(), torch.randn(4, 5, 4).double()
    labels = torch.tensor([2, 0, 1, 1, 0, 2]).expand(4, 6)

    together = learner.classify(support, labels, query)

    for q in range(5):
        sequence = torch.cat([support, query[:, q : q + 1]], dim=1)
        shown = torch.cat([labels, torch.zeros(4, 1, dtype=torch.int64)], dim=1)  # label 0
        logits, _ = learner.read(sequence, shown)
        torch.testing.assert_close(together[:, q], logits[:, -1], rtol=1e-11, atol=1e-12)


def test_the_gradient_is_that_of_whole_sequences():
    learner = small()
    support, query = torch.randn(2, 3, 4).double(), torch.randn(2, 4, 4).double()
    labels = torch.tensor([[0, 1, 2], [2, 1, 0]])
    cotangent = torch.randn(2, 4, 3).double()

    def gradients(logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(logits, parameters, cotangent)

    parameters = [p for n, p in learner.named_parameters() if not n.startswith("encoder")]
    sequences = torch.cat(
        [support.unsqueeze(1).expand(2, 4, 3, 4), query.unsqueeze(2)], dim=2
    )  # (B, Q, S + 1, F)
    shown = torch.cat([labels, torch.zeros(2, 1, dtype=torch.int64)], dim=1)
    whole, _ = learner.read(sequences, shown.unsqueeze(1).expand(2, 4, 4))

    expected = gradients(whole[:, :, -1])
    for one, other in zip(gradients(learner.classify(support, labels, query)), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_images_go_in_as_one_batch_and_come_out_as_logits():
    learner = small()
    support, query = torch.rand(2, 3, 1, 28, 28).double(), torch.rand(2, 5, 1, 28, 28).double()
    labels = torch.tensor([[0, 1, 2], [2, 1, 0]])
    expected = learner.classify(learner.encode(support), labels, learner.encode(query))
    torch.testing.assert_close(learner(support, labels, query), expected, rtol=1e-11, atol=1e-12)
