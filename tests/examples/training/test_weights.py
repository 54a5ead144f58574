import dataclasses
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from examples.training.weights import load_optimizer, load_weights, read_progress

PATH = Path("runs/tiny/checkpoint.pt")


def trained() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.randn(4, 3)).square().sum().backward()
    optimizer.step()
    return module, optimizer


def states(module: nn.Module, optimizer: torch.optim.Optimizer) -> str:
    return repr((module.state_dict(), optimizer.state_dict()))


def with_one(value: float):
    def change(weights: dict) -> None:
        weights["0.weight"].view(-1)[4] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("0.bias"), "lacks the weight 0.bias"),
        (lambda weights: weights.update({"0.bias": [0.0, 0.0]}), "lacks the weight 0.bias"),
        (lambda weights: weights.update({"2.bias": torch.zeros(2)}), "has a weight 2.bias that this"),
        (
            lambda weights: weights.update({"0.weight": torch.zeros(2, 4)}),
            "the weight 0.weight has the shape (2, 4), expected (2, 3)",
        ),
        (
            lambda weights: weights.update({"0.bias": torch.zeros(1)}),
            "the weight 0.bias has the shape (1,), expected (2,)",
        ),
        (
            lambda weights: weights.update({"0.bias": torch.zeros(2).half()}),
            "the weight 0.bias has the dtype torch.float16, expected torch.float32",
        ),
        (with_one(torch.nan), "the weight 0.weight is not finite"),
        (with_one(-torch.inf), "the weight 0.weight is not finite"),
        (
            lambda weights: weights["1.running_var"].fill_(torch.inf),
            "the weight 1.running_var is not finite",
        ),
    ],
)
def test_weights_that_are_not_the_modules_are_named_and_nothing_is_loaded(change, message):
    module, optimizer = trained()
    weights = {name: torch.zeros_like(value) for name, value in module.state_dict().items()}
    change(weights)
    before = states(module, optimizer)
    with pytest.raises(ValueError, match=f"^{PATH}.*{re.escape(message)}.*; put back a copy"):
        load_weights(module, weights, PATH)
    assert states(module, optimizer) == before


@pytest.mark.parametrize("weights", [None, [], 3])
def test_what_are_no_weights_at_all(weights):
    with pytest.raises(ValueError, match="has no weights; put back a copy"):
        load_weights(nn.Linear(1, 1), weights, PATH)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.clear(), "is not one of these weights"),
        (lambda state: state.pop("state"), "is not one of these weights"),
        (lambda state: state["param_groups"].pop(), "is not one of these weights"),
        (lambda state: state["param_groups"][0]["params"].pop(), "is not one of these weights"),
        (
            lambda state: state["state"][1].update(exp_avg=torch.zeros(3)),
            "exp_avg of weight 1 has the shape (3,), expected (2,)",
        ),
        (lambda state: state["state"][0]["exp_avg_sq"].fill_(torch.nan), "exp_avg_sq of weight 0 is not"),
    ],
)
def test_an_optimisers_state_that_is_not_of_these_weights_is_named(change, message):
    module, optimizer = trained()
    _, other = trained()
    state = other.state_dict()
    state = {
        "state": {n: {k: v.clone() for k, v in of.items()} for n, of in state["state"].items()},
        "param_groups": [{**group, "params": [*group["params"]]} for group in state["param_groups"]],
    }
    change(state)
    before = states(module, optimizer)
    with pytest.raises(ValueError, match=f"^{PATH}: the optimiser's .*{re.escape(message)}.*; put back"):
        load_optimizer(optimizer, state, PATH)
    assert states(module, optimizer) == before


def test_what_belongs_to_a_module_is_loaded():
    module, optimizer = trained()
    other = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    fresh = torch.optim.Adam(other.parameters())
    load_weights(other, module.state_dict(), PATH)
    load_optimizer(fresh, optimizer.state_dict(), PATH)
    assert states(other, fresh) == states(module, optimizer)


@dataclasses.dataclass
class Progress:
    step: int = 0


def test_progress_of_another_version_is_named():
    assert read_progress(Progress, {"step": 3}, PATH) == Progress(3)
    with pytest.raises(ValueError, match=r"another version of the program, which counts epoch, lap; use"):
        read_progress(Progress, {"step": 3, "lap": 1, "epoch": 2}, PATH)
