import threading

import pytest
import torch

from examples.rl.actors import Actor, ThreadedActor
from tests.examples.rl.fakes import FakeEnvironment, ForgetfulEnvironment, fake_agent
from tests.examples.rl.test_rollouts import assert_same, collector


def actor(kind, environment=FakeEnvironment):
    return kind(fake_agent(1), collector(agent=fake_agent(2), kind=environment))


each_kind = pytest.mark.parametrize("kind", [Actor, ThreadedActor])


@pytest.fixture(params=[Actor, ThreadedActor])
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


def test_beside_the_learner_or_in_its_place_is_the_same():
    both = [actor(kind) for kind in (Actor, ThreadedActor)]
    for one, other in zip(*map(play, both), strict=True):
        assert_same(one, other)
    both[1].close()


def test_it_acts_with_the_weights_at_the_start(either):
    for number, unroll in enumerate(play(either)):
        learner = fake_agent(1)
        with torch.no_grad():
            for parameter in learner.parameters():
                parameter.mul_(1.5**number)
            output, _ = learner(unroll.frames, unroll.rewards, unroll.dones, unroll.states)
        torch.testing.assert_close(
            output.logits[:, :-1].float(), unroll.behaviour_logits, rtol=1e-5, atol=1e-5
        )


def test_a_snapshot_is_all_that_an_unroll_depends_on(either):
    play(either, 2)
    either.start(2)
    snapshot = either.snapshot()
    weights = {name: value.clone() for name, value in snapshot["weights"].items()}
    expected = either.finish()
    other = actor(type(either))
    other.resume({**snapshot, "weights": weights}, snapshot["environments"])
    assert_same(other.finish(), expected)
    other.close()


def test_games_that_cannot_be_saved_begin_anew():
    one = actor(Actor, ForgetfulEnvironment)
    one.start(0)
    assert one.snapshot()["environments"] is None
    one.finish()
    one.start(1)
    other = actor(Actor, ForgetfulEnvironment)
    other.resume(one.snapshot(), None)
    assert other.finish().dones[:, 0].all()


class Broken(FakeEnvironment):
    def step(self, actions):
        if self.steps == 4:
            raise OSError("the game crashed")
        return super().step(actions)


@each_kind
def test_errors_reach_the_learner(kind):
    one = actor(kind, Broken)
    one.start(0)
    with pytest.raises(OSError, match="the game crashed") as caught:
        one.finish()
    assert any(entry.name == "step" for entry in caught.traceback), "where it came from is lost"
    one.close()
    assert one.collector._blocks[0].environment.closed


class Waiting(FakeEnvironment):
    """Its third step waits until it may go on."""

    def reset(self):
        self.reached, self.may_go_on = threading.Event(), threading.Event()
        return super().reset()

    def step(self, actions):
        if self.steps == 2:
            self.reached.set()
            self.may_go_on.wait()
        return super().step(actions)


def waiting_for_its_third_step():
    one = actor(ThreadedActor, Waiting)
    environment = one.collector._blocks[0].environment
    one.start(0)
    assert environment.reached.wait(60), "nothing happens until it is asked"
    return one, environment


def test_it_plays_while_the_learner_computes():
    one, environment = waiting_for_its_third_step()
    environment.may_go_on.set()
    one.finish()
    one.close()


class Photographed(FakeEnvironment):
    """Nobody plays it while its state is taken."""

    def reset(self):
        self.stepped = threading.Event()
        return super().reset()

    def step(self, actions):
        self.stepped.set()
        return super().step(actions)

    def state(self):
        self.stepped_before = self.stepped.wait(0.2)
        return super().state()


def test_the_snapshot_is_taken_before_the_first_step():
    one = actor(ThreadedActor, Photographed)
    one.start(0)
    one.finish()
    [block] = one.collector._blocks
    assert not block.environment.stepped_before
    assert block.environment.stepped.is_set()
    one.close()


def test_closing_gives_up_within_a_step():
    one, environment = waiting_for_its_third_step()
    threading.Timer(0.2, environment.may_go_on.set).start()
    one.close()
    assert environment.closed
    assert environment.steps == 3
    assert not any(thread.is_alive() for thread in one._executor._threads)


def test_one_unroll_at_a_time(either):
    with pytest.raises(RuntimeError, match="finish: no unroll was started"):
        either.finish()
    either.start(0)
    with pytest.raises(RuntimeError, match="unroll 0 must be finished before 1 is started"):
        either.start(1)
    either.finish()
