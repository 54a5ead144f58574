import dataclasses

import numpy as np
import pytest
import torch

from examples.rl.rollouts import Collector, Rows
from examples.training.run_folder import load, save
from tests.examples.rl.fakes import FakeAgent, FakeEnvironment, FakeOutput, ForgetfulEnvironment, fake_agent

T = 9


FOUR = Rows(0, 4, 4)


def collector(rows=FOUR, sizes=(4,), seed=0, agent=None, kind=FakeEnvironment):
    first, environments = rows.first, []
    for size in sizes:
        environments.append(kind(size, first))
        first += size
    return Collector(environments, agent or fake_agent(), unroll=T, seed=seed, rows=rows)


def assert_same(one, other):
    for field in dataclasses.fields(one):
        mine, theirs = getattr(one, field.name), getattr(other, field.name)
        if isinstance(mine, torch.Tensor):
            assert torch.equal(mine, theirs), field.name
        elif field.name == "states":
            assert all(map(torch.equal, mine, theirs))
        elif field.name == "episodes":
            assert mine == theirs


def test_an_unroll_is_what_the_environments_answered():
    one = collector()
    unroll = one.collect(0)
    replay = FakeEnvironment(4)
    step = replay.reset()
    for t in range(T + 1):
        np.testing.assert_array_equal(unroll.frames[:, t], step.frame)
        np.testing.assert_array_equal(unroll.rewards[:, t], step.reward)
        np.testing.assert_array_equal(unroll.dones[:, t], step.done)
        if t < T:
            step = replay.step(unroll.actions[:, t].numpy())
    assert (unroll.frames.dtype, unroll.frames.shape) == (torch.uint8, (4, T + 1, 1, 4, 4))
    assert (unroll.rewards.dtype, unroll.dones.dtype) == (torch.float32, torch.bool)
    assert unroll.behaviour_logits.shape == (4, T, 4)
    assert unroll.dones[:, 0].all()
    assert unroll.dones[:, 1:].any(dim=1).all(), "no episode ended: the test would show little"


def test_the_first_step_of_an_unroll_is_the_last_of_the_one_before():
    one = collector()
    before, after = one.collect(0), one.collect(1)
    for name in ("frames", "rewards", "dones"):
        assert torch.equal(getattr(before, name)[:, -1], getattr(after, name)[:, 0]), name
    assert one._blocks[0].environment.steps == 2 * T


def test_learning_sees_what_acting_saw():
    """One call over the unroll, from its states, gives the logits of acting step by step."""
    one = collector()
    for number in range(3):
        unroll = one.collect(number)
        output, _ = one.agent(unroll.frames, unroll.rewards, unroll.dones, unroll.states)
        torch.testing.assert_close(
            output.logits[:, :-1].float(), unroll.behaviour_logits, rtol=0, atol=1e-6
        )
        assert number == 0 or unroll.states[0].any()
        assert not unroll.states[0].requires_grad


def test_episodes_are_counted_once_with_their_returns():
    one = collector()
    unrolls = [one.collect(number) for number in range(4)]
    found = [episode for unroll in unrolls for episode in unroll.episodes]
    expected = []
    for row in range(4):
        rewards = torch.cat([unroll.rewards[row, 1:] for unroll in unrolls])
        dones = torch.cat([unroll.dones[row, 1:] for unroll in unrolls])
        total, length = 0.0, 0
        for reward, done in zip(rewards.tolist(), dones.tolist(), strict=True):
            total, length = total + reward, length + 1
            if done:
                expected.append(("fake", total, length))
                total, length = 0.0, 0
    assert sorted((e.game, e.episode_return, e.length) for e in found) == sorted(expected)
    assert len(found) > 20


def test_actions_do_not_depend_on_what_was_drawn_before():
    one, other = collector(), collector()
    one.collect(7)
    other._blocks = one._blocks
    assert torch.equal(one._noise(3), other._noise(3))
    assert not torch.equal(one._noise(3), one._noise(4))
    assert not torch.equal(one._noise(3), collector(seed=1)._noise(3))


def test_processes_that_share_the_rows_act_as_one():
    whole = collector(Rows(0, 4, 4))
    halves = [collector(Rows(first, 2, 4), sizes=(2,)) for first in (0, 2)]
    for number in range(3):
        joined = whole.collect(number)
        parts = [half.collect(number) for half in halves]
        for name in ("frames", "actions", "rewards", "dones"):
            both = torch.cat([getattr(part, name) for part in parts])
            assert torch.equal(both, getattr(joined, name)), name
    assert len(joined.actions.unique()) > 1


class Fixed(FakeAgent):
    """Always of the same opinion."""

    logits = torch.tensor([0.0, 1.0, -1.0, float("-inf")])

    def forward(self, frames, rewards, dones, states=None, **options):
        B, L = rewards.shape
        return FakeOutput(self.logits.expand(B, L, 4), torch.zeros(B, L)), states


def test_actions_are_sampled_from_the_policy():
    """At every step and in every environment anew."""
    one = collector(Rows(0, 8, 8), sizes=(8,), agent=Fixed())
    actions = torch.stack([one.collect(number).actions for number in range(60)])  # (unrolls, B, T)
    expected = Fixed.logits.softmax(-1)
    frequencies = actions.flatten().bincount(minlength=4) / actions.numel()
    errors = (expected * (1 - expected) / actions.numel()).sqrt()
    assert frequencies[3] == 0
    assert ((frequencies - expected).abs() <= 3.5 * errors).all()
    alike = (expected**2).sum()  # the probability that two independent actions are the same
    for axis, length in enumerate(actions.shape):
        pairs = actions.narrow(axis, 0, length - 1) == actions.narrow(axis, 1, length - 1)
        assert (pairs.float().mean() - alike).abs() <= 4 * (alike * (1 - alike) / pairs.numel()).sqrt(), (
            axis
        )


def test_blocks_take_turns():
    one = collector(Rows(0, 4, 4), sizes=(2, 2, 2))
    corner = [block.environment for block in one._blocks]
    for number in range(4):
        one.collect(number)
    assert [environment.steps for environment in corner] == [3 * T, 3 * T, 2 * T]
    one, firsts = collector(Rows(0, 4, 4), sizes=(2, 2, 2)), []
    for number in range(3):
        unroll = one.collect(number)
        firsts.append(unroll.dones[:, 0].tolist())
    assert firsts[0] == [True] * 4, "blocks 0 and 1, both new"
    assert firsts[1][:2] == [True] * 2, "blocks 2, new, and 0"
    last = one._blocks[0].step
    assert torch.equal(one.collect(3).frames[:2, 0], torch.from_numpy(last.frame))


def test_a_block_continues_with_its_own_state():
    """Whether it plays in every unroll or in every other one."""
    for sizes, rows, later in (((2, 2), Rows(0, 4, 4), 1), ((2, 2), Rows(0, 2, 2), 2)):
        one = collector(rows, sizes=sizes)
        unrolls = [one.collect(number) for number in range(later + 1)]
        first, last = unrolls[0], unrolls[later]
        _, states = one.agent(
            first.frames[:, :-1], first.rewards[:, :-1], first.dones[:, :-1], first.states
        )
        torch.testing.assert_close(last.states[0], states[0])


def test_a_collector_continues_where_another_stood(tmp_path):
    one, other = collector(sizes=(2, 2), seed=5), collector(sizes=(2, 2), seed=5)
    one.collect(0)
    save({"collector": one.state()}, tmp_path / "state.pt")
    expected = one.collect(1)
    other.load_state(load(tmp_path / "state.pt")["collector"])
    assert_same(other.collect(1), expected)


def test_saved_states_do_not_change_when_the_games_go_on():
    one = collector()
    one.collect(0)
    saved = one.state()
    expected = one.collect(1)
    one.load_state(saved)
    assert_same(one.collect(1), expected)


def test_environments_that_cannot_be_saved():
    assert collector(kind=ForgetfulEnvironment).state() is None


def test_it_can_be_told_to_give_up():
    one = collector()
    answers = iter([True, True, False])
    assert one.collect(0, lambda: next(answers)) is None
    assert one._blocks[0].environment.steps == 2


@pytest.mark.parametrize("sizes", [(), (3,), (2, 1, 1), (3, 3), (2,)])
def test_blocks_that_do_not_make_up_the_rows_are_refused(sizes):
    with pytest.raises(ValueError, match=r"blocks of one size that make up the 4 rows, got sizes \["):
        collector(Rows(0, 4, 4), sizes=sizes)
