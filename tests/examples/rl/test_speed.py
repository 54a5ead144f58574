"""Frames per second of agents: the parts are those of an update and add up."""

import json
import time

import pytest
import torch
from torch import nn

from examples.rl import speed
from examples.rl.speed import Speed


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    output = tmp_path_factory.mktemp("speed") / "made" / "speed.json"
    options = Speed(presets=("cue-srwm", "cue-lstm"), rounds=1, output=output)
    found = speed.main(options)
    assert json.loads(output.read_text()) == found
    return found


def test_parts_add_up(results):
    for agent in results["agents"].values():
        assert sum(agent["shares"].values()) == pytest.approx(1)
        taken = agent["microseconds_per_frame"]
        operator = taken.pop("operator")
        assert min(*taken.values(), agent["shares"]["rest"]) > 0
        assert taken["encoder"] + operator < taken["acting"] + taken["learning"]
        whole = taken["environment"] + taken["acting"] + taken["learning"]
        assert agent["frames_per_second"] == pytest.approx(1e6 / whole)


def test_only_an_agent_with_the_operator_spends_time_in_it(results):
    assert results["agents"]["cue-srwm"]["shares"]["operator"] > 0
    assert results["agents"]["cue-lstm"]["shares"]["operator"] == 0


class Slow(nn.Linear):
    """Takes 0.1 seconds forwards and 0.2 backwards."""

    def forward(self, x):
        time.sleep(0.1)
        return Sleeping.apply(super().forward(x))


class Sleeping(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        time.sleep(0.2)
        return gradient


@pytest.mark.parametrize(("learns", "takes"), [(True, 0.3), (False, 0.1)])
def test_a_module_is_timed_forwards_and_backwards(learns, takes):
    module, rest = Slow(2, 2), Slow(2, 1)
    stopwatch, start = speed._Stopwatch(module), time.perf_counter()
    with torch.set_grad_enabled(learns):
        out = rest(module(torch.ones(3, 2)))
    if learns:
        out.sum().backward()
        stopwatch.end()
    assert takes < stopwatch.total < time.perf_counter() - start - takes, "as much is the rest's"


def test_the_table_names_all_agents(results):
    lines = speed.table(results).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| cue-srwm", "| cue-lstm"]
    assert len({line.count("|") for line in lines}) == 1


def test_a_file_that_cannot_be_written_is_known_before_any_measurement(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(speed, "measure", lambda *_: pytest.fail("measured before"))
    with pytest.raises(OSError, match="file"):
        speed.main(Speed(presets=("cue-srwm",), output=tmp_path / "file" / "speed.json"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"presets": ()}, "got none"),
        ({"presets": ("pong",)}, "got pong"),
        ({"rounds": 0}, "--rounds must be at least 1, got 0"),
    ],
)
def test_options_that_do_not_fit(change, message):
    with pytest.raises(ValueError, match=message):
        Speed(**change).check()
