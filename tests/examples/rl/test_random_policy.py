import torch

from examples.rl.acting import act, gumbel_noise
from examples.rl.random_policy import RandomPolicy


def test_every_action_is_as_probable_in_every_state():
    policy = RandomPolicy(3)
    output, states = policy(
        torch.zeros(2, 5, 1, 4, 4, dtype=torch.uint8),
        torch.ones(2, 5),
        torch.ones(2, 5, dtype=torch.bool),
        [],
    )
    assert output.logits.shape == (2, 5, 3)
    assert (output.logits.softmax(-1) == 1 / 3).all()
    assert torch.equal(output.values, torch.zeros(2, 5))
    assert states == policy.initial_state(2) == []


def test_it_acts_at_random():
    count = 6000
    frame = torch.zeros(count, 1, 4, 4, dtype=torch.uint8)
    acted = act(
        RandomPolicy(4), frame, torch.zeros(count), torch.zeros(count, dtype=torch.bool), [],
        gumbel_noise((count, 4), 0),
    )  # fmt: skip
    shares = acted.actions.bincount(minlength=4) / count
    assert ((shares - 1 / 4).abs() < 4 * (3 / 16 / count) ** 0.5).all()
