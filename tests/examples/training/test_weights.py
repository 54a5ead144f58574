import copy
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from examples.training.weights import load_optimizer, load_weights

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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda weights: weights.pop("0.bias"),
            "the weight 0.bias is no tensor, expected (2,)",
        ),
        (
            lambda weights: weights.update({"2.bias": torch.zeros(2)}),
            "the weight 2.bias is (2,) of torch.float32",
        ),
        (lambda weights: weights.update({"2.bias": None}), "2.bias is no tensor, expected no tensor"),
        (
            lambda weights: weights.update({"0.bias": torch.zeros(1).half()}),
            "the weight 0.bias is (1,) of torch.float16, expected (2,) of torch.float32",
        ),
        (lambda weights: weights["0.weight"][0].fill_(torch.nan), "the weight 0.weight is not finite"),
        (lambda weights: weights["1.running_var"].fill_(torch.inf), "1.running_var is not finite"),
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.clear(), "is not one of these weights"),
        (lambda state: state.pop("state"), "is not one of these weights"),
        (lambda state: state["param_groups"][0]["params"].pop(), "is not one of these weights"),
        (lambda state: state["state"][1].update(exp_avg=torch.zeros(3)), "exp_avg of weight 1 is not"),
        (lambda state: state["state"][0]["exp_avg_sq"].fill_(torch.nan), "exp_avg_sq of weight 0 is not"),
    ],
)
def test_an_optimisers_state_that_is_not_of_these_weights_is_named(change, message):
    module, optimizer = trained()
    state = copy.deepcopy(optimizer.state_dict())
    change(state)
    before = states(module, optimizer)
    with pytest.raises(ValueError, match=f"^{PATH}: the optimiser's .*{re.escape(message)}.*; put back"):
        load_optimizer(optimizer, state, PATH)
    assert states(module, optimizer) == before
