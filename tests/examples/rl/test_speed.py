"""Frames per second of agents: the parts are those of an update and add up."""

import json
import time

import pytest
import torch
from torch import nn

from examples.rl import speed
from examples.rl.speed import Speed
from tests.examples.runs import cells_of


def test_the_parts_of_an_update(tmp_path, capsys):
    output = tmp_path / "made" / "speed.json"
    results = speed.main(Speed(presets=("cue-srwm", "cue-lstm"), rounds=1, output=output))
    assert json.loads(output.read_text()) == results
    rows = cells_of(capsys.readouterr().out)
    assert [row[0] for row in rows] == ["", "cue-srwm", "cue-lstm"]
    assert rows[0][2:] == ["environment", "encoder", "operator", "rest"]
    for agent in results["agents"].values():
        assert sum(agent["shares"].values()) == pytest.approx(1)
        taken = agent["microseconds_per_frame"]
        operator = taken.pop("operator")
        assert min(*taken.values(), agent["shares"]["rest"]) > 0
        assert taken["encoder"] + operator < taken["acting"] + taken["learning"]
        whole = taken["environment"] + taken["acting"] + taken["learning"]
        assert agent["frames_per_second"] == pytest.approx(1e6 / whole)
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


@pytest.mark.parametrize(("learns", "takes"), [(True, 0.4), (False, 0.2)])
def test_modules_are_timed_forwards_and_backwards(learns, takes):
    """One that learns, and one that acts alone."""
    module, acting, rest = Slow(2, 2), Slow(2, 2).requires_grad_(False), Slow(2, 1)
    stopwatch, start = speed._Stopwatch(module, acting), time.perf_counter()
    acting(torch.ones(3, 2))
    with torch.set_grad_enabled(learns):
        out = rest(module(torch.ones(3, 2)))
    if learns:
        out.sum().backward()
    assert takes < stopwatch.total < time.perf_counter() - start - (takes - 0.1), "as much is the rest's"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"presets": ()}, ValueError, "got none"),
        ({"presets": ("pong",)}, ValueError, "got pong"),
        ({"rounds": 0}, ValueError, "--rounds must be at least 1, got 0"),
        ({}, OSError, "file"),
    ],
)
def test_what_does_not_fit_is_known_before_any_measurement(tmp_path, monkeypatch, change, error, message):
    (tmp_path / "file").touch()
    monkeypatch.setattr(speed, "measure", lambda *_: pytest.fail("measured before"))
    options = {"presets": ("cue-srwm",), "output": tmp_path / "file" / "speed.json"}
    with pytest.raises(error, match=message):
        speed.main(Speed(**(options | change)))
