"""The launch configuration: every size, dtype and architecture within its limits, on no device."""

from __future__ import annotations

import re
from functools import partial

import pytest

from srwm._cy import launch
from srwm._raw_kernels import loader
from srwm.operators.table import OPERATORS
from tests.cuda_host.calls import arrays_of_backward, arrays_of_forward, results_of_forward

PLANS = {
    f"{operator}_{direction.__name__}": partial(direction, operator)
    for operator in launch.OPERATORS
    for direction in (launch.forward, launch.backward)
}
IN_MEMORY = {
    kernel
    for kernel in PLANS
    if not kernel.startswith(("srwm_forward", "srwm_backward", "delta_f", "delta_b"))
}
each_plan = pytest.mark.parametrize("kernel", sorted(PLANS.keys() - IN_MEMORY))
each_plan_in_memory = pytest.mark.parametrize("kernel", sorted(IN_MEMORY))
each_operator = pytest.mark.parametrize(
    "operator", [OPERATORS[name] for name in launch.OPERATORS], ids=launch.OPERATORS
)
each_architecture = pytest.mark.parametrize("architecture", launch.ARCHITECTURES)
WIDTHS = (
    1,
    2,
    3,
    4,
    5,
    7,
    8,
    15,
    16,
    17,
    31,
    32,
    33,
    63,
    64,
    65,
    100,
    127,
    128,
    129,
    255,
    256,
    500,
    1000,
    1024,
)


def definitions(plan):
    """SRWM_NAME -> value of a plan's compiler options, the numbers as numbers."""
    found = dict(re.fullmatch(r"-DSRWM_(\w+?)=(.+)", o).groups() for o in plan.options if "=" in o)
    return {name: int(value) if value.isdecimal() else value for name, value in found.items()}


def parts_of(kernel, of):
    """(groups, lines, held, near) of each part of the state that a thread owns, as in the CUDA text."""
    if kernel.endswith("forward"):
        return [(-(-of["D"] // 4), of["COLUMNS"], of["HELD"], of["NEAR"])]
    rows, groups = -(-of["D"] // of["ROW_LANES"]), -(-of["COLUMNS"] // 4)
    return [(groups, rows, of[f"HELD_{m}"], of[f"NEAR_{m}"]) for m in "WG"]


def exchanged_of(kernel, of):
    """Entries through which the threads of a backward group exchange sums, as the CUDA text has them."""
    rows, groups = -(-of["D"] // of["ROW_LANES"]), -(-of["COLUMNS"] // 4)
    warps = of["GROUP"] // 32
    columns = of["GROUP"] // of["ROW_LANES"] * 4 * (groups if groups % 2 else groups + 1)
    shares = {"srwm_backward": 3, "delta_backward": 4}[kernel]
    return 3 * columns + (shares * warps * of["ROW_LANES"] * -(-rows // 4) * 4 if warps > 1 else 0)


@pytest.mark.slow_where(lambda architecture, storage: storage != "float32" and architecture != 90)
@each_architecture
@each_plan
@pytest.mark.parametrize("storage", launch.STORAGES)
def test_every_size_is_within_the_limits(kernel, architecture, storage):
    limits = launch.ARCHITECTURES[architecture]
    words = 2 if storage == "float64" else 1
    for D in range(1, 257):
        for Do in WIDTHS:
            plan = PLANS[kernel](D, Do, storage, limits)
            of = definitions(plan)
            where = (kernel, D, Do, storage, architecture, plan)
            assert plan.threads == plan.group * plan.groups <= limits.threads_per_block, where
            assert plan.group % 32 == 0, where
            assert plan.groups == 1 or plan.group == 32, where
            assert plan.shared_bytes <= 49152, where
            assert plan.shared_bytes + plan.dynamic_bytes <= limits.shared_bytes_per_block, where
            assert plan.blocks == 1 or plan.blocks * (plan.shared_bytes + plan.dynamic_bytes) <= (
                limits.shared_bytes_per_block
            ), where
            with_copy = plan.shared_bytes + plan.dynamic_bytes + plan.cached_bytes
            assert with_copy * plan.blocks <= limits.shared_bytes_per_block or not plan.cached_bytes, where
            assert (
                not plan.cached_bytes or plan.cached_bytes >= D * of["M"] * launch.STORAGES[storage].bytes
            )
            warps_of_a_partition = -(-plan.blocks * plan.threads // 32 // 4)
            assert plan.registers * 32 * warps_of_a_partition * 4 <= limits.registers_per_block, where
            assert plan.registers <= 255, where
            assert plan.blocks * plan.threads <= limits.threads_per_multiprocessor, where
            parts = parts_of(kernel, of)
            held = sum(
                lines * (min(held * 4, of["COLUMNS"]) if kernel.endswith("backward") else held * 4) * words
                for _, lines, held, _ in parts
            )
            assert held < plan.registers - 24, where
            near = sum(near * lines * 4 * plan.group for _, lines, _, near in parts)
            working = sum((n - held - near) * lines * 4 * plan.group for n, lines, held, near in parts)
            if kernel.endswith("backward"):
                near += exchanged_of(kernel, of) * of["SHARED_SUMS"]
                working += exchanged_of(kernel, of) * (1 - of["SHARED_SUMS"])
            assert plan.dynamic_bytes == plan.groups * near * 4 * words, where
            assert plan.working == of["WORKING"] == working, where
            assert of["M"] == (Do + 2 * D + 4 if kernel.startswith("srwm") else Do), where


@each_plan
def test_columns_and_rows_all_have_a_thread(kernel):
    for D in range(1, 257):
        for Do in WIDTHS:
            plan = PLANS[kernel](D, Do, "float32", launch.ARCHITECTURES[80])
            of = definitions(plan)
            if kernel == "srwm_forward":
                assert of["COLUMNS"] * plan.group >= of["M"]
            elif kernel == "delta_forward":
                assert (
                    of["COLUMNS"] * plan.group * plan.tiles
                    >= Do
                    > of["COLUMNS"] * plan.group * (plan.tiles - 1)
                )
            else:
                assert of["ROW_LANES"] in (4, 8, 16, 32)
                assert plan.group // of["ROW_LANES"] * of["COLUMNS"] >= of["M"]
                assert of["HELD_W"] <= of["HELD_G"]


def test_small_heads_are_a_warp_each():
    """So that a step of theirs waits for no barrier of a block."""
    for D in range(1, 17):
        for pass_ in (launch.forward, launch.backward):
            assert pass_("srwm", D, D, "float32", launch.ARCHITECTURES[90]).group == 32


@each_plan
@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((0, 4), "1 <= D <= 256 .* D = 0"),
        ((257, 4), "got D = 257"),
        ((4, 0), "Do = 0"),
        ((4, 1025), "Do = 1025"),
    ],
)
def test_what_cannot_run_says_which_limit(kernel, sizes, message):
    with pytest.raises(ValueError, match=message):
        PLANS[kernel](*sizes, "float32", launch.ARCHITECTURES[90])


@each_operator
@pytest.mark.parametrize("verb", ["forward", "backward"])
def test_messages_name_the_function_that_users_call(operator, verb):
    message = rf"^{re.escape(operator.verb(verb))}: "
    with pytest.raises(ValueError, match=message):
        getattr(launch, verb)(operator.name, 1000, 1000, "float32", launch.ARCHITECTURES[90])


def test_devices_that_are_too_small_say_so():
    small = launch.ARCHITECTURES[90]._replace(threads_per_block=64)
    with pytest.raises(ValueError, match=r"srwm.delta.forward: 128 threads .* allows 64"):
        launch.forward("delta", 16, 16, "float32", small)
    few = launch.ARCHITECTURES[90]._replace(registers_per_block=4096)
    with pytest.raises(
        ValueError, match=r"srwm.backward: \d+ registers for each of 128 threads .* has 4096"
    ):
        launch.backward("srwm", 16, 16, "float32", few)
    little = launch.ARCHITECTURES[90]._replace(shared_bytes_per_block=1024)
    with pytest.raises(ValueError, match=r"srwm.forward: \d+ bytes of shared memory .* has 1024"):
        launch.forward("srwm", 32, 32, "float32", little)


def test_a_grid_is_no_larger_than_what_runs_at_a_time():
    plan = launch.forward("srwm", 16, 16, "float32", launch.ARCHITECTURES[90])
    assert launch.grid(plan, 1, 132) == 1
    assert launch.grid(plan, plan.groups * 10 + 1, 132) == 11
    assert launch.grid(plan, 1 << 40, 132) == 132 * plan.blocks


@pytest.mark.slow_where(lambda architecture, storage: (architecture, storage) not in MOST_DIFFERENT)
@each_architecture
@each_plan_in_memory
@pytest.mark.parametrize("storage", launch.STORAGES)
def test_every_size_of_a_state_in_memory_is_within_the_limits(kernel, architecture, storage):
    limits, size = launch.ARCHITECTURES[architecture], 8 if storage == "float64" else 4
    for D in range(1, 257):
        for Do in WIDTHS:
            plan = PLANS[kernel](D, Do, storage, limits)
            of = definitions(plan)
            where = (kernel, D, Do, storage, architecture, plan)
            assert plan.threads == plan.group * plan.groups <= limits.threads_per_block, where
            assert plan.group % 32 == 0, where
            assert plan.groups == 1 or plan.group == 32, where
            assert (
                plan.blocks * (plan.shared_bytes + plan.dynamic_bytes) <= limits.shared_bytes_per_block
            ), where
            assert plan.shared_bytes <= 49152, where
            assert plan.blocks * plan.threads <= limits.threads_per_multiprocessor, where
            assert plan.blocks * plan.threads * plan.registers <= limits.registers_per_block, where
            state = D * (of["M"] | 1) + of["VECTOR"]
            parts = {"VECTORS": (of["VECTORS"],), "STATE": (state,), "STACK": ()}
            if kernel.endswith("backward"):
                parts["STATE"], parts["STACK"] = (state, of["SUMS"]), (of["SEGMENT"] * state,)
            else:
                parts["VECTORS"] += (of["ROW"],)
            entries = {name: sum(-(-n // 4) * 4 for n in part) for name, part in parts.items()}
            shared = sum(n for name, n in entries.items() if of[f"SHARED_{name}"])
            assert of["SHARED"] == shared, where
            assert plan.dynamic_bytes == plan.groups * size * shared, where
            assert plan.working == of["WORKING"] == sum(entries.values()) - shared, where


MOST_DIFFERENT = [(75, "float64"), (90, "float32")]


def test_plans_are_remembered():
    of = launch.ARCHITECTURES[90]
    assert launch.backward("srwm", 16, 16, "float32", of) is launch.backward("srwm", 16, 16, "float32", of)


@each_operator
def test_kernels_name_their_arrays_as_the_operator_does(operator):
    """In the order in which the passes give them: as parameters, and as places of views."""
    directions = {"forward": arrays_of_forward(operator), "backward": arrays_of_backward(operator)}
    for direction, names in directions.items():
        kernel = f"{operator.name}_{direction}"
        text = (loader.FOLDER / f"{kernel}.cu").read_text(encoding="utf-8")
        places = re.search(r"namespace arg \{\s*enum \{ ([\w, ]+), VIEWS \};", text)
        assert places is not None
        assert tuple(places[1].split(", ")) == names
        parameters = re.search(kernel + r"\(([^)]+)\) \{", text)
        assert parameters is not None
        given = [re.search(r"(\w+)$", p)[1] for p in parameters[1].split(",")]
        if direction == "forward":
            names = (*names, *results_of_forward(operator), "saved")
        assert tuple(given[:-2]) == names
        assert given[-2:] == ["working", "s"]


@each_operator
def test_a_group_remembers_a_place_in_each_array(operator):
    """Plans count the shared memory for them."""
    kernels = launch.OPERATORS[operator.name]
    assert kernels.forward_views == len(arrays_of_forward(operator))
    assert kernels.backward_views == len(arrays_of_backward(operator))
