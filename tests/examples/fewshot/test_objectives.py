import dataclasses

import torch

from examples.fewshot.objectives import (
    EncoderWarmup,
    EpisodeTraining,
    Objective,
    Share,
    cosines_to_classes,
)
from examples.fewshot.settings import build_learner


def loss_of(objective: Objective) -> torch.Tensor:
    return objective(objective.dataset(Share())[0])["loss"]


def test_cosines_leave_the_image_itself_out():
    features = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0)).double()
    cosines = cosines_to_classes(features)
    directions = features / features.norm(dim=-1, keepdim=True)
    for own in range(4):
        for image in range(3):
            for other in range(4):
                members = [m for m in range(3) if (own, image) != (other, m)]
                mean = directions[other, members].mean(dim=0)
                expected = torch.cosine_similarity(features[own, image], mean, dim=0)
                torch.testing.assert_close(cosines[own, image, other], expected)


def test_warmup_trains_the_encoder_and_nothing_else_of_the_learner(settings, splits):
    learner = build_learner(settings)
    loss_of(EncoderWarmup(learner, [splits.train], settings)).backward()
    touched = {name for name, p in learner.named_parameters() if p.grad is not None}
    assert touched == {name for name, _ in learner.named_parameters() if "encoder." in name}


def test_episodes_train_the_whole_learner_or_all_but_the_encoder(settings, splits):
    for tuned in (True, False):
        learner = build_learner(settings)
        objective = EpisodeTraining(
            learner, splits.train, dataclasses.replace(settings, train_encoder=tuned)
        )
        loss_of(objective).backward()
        trained = {name for name, p in learner.named_parameters() if tuned or "encoder." not in name}
        # A frozen encoder could have a gradient here; that it is none of Adam's, the groups say.
        with_gradient = {n for n, p in learner.named_parameters() if p.grad is not None}
        assert trained == {n for n in with_gradient if tuned or "encoder." not in n}
        grouped = [p for group in objective.parameter_groups() for p in group["params"]]
        assert len(grouped) == len(trained)
        assert learner.encoder.training == tuned


def test_the_tuned_encoder_learns_at_its_own_rate(settings, splits):
    settings = dataclasses.replace(settings, train_encoder=True)
    objective = EpisodeTraining(build_learner(settings), splits.train, settings)
    others, encoder = objective.parameter_groups()
    assert encoder["lr"] == settings.encoder_learning_rate_factor * others["lr"]
