"""The host's cost of a CUDA call: that its rows run and are named, not how long they take."""

from __future__ import annotations

import torch

from benchmarks import host_cost
from srwm import _plan
from srwm._layouts import CPU


def test_every_row_is_timed_and_nothing_is_left_behind(capsys):
    threads = torch.get_num_threads()
    try:
        host_cost.main(host_cost.Args(size=(2, 2, 3, 4), turns=1, calls=2))
    finally:
        torch.set_num_threads(threads)
    lines = capsys.readouterr().out.splitlines()
    assert [line.rsplit(None, 2)[0] for line in lines] == [
        *("is_plain", "key and addresses", "plan of a key", "torch.empty of y", "forward"),
        *("empty Function, forward and backward", "forward and backward"),
        "forward and backward beyond a Function",
    ]
    assert _plan._KINDS[CPU] == "cpu"
    assert not _plan._plans
