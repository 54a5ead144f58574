import itertools
import threading
from collections import Counter
from contextlib import closing

import numpy as np
import pytest
import torch

from examples.rl.acting import RandomPolicy
from examples.rl.agent import AgentOutput
from examples.rl.rollouts import Actor, Collector
from examples.rl.settings import Settings
from tests.examples.rl.fakes import BrokenEnvironment, FakeEnvironment, fake_agent

T = 12


def collector(rows=range(4), sizes=(4,), seed=0, agent=None, kind=FakeEnvironment, total=4):
    firsts = itertools.accumulate(sizes, initial=rows.start)
    environments = [kind(size, first) for size, first in zip(sizes, firsts, strict=False)]
    return Collector(
        environments, agent or fake_agent(), Settings(unroll=T, seed=seed, batch_size=total), rows
    )


def assert_same(one, other):
    for name, value in vars(one).items():
        if not name.endswith("_seconds"):
            torch.testing.assert_close(value, getattr(other, name), rtol=0, atol=0)


def test_unrolls_are_what_the_environments_answered():
    """The first step of an unroll is the last of the one before; an episode is counted once."""
    one, replay = collector(), FakeEnvironment(4)
    step, expected, found = replay.reset(), Counter(), Counter()
    for number in range(4):
        unroll = one.collect(number)
        for t in range(T + 1):
            if t > 0:
                step = replay.step(unroll.actions[:, t - 1].numpy())
                expected["episodes/fake"] += step.done.sum()
                expected["returns/fake"] += np.nansum(step.episode_return)
                expected["lengths/fake"] += step.episode_length.sum()
            np.testing.assert_array_equal(unroll.frames[:, t], step.frame)
            np.testing.assert_array_equal(unroll.rewards[:, t], step.reward)
            np.testing.assert_array_equal(unroll.dones[:, t], step.done)
        found.update(unroll.episodes)
        assert unroll.dones[:, 1:].any(dim=1).all(), "no episode ended: the test would show little"
    assert found == pytest.approx(expected)
    assert one._blocks[0].environment.steps == 4 * T
    assert (unroll.frames.dtype, unroll.frames.shape) == (torch.uint8, (4, T + 1, 3, 8, 8))
    assert (unroll.rewards.dtype, unroll.dones.dtype) == (torch.float32, torch.bool)
    assert unroll.behaviour_logits.shape == (4, T, 4)


def test_processes_that_share_the_rows_act_as_one():
    whole = collector()
    halves = [collector(rows, sizes=(2,)) for rows in (range(2), range(2, 4))]
    for number in range(3):
        joined = whole.collect(number)
        parts = [half.collect(number) for half in halves]
        for name in ("frames", "actions", "rewards", "dones"):
            both = torch.cat([getattr(part, name) for part in parts])
            assert torch.equal(both, getattr(joined, name)), name
    assert len(joined.actions.unique()) > 1
    assert not torch.equal(collector(seed=1).collect(0).actions, collector().collect(0).actions)


class Fixed(RandomPolicy):
    """Always of the same opinion."""

    logits = torch.tensor([0.0, 1.0, -1.0, float("-inf")])

    def forward(self, frames, rewards, dones, states=None):
        return AgentOutput(self.logits.expand(*rewards.shape, 4), rewards), []


def test_actions_are_sampled_from_the_policy():
    """At every step and in every environment anew."""
    one = collector(range(8), sizes=(8,), agent=Fixed(4), total=8)
    actions = torch.stack([one.collect(number).actions for number in range(60)])  # (unrolls, B, T)
    expected = Fixed.logits.softmax(-1)
    frequencies = actions.flatten().bincount(minlength=4) / actions.numel()
    errors = (expected * (1 - expected) / actions.numel()).sqrt()
    assert frequencies[3] == 0
    assert ((frequencies - expected).abs() <= 3.5 * errors).all()
    alike = (expected**2).sum()  # the probability that two independent actions are the same
    for axis, length in enumerate(actions.shape):
        pairs = actions.narrow(axis, 0, length - 1) == actions.narrow(axis, 1, length - 1)
        error = (alike * (1 - alike) / pairs.numel()).sqrt()
        assert (pairs.float().mean() - alike).abs() <= 4 * error, axis


def test_blocks_take_turns():
    one, firsts = collector(sizes=(2, 2, 2)), []
    for number in range(4):
        before = one._blocks[0].step
        unroll = one.collect(number)
        firsts.append(unroll.dones[:, 0].tolist())
    assert [block.environment.steps for block in one._blocks] == [3 * T, 3 * T, 2 * T]
    assert firsts[0] == [True] * 4, "blocks 0 and 1, both new"
    assert firsts[1][:2] == [True] * 2, "blocks 2, new, and 0"
    assert torch.equal(unroll.frames[:2, 0], torch.from_numpy(before.frame))


@pytest.mark.parametrize(("rows", "later"), [(range(4), 1), (range(2), 2)])
def test_a_block_continues_with_its_own_state(rows, later):
    """Whether it plays in every unroll or in every other one."""
    one = collector(rows, sizes=(2, 2), total=len(rows))
    first, *_, last = (one.collect(number) for number in range(later + 1))
    seen = (part[:, :-1] for part in (first.frames, first.rewards, first.dones))
    torch.testing.assert_close(last.states, one.agent(*seen, first.states)[1])


def actor(beside: bool, environment=FakeEnvironment) -> Actor:
    return Actor(fake_agent(1), collector(agent=fake_agent(2), kind=environment), beside=beside)


def play(beside: bool):
    """Unrolls, with weights that change while each is collected."""
    found = []
    with closing(actor(beside)) as one:
        for number in range(3):
            one.start(number)
            with torch.no_grad():
                for parameter in one.learner.parameters():
                    parameter.mul_(1.5)
            found.append(one.finish())
    return found


@pytest.mark.parametrize("beside", [False, True])
def test_beside_the_learner_or_in_its_place_it_acts_with_the_weights_at_the_start(beside):
    for number, (unroll, in_place) in enumerate(zip(play(beside), play(False), strict=True)):
        assert_same(unroll, in_place)
        learner = fake_agent(1)
        with torch.no_grad():
            for parameter in learner.parameters():
                parameter.mul_(1.5**number)
            output, _ = learner(unroll.frames, unroll.rewards, unroll.dones, unroll.states)
        logits = output.logits[:, :-1].float()
        torch.testing.assert_close(logits, unroll.behaviour_logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("beside", [False, True])
def test_errors_reach_the_learner(beside):
    one = actor(beside, BrokenEnvironment)
    one.start(0)
    one.finish()
    one.start(1)
    with pytest.raises(OSError, match="the game crashed") as caught:
        one.finish()
    assert any(entry.name == "step" for entry in caught.traceback), "where it came from is lost"
    one.close()
    assert one.collector._blocks[0].environment.closed


class Watched(FakeEnvironment):
    """Its third step waits until it may go on; nobody plays it while its state is taken."""

    def reset(self):
        self.stepped, self.reached, self.may_go_on = (threading.Event() for _ in range(3))
        return super().reset()

    def step(self, actions):
        self.stepped.set()
        if self.steps == 2:
            self.reached.set()
            self.may_go_on.wait()
        return super().step(actions)

    def state(self):
        self.stepped_before = self.stepped.wait(0.2)
        return super().state()


def test_it_plays_while_the_learner_computes_and_gives_up_within_a_step():
    one = actor(True, Watched)
    environment = one.collector._blocks[0].environment
    one.start(0)
    assert environment.reached.wait(60), "nothing happens until it is asked"
    assert not environment.stepped_before, "the snapshot is taken while it plays"
    threading.Timer(0.2, environment.may_go_on.set).start()
    one.close()
    assert environment.closed
    assert environment.steps == 3
    assert not any(thread.is_alive() for thread in one._executor._threads)
