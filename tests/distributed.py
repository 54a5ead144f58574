"""Run by torchrun on two gloo processes: DDP and FSDP2 train modules as one process does, each in its turn.

python -m torch.distributed.run --standalone --nproc-per-node 2 -m tests.distributed FOLDER

Every operator, in a small network, and every layer. Each process appends a line to FOLDER/<its rank> for
each of them: which it was, and the names of the parameters that ended otherwise.
"""

from __future__ import annotations

import copy
import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from srwm.nn import Stack
from tests.nn import layers
from tests.nn.loops import flat
from tests.operators import ROWS, Row, plain_loop, random_case

STEPS = 3


class Net(torch.nn.Module):
    """An operator whose parameters and initial matrices are learned, and a linear map behind it."""

    def __init__(self, row: Row, run: object) -> None:
        super().__init__()
        case = random_case(row, ((), (), 5, 4, 6), seed=1).map(torch.tensor)
        self.row, self.run = row, run
        weights = {row.op.flat[i].name: case.flat[i] for i in row.op.places("parameter", "initial")}
        self.weights = torch.nn.ParameterDict(weights)
        self.out = torch.nn.Linear(case.incoming[0].shape[-1], 2, dtype=torch.float64)

    def forward(self, given: dict[str, torch.Tensor]) -> torch.Tensor:
        given = given | dict(self.weights)
        y, *states = self.run(self.row, tuple(given.get(name) for name in self.row.op.names))
        return self.out(y).square().mean() + sum(state.sin().mean() for state in states)


class Loss(torch.nn.Module):
    """What is minimised of a layer's results."""

    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *given: Any) -> torch.Tensor:
        return sum(result.sin().mean() + result.square().mean() for result in flat(self.layer(*given)))


class Problem(NamedTuple):
    """What is trained by several processes, the same for one, and the arguments of a call."""

    net: torch.nn.Module
    alone: torch.nn.Module
    arguments: Any  # of a step's number, and a rank's


def problem_of_operator(row: Row) -> Problem:
    def arguments(step: int, rank: int) -> tuple[dict[str, torch.Tensor]]:
        size, seed = ((3,), (), 5, 4, 6), 10 * step + rank
        case = random_case(row, size, reset=True, mask=True, seed=seed).map(torch.tensor)
        places = row.op.places("data", "flag")
        return ({row.op.flat[i].name: case.flat[i] for i in places},)

    return Problem(Net(row, lambda row, flat: row.forward(flat)), Net(row, plain_loop), arguments)


def problem_of_layer(name: str) -> Problem:
    """With state, resets and a mask."""
    layer = layers.made(name)

    def arguments(step: int, rank: int) -> tuple[Any, ...]:
        torch.manual_seed(10 * step + rank)
        return layers.arguments(alone)

    alone = copy.deepcopy(layer)
    return Problem(Loss(layer), Loss(alone), arguments)


PROBLEMS = {
    **{row.name: lambda row=row: problem_of_operator(row) for row in ROWS},
    **{name: lambda name=name: problem_of_layer(name) for name in layers.MAKERS},
}


def trained(net: torch.nn.Module, arguments: Any, ranks: tuple[int, ...]) -> None:
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    for step in range(STEPS):
        optimizer.zero_grad()
        losses = [net(*arguments(step, rank)) for rank in ranks]
        (sum(losses) / len(losses)).backward()
        optimizer.step()


def by_ddp(net: torch.nn.Module) -> torch.nn.Module:
    return DistributedDataParallel(net)


def by_fsdp(net: torch.nn.Module) -> torch.nn.Module:
    """Of a stack each layer by itself, as is usual."""
    mesh = init_device_mesh("cpu", (2,))
    for module in net.modules():
        if isinstance(module, Stack):
            for layer in module.layers:
                fully_shard(layer, mesh=mesh)
    return fully_shard(net, mesh=mesh)


WAYS = {"ddp": by_ddp, "fsdp": by_fsdp}


def differing(how: str, name: str) -> list[str]:
    """The parameters that several processes train otherwise than one does."""
    torch.manual_seed(0)
    net, alone, arguments = PROBLEMS[name]()
    alone.load_state_dict(copy.deepcopy(net.state_dict()))
    begun = [p.detach().clone() for p in alone.parameters()]
    trained(alone, arguments, (0, 1))
    trained(WAYS[how](net), arguments, (dist.get_rank(),))
    wrong = []
    for (of, p), expected, before in zip(net.named_parameters(), alone.parameters(), begun, strict=True):
        whole = p.full_tensor() if how == "fsdp" else p
        if torch.equal(expected, before) or not torch.allclose(whole, expected, rtol=1e-9, atol=1e-9):
            wrong.append(of)
    return wrong


def main() -> None:
    dist.init_process_group("gloo")
    with (Path(sys.argv[1]) / str(dist.get_rank())).open("w") as file:
        for how in WAYS:
            for name in PROBLEMS:
                file.write(json.dumps([how, name, differing(how, name)]) + "\n")
                file.flush()
    dist.barrier()
    # Without the end of an interpreter: there PyTorch 2.13 joins the threads of a process group while it
    # holds the lock that they wait for, and FSDP2 was seen to abort.
    os._exit(0)


if __name__ == "__main__":
    main()
