"""Programs exported by torch, several at a time: each compiler and each process is started once for all."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]

LOAD = """
import sys, torch
import srwm.torch_operators
folder = sys.argv[1]
results = []
for i, args in enumerate(torch.load(folder + "/args.pt")):
    results += [torch.export.load(f"{folder}/{i}.pt2").module()(*args)]
torch.save(results, folder + "/results.pt")
"""


def by_another_process(programs: Sequence[Any], args: Sequence[tuple[Any, ...]], folder: Path) -> list[Any]:
    """The results of exported programs that a process which has none of our modules loads."""
    for i, program in enumerate(programs):
        torch.export.save(program, folder / f"{i}.pt2")
    torch.save(list(args), folder / "args.pt")
    subprocess.run([sys.executable, "-W", "ignore", "-c", LOAD, str(folder)], cwd=ROOT, check=True)
    return torch.load(folder / "results.pt")


class Together(torch.nn.Module):
    """Modules side by side, each called with arguments of its own."""

    def __init__(self, modules: Sequence[torch.nn.Module]) -> None:
        super().__init__()
        self.parts = torch.nn.ModuleList(modules)

    def forward(self, *args: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(part(*own) for part, own in zip(self.parts, args, strict=True))


def compiled_ahead(
    modules: Sequence[torch.nn.Module], args: Sequence[tuple[Any, ...]], folder: Path
) -> tuple[Any, ...]:
    """The results of modules as one package of AOTInductor, loaded again: one takes hardly less time."""
    program = torch.export.export(Together(modules), tuple(args))
    path = torch._inductor.aoti_compile_and_package(program, package_path=str(folder / "package.pt2"))
    return torch._inductor.aoti_load_package(path)(*args)
