"""The way of a warp through instructions, and the tables that are made of it."""

from __future__ import annotations

import struct
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks import gpu_model, gpu_trace
from benchmarks.compile_matrix import Case, merge_rows

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


def run_of(listing, **values):
    """The registers of a warp after a listing."""
    warp = gpu_trace.Warp(gpu_model.parsed(listing, "none"), 0, gpu_trace.Memory(bytes(1024), None))
    warp.of |= values
    warp.run()
    return warp.of


def listing_of(*rows):
    """A listing of these rows, and of the end of a kernel."""
    return "".join(
        f"{row}\n" if row.startswith(".L") else f"        /*0000*/   {row} ;\n" for row in (*rows, "EXIT")
    )


@pytest.mark.parametrize(
    ("line", "values", "expected"),
    [
        # Predicates of a mask go into a register, and stay where the mask has none.
        ("P2R R4, PR, RZ, 0x8", {"P3": True, "P1": True}, {"R4": 8}),
        ("P2R R4, PR, R5, 0x3", {"R5": 0x46, "P0": True, "P1": False}, {"R4": 0x45}),
        ("P2R R4, PR, RZ, 0x8", {"R4": 8, "P3": None}, {"R4": None}),
        # Carries out of sums and products: a number, not what the predicate was before.
        ("LEA.HI R4, P2, R5, R6, RZ, 0x3", {"R5": 0, "R6": 7, "P2": True}, {"R4": 7, "P2": False}),
        ("LEA.HI R4, P2, R5, R6, RZ, 0x3", {"R5": 1 << 31, "R6": 2**32 - 1}, {"R4": 3, "P2": True}),
        (
            "IADD3 R4, P1, P2, R5, R6, R7",
            {"R5": 2**32 - 1, "R6": 2, "R7": 3, "P2": True},
            {"R4": 4, "P1": True, "P2": False},
        ),
        ("IADD3 R4, P1, P2, R5, R5, R5", {"R5": 2**32 - 1}, {"R4": 2**32 - 3, "P1": True, "P2": True}),
        (
            "IMAD.WIDE.U32 R4, P1, R6, R7, R8",
            {"R6": 3, "R7": 5, "R8": 2, "R9": 0, "P1": True},
            {"R4": 17, "R5": 0, "P1": False},
        ),
        (
            "IMAD.WIDE.U32 R4, P1, R6, R7, R8",
            {"R6": 1, "R7": 1, "R8": 2**32 - 1, "R9": 2**32 - 1},
            {"R4": 0, "R5": 0, "P1": True},
        ),
        # An unknown operand does not matter where the other one decides.
        ("ISETP.NE.AND P0, P1, R4, RZ, !P3", {"P3": True}, {"P0": False, "P1": False}),
        ("ISETP.EQ.OR.EX P0, PT, R4, RZ, P3, P2", {"P3": True, "P2": False}, {"P0": True}),
        # A comparison of numbers has another predicate, too.
        ("DSETP.EQ.OR P0, PT, R4, RZ, !P1", {"R4": 0, "R5": 1 << 30, "P1": False}, {"P0": True}),
        ("DSETP.EQ.OR P0, PT, R4, RZ, P1", {"R4": 0, "R5": 1 << 30, "P1": False}, {"P0": False}),
        (
            "DSETP.NEU.AND P0, P2, R4, RZ, P1",
            {"R4": 0, "R5": 1 << 30, "P1": True},
            {"P0": True, "P2": False},
        ),
        # The lower half of a register, and its sign.
        ("PRMT R4, R5, 0x7610, R4", {"R5": 1}, {"R4": 1}),
        ("PRMT R4, R5, 0x9910, RZ", {"R5": 0x8001}, {"R4": 0xFFFF8001}),
        ("R2UR UR4, R5", {"R5": 3}, {"UR4": 3}),
        # What is not modelled leaves nothing of what was there before, a predicate neither.
        ("R2P PR, R4, 0x6", {"P0": True, "P1": True, "P2": True}, {"P0": True, "P1": None, "P2": None}),
        ("LOP3.LUT P0, R5, R4, 0xff, RZ, 0xc0, !PT", {"P0": True, "R5": 1}, {"P0": None, "R5": None}),
        ("VOTEU.ALL UP1, P1", {"UP1": True}, {"UP1": None}),
        ("LEA R4, P0, R5, R6, 0x2", {"P0": True, "R4": 1}, {"P0": None, "R4": None}),
        ("IMAD.WIDE.U32 R4, P0, R5, R6, R8", {"P0": True, "R5": 1}, {"P0": None, "R4": None, "R5": None}),
    ],
)
def test_what_an_instruction_writes(line, values, expected):
    registers = run_of(listing_of(line), **values)
    assert {name: registers.get(name) for name in expected} == expected


UNKNOWN = "ISETP.NE.AND P0, PT, R9, RZ, PT"  # nothing has written R9


def test_a_way_that_is_unknown_is_an_error():
    """Unless it passes arithmetic alone, or a slow path."""
    for row in ("STG.E desc[UR6][R4.64], R5", "BAR.SYNC.DEFER_BLOCKING 0x0", "LDS R5, [R4]"):
        listing = listing_of(UNKNOWN, "@P0 BRA `(.L_x_1)", "FADD R5, R5, R5", row, ".L_x_1:")
        with pytest.raises(RuntimeError, match="which way a warp goes is unknown: P0 BRA"):
            run_of(listing)
    with pytest.raises(RuntimeError, match="which way a warp goes is unknown: P0 BRA"):
        run_of(listing_of(UNKNOWN, ".L_x_1:", "FADD R5, R5, R5", "@P0 BRA `(.L_x_1)"))
    run_of(listing_of(UNKNOWN, "@P0 BRA `(.L_x_1)", "FADD R5, R5, R5", ".L_x_1:"))
    # The slow path of a division, which loads nothing.
    run_of(listing_of(UNKNOWN, "@!P0 BRA `(.L_x_1)", "CALL.REL.NOINC `(.L_x_2)", ".L_x_1:"))


APART = ("S2R R0, SR_TID.X", "ISETP.EQ.AND P0, PT, R0, RZ, PT")  # P0 holds in lane 0


def test_lanes_that_write_the_same_have_one_value():
    assert run_of(listing_of(*APART, "@P0 MOV R4, 0x5", "@!P0 MOV R4, 0x5"))["R4"] == 5


def test_all_lanes_or_none_take_a_uniform_branch():
    listing = listing_of(*APART, "@P0 BRA.U `(.L_x_1)", "FFMA R5, R5, R5, R5", ".L_x_1:")
    instructions = gpu_model.parsed(listing, "none")
    events = gpu_trace.Warp(instructions, 0, gpu_trace.Memory(bytes(1024), None)).run()
    counts = gpu_trace.counted(instructions, events)
    assert counts["FFMA"] == counts["EXIT"] == 1


def test_lanes_that_are_apart_where_all_are_needed_are_an_error():
    for row in ("BRA.DIV UR4, `(.L_x_1)", "BAR.SYNC.DEFER_BLOCKING 0x0"):
        with pytest.raises(RuntimeError, match="lanes are apart at"):
            run_of(listing_of(*APART, "@P0 BRA `(.L_x_1)", row, ".L_x_1:"))


def test_a_way_without_an_end_is_an_error(monkeypatch):
    monkeypatch.setattr(gpu_trace, "LONGEST", 1000)
    with pytest.raises(RuntimeError, match="a warp does not end: after 1000 instructions"):
        run_of(listing_of(".L_x_1:", "FADD R5, R5, R5", "BRA `(.L_x_1)"))


def test_a_step_without_an_instruction_is_an_error(monkeypatch):
    """A way past the loop over time would give a row of zeros."""
    case = Case("sum_rule_forward", 16, 16, "float32", 90)
    monkeypatch.setattr(gpu_model, "listing", lambda case: LISTING)
    with pytest.raises(RuntimeError, match="past the loop over time"):
        gpu_model.followed(case)


@pytest.mark.parametrize(
    ("kernel", "D", "barriers", "low", "high"),
    [
        # S + k^T v, and q times that: one of each in every row of a thread's column.
        ("sum_rule_forward", 16, 0, 2, 2),
        ("sum_rule_forward", 64, 2, 2, 2),
        ("normalised_sum_rule_forward", 128, 3, 2, 2.1),  # a condition is in a register (P2R)
        # The same of the gradient, two sums along rows, and S again before seven of eight steps.
        ("sum_rule_backward", 64, 4, 4.875, 5.1),
        ("normalised_sum_rule_backward", 32, 0, 4.875, 6),  # has a uniform branch
        ("normalised_sum_rule_backward", 64, 6, 4.875, 5.5),  # has a carry of LEA.HI
    ],
)
def test_multiplications_and_barriers_of_a_step_of_the_sum_rule(kernel, D, barriers, low, high):
    pytest.importorskip("cupy")
    wheels = find_spec("nvidia")
    folders = (wheels and wheels.submodule_search_locations) or ()
    # NVIDIA has it for Linux and Windows alone; where CI compiles kernels it is installed with the tests.
    if not any(Path(folder, "cu13", "bin", "nvdisasm").exists() for folder in folders):
        pytest.skip("there is no nvdisasm; install nvidia-cuda-nvdisasm")
    row = dict(zip(gpu_model.HEAD, gpu_model.row_of(kernel, D), strict=True))
    assert low * D <= row["FMAs"] <= high * D
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
