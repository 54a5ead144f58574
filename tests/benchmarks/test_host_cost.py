"""The host's cost of a call: that its rows run and are named, not how long they take."""

from __future__ import annotations

from benchmarks import host_cost


def test_every_row_is_timed_on_both_devices(capsys, tmp_path):
    host_cost.main(host_cost.Args(turns=1, seconds=1e-4, cache=tmp_path))
    of_device, of_cpu = (part.splitlines() for part in capsys.readouterr().out.split("\n\ncpu, "))
    both = [
        *("forward", "empty Function, forward and backward", "forward and backward"),
        *("10 layers, forward and backward", host_cost.BEYOND, "one of the layers"),
    ]
    items = [
        *("is_plain", "key and addresses", "plan of a key", "torch.empty_like of the result"),
        *("its address", "current stream", "launch", "forward, CuPy"),
    ]
    assert names_of(of_device) == items + both
    assert names_of(of_cpu) == ["forward, NumPy", *both]


def names_of(lines):
    rows = [line for line in lines if line and "(B, H, L, D)" not in line]
    rows = [line for line in rows if "= (" not in line]
    assert all(float(line[46:]) > 0 for line in rows if host_cost.BEYOND not in line)
    return [line[:46].strip() for line in rows]
