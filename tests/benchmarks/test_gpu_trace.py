"""The way of a warp through instructions, and the tables that are made of it."""

from __future__ import annotations

import struct
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks import gpu_model, gpu_trace
from benchmarks.compile_matrix import merge_rows

# Lanes 0 to 3 go through a loop: the first three begin at 0, since lane - 1 < 2, the last one at 3.
LISTING = """
        /*0000*/                   S2R R0, SR_TID.X ;
        /*0010*/                   ISETP.GE.U32.AND P0, PT, R0, 0x4, PT ;
        /*0020*/                   ULDC.64 UR4, c[0x0][0x218] ;
        /*0030*/                   BSSY B0, `(.L_x_1) ;
        /*0040*/               @P0 BRA `(.L_x_2) ;
        /*0050*/                   IADD3 R2, P1, R0, -0x1, RZ ;
        /*0060*/                   IADD3.X R3, RZ, -0x1, RZ, P1, !PT ;
        /*0070*/                   ISETP.LT.U32.AND P1, PT, R2, 0x2, PT ;
        /*0080*/                   ISETP.LT.AND.EX P1, PT, R3, RZ, PT, P1 ;
        /*0090*/                   SEL R4, R0, 0x0, !P1 ;
.L_x_3:
        /*00a0*/                   VIADD R4, R4, 0x1 ;
        /*00b0*/                   FFMA R5, R5, R5, R5 ;
        /*00c0*/                   ISETP.LT.AND P2, PT, R4, UR4, PT ;
        /*00d0*/               @P2 BRA `(.L_x_3) ;
.L_x_2:
        /*00e0*/                   BSYNC B0 ;
.L_x_1:
        /*00f0*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*0100*/                   LDG.E R6, desc[UR6][R4.64+0x10] ;
        /*0110*/                   EXIT ;
"""


def path(number=0, turns=7):
    instructions = gpu_model.parsed(LISTING, "none")
    bank = gpu_trace.constants_of([False], struct.pack("q", turns))
    return instructions, gpu_trace.Warp(instructions, number, gpu_trace.Memory(bank, None)).run()


def test_lanes_go_their_own_ways_and_meet():
    """For lane 0 the comparison is of a negative number of 64 bits."""
    instructions, events = path()
    counts = gpu_trace.counted(instructions, events)
    assert counts["FFMA"] == 7
    assert counts["BAR"] == counts["EXIT"] == 1
    # The lanes that leave the loop early meet the others where they wait.
    assert counts["BSYNC"] == 3


def test_a_warp_of_which_no_lane_takes_part_skips_the_loop():
    instructions, events = path(number=1)
    assert gpu_trace.counted(instructions, events)["FFMA"] == 0


def test_cycles_are_those_of_the_longest_warp():
    instructions, first = path()
    _, second = path(number=1)
    latency = {"BAR": 20, "LDG": 260, "LD": 35}
    alone, both = (
        gpu_trace.cycles_of(instructions, paths, latency, 4) for paths in ([first], [first, second])
    )
    assert 0 <= both - alone <= 1  # in another partition; only the memory pipe is for both
    assert alone > 7 * (4 + 4 + 1)  # each turn waits for its addition and its comparison


def test_a_step_of_the_sum_rule_has_two_multiplications_a_row():
    """S + k^T v, and q times that: one of each in every row of a thread's column."""
    pytest.importorskip("cupy")
    wheels = find_spec("nvidia")
    folders = (wheels and wheels.submodule_search_locations) or ()
    # NVIDIA has it for Linux and Windows alone; where CI compiles kernels it is installed with the tests.
    if not any(Path(folder, "cu13", "bin", "nvdisasm").exists() for folder in folders):
        pytest.skip("there is no nvdisasm; install nvidia-cuda-nvdisasm")
    for D, barriers in ((16, 0), (64, 2)):
        row = dict(zip(gpu_model.HEAD, gpu_model.row_of("sum_rule_forward", D), strict=True))
        assert row["FMAs"] == 2 * D
        assert row["barriers"] == barriers


def test_rows_of_other_kernels_stay(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "before\n<!-- t -->\n| kernel | a |\n|---|---|\n| delta_forward | 1 |\n| srwm_forward | 2 |\n"
        "<!-- /t -->\nafter\n",
        encoding="utf-8",
    )
    merge_rows(page, "t", ["| kernel | a |", "|---|---|"], ["| srwm_forward | 3 |"], ["srwm_forward"])
    rows = page.read_text(encoding="utf-8").splitlines()
    assert Counter(rows)["| kernel | a |"] == 1
    assert rows[2:6] == ["| kernel | a |", "|---|---|", "| srwm_forward | 3 |", "| delta_forward | 1 |"]
    assert rows[0] == "before"
    assert rows[-1] == "after"
