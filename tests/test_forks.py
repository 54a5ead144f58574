"""No call of an operator waits for ever in a forked child of a process in which torch used OpenMP."""

from __future__ import annotations

import pytest

from tests.forking import run

TORCH_USED_THREADS = """
import torch
torch.set_num_threads(4)
torch.randn(10**6).exp()
"""


@pytest.mark.parametrize("instruction_set", [pytest.param("baseline", marks=pytest.mark.slow), ""])
def test_srwm_imported_in_the_child(instruction_set):
    program = """
in_child(lambda: call() and allowed() == (not on_linux))
in_child(lambda: in_child(call) is None and call())
"""
    run(TORCH_USED_THREADS + program, SRWM_INSTRUCTION_SET=instruction_set)


@pytest.mark.parametrize("instruction_set", ["baseline", pytest.param("", marks=pytest.mark.slow)])
def test_srwm_imported_in_the_parent(instruction_set):
    program = """
import srwm
in_child(lambda: call() and not allowed())
in_child(lambda: in_child(call) is None and call())
"""
    run(TORCH_USED_THREADS + program, SRWM_INSTRUCTION_SET=instruction_set)


@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.slow), "bfloat16"])
def test_tensors(dtype):
    # torch's own operations on large tensors wait in the child: none may be among the operators'.
    program = """
# Gradients that are sums are large too: many sequences share x, all of them W.
whole, shared = np.full((40, 1, 100, 32), 0.1, np.float32), np.full((2, 32, 1000), 0.01, np.float32)
x, W = (torch.from_numpy(a).to(torch.DTYPE).requires_grad_() for a in (whole, shared))

def on_tensors():
    import srwm
    y = srwm.forward(x, W, num_threads=4)
    gx, gW = torch.autograd.grad(y, (x, W), torch.ones((), dtype=y.dtype).expand(y.shape))
    return gx.shape == x.shape and gW.shape == W.shape

in_child(on_tensors)
import srwm
in_child(on_tensors)
"""
    run(TORCH_USED_THREADS + program.replace("DTYPE", dtype))


def test_workers_of_multiprocessing_and_of_loaders():
    program = """
import multiprocessing
from torch.utils.data import DataLoader, Dataset

class Called(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, i):
        return call()

signal.alarm(200)  # ends a parent that waits for a worker that hangs
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.starmap(call, [()] * 4) == [True] * 4
for _ in range(2):
    loader = DataLoader(Called(), num_workers=2, multiprocessing_context="fork", timeout=60)
    assert all(flags.all() for flags in loader)
"""
    run(TORCH_USED_THREADS + program)
