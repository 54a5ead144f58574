import threading

import pytest
import torch

from examples.rl.rollouts import Actor
from tests.examples.rl.fakes import BrokenEnvironment, FakeEnvironment, fake_agent
from tests.examples.rl.test_rollouts import assert_same, collector


def actor(beside: bool, environment=FakeEnvironment) -> Actor:
    return Actor(fake_agent(1), collector(agent=fake_agent(2), kind=environment), beside=beside)


@pytest.fixture(params=[False, True])
def either(request):
    made = actor(request.param)
    yield made
    made.close()


def play(one: Actor, unrolls: int = 3):
    """Unrolls, with weights that change while each is collected."""
    found = []
    for number in range(unrolls):
        one.start(number)
        with torch.no_grad():
            for parameter in one.learner.parameters():
                parameter.mul_(1.5)
        found.append(one.finish())
    return found


def test_beside_the_learner_or_in_its_place_it_acts_with_the_weights_at_the_start(either):
    for number, (unroll, in_place) in enumerate(zip(play(either), play(actor(False)), strict=True)):
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
