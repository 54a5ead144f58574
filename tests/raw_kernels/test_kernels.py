"""The CUDA kernels under the sanitizers, in every variant; each of their barriers shown to be needed."""

from __future__ import annotations

import re
from collections import Counter
from typing import NamedTuple

import numpy as np
import pytest

from srwm._cy import cuda, launch
from srwm._raw_kernels import loader
from tests.cuda_host import backend
from tests.cuda_host.raw_module import CudaHostError
from tests.operators import (
    CUDA_ON_HOST,
    DELTA,
    EVERYTHING,
    ON_CUDA,
    ROWS,
    SRWM,
    TOLERANCE,
    assert_close,
    assert_same,
    each_operator_on_cuda,
    long_keys_case,
    random_case,
    truth_of,
)

# Without a C++ compiler no kernel can be built; in CI tests/operators.py fails for that.
pytestmark = pytest.mark.skipif(backend.unusable() is not None, reason=str(backend.unusable()))

# For each way in which the kernels are laid out a size, a dtype, the architecture whose limits they have.
VARIANTS = {
    "groups of one warp": (((9,), (), 4, 16, 16), "float32", 90),
    "a head of odd size": (((2, 3), (3,), 4, 5, 3), "float32", 90),
    "several warps": (((5,), (2, 1), 4, 32, 32), "float32", 90),
    "two columns a thread": (((1,), (1,), 3, 64, 64), "float32", 90),
    "two warps for the softmax": (((2,), (1,), 3, 70, 3), "float32", 90),
    "a state partly in shared memory": (((1,), (1,), 3, 128, 8), "float32", 90),
    "a state partly in working memory": (((2,), (1,), 2, 100, 3), "float64", 75),
    "sums in working memory": (((1,), (1,), 2, 160, 1), "float64", 60),
    "several segments": (((1,), (1,), 70, 4, 4), "float32", 90),
    "halves": (((3,), (), 4, 16, 16), "float16", 90),
}
each_variant = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)


def case_of(row, variant, **options):
    size, dtype, _ = variant
    return random_case(row, size, reset=True, **options).astype(dtype)


def running(variant, **how):
    return backend.running(device=launch.ARCHITECTURES[variant[2]]._replace(multiprocessors=1), **how)


# The compilers of the sanitizers take long. Every variant runs on one operator at least.
WITHIN_BOUNDS = ("several warps", "a state partly in working memory", "halves")
NO_RACE_OF_DELTA = ("groups of one warp", "several warps", "sums in working memory", "several segments")


OTHERS = [row for row in ROWS if row not in ON_CUDA]
OF_OTHERS = [((5,), (), 10, 5, 7), ((2,), (2, 1), 9, 40, 33)]
ONE_MULTIPROCESSOR = launch.ARCHITECTURES[90]._replace(multiprocessors=1)


def name_of(variant):
    return next(name for name, own in VARIANTS.items() if own is variant)


@pytest.mark.slow_where(
    lambda row, variant, mode: (
        name_of(variant) not in WITHIN_BOUNDS
        if mode == "bounds"
        else row is DELTA and name_of(variant) not in NO_RACE_OF_DELTA
    )
)
@each_variant
@pytest.mark.parametrize("mode", ["race", "bounds"])
@each_operator_on_cuda
def test_no_race_and_nothing_out_of_bounds(row, variant, mode):
    case = case_of(row, variant, state=True)
    truth = truth_of(case)
    with running(variant, mode=mode):
        assert_close(CUDA_ON_HOST.run(case), truth, TOLERANCE[variant[1]])


@pytest.mark.parametrize("mode", ["race", "bounds"])
@pytest.mark.parametrize("row", OTHERS, ids=repr)
def test_no_race_and_nothing_out_of_bounds_in_the_other_kernels(row, mode, monkeypatch):
    """Groups of one warp, and of several; sequences that share a matrix, more than run at a time.

    And five of them in three chunks, of which the last is not full.
    """
    monkeypatch.setattr(cuda, "MOST_CHUNKS", 4)
    for size in OF_OTHERS:
        case = random_case(row, size, **EVERYTHING).astype(np.float32)
        truth = truth_of(case)
        with backend.running(device=ONE_MULTIPROCESSOR, mode=mode):
            assert_close(CUDA_ON_HOST.run(case), truth, TOLERANCE["float32"])


@each_variant
def test_bitwise_the_same_in_any_order_of_threads(variant):
    case = case_of(SRWM, variant)
    with running(variant):
        expected = CUDA_ON_HOST.run(case)
    for how in ({"order": "reverse"}, {"order": "random", "seed": 1}, {"order": "random", "seed": 2}):
        with running(variant, **how):
            assert_same(CUDA_ON_HOST.run(case), expected)


class Barrier(NamedTuple):
    """A barrier in the text of a kernel."""

    file: str
    which: int  # among those of the file
    is_backward: bool  # whether it is in a function that only backward kernels have
    without: str  # the text of the kernel without it


def barriers(kernel):
    """The barriers in a kernel's text; those of the macros that make them up not.

    And not those that are there for the compiler.
    """
    text = loader.source(kernel)
    word = r"^(?!#define).*?((?:GROUP_SYNC|SHARERS_SYNC|(?<=  )__syncwarp)\([^;]*\);)(?! // the compiler)"
    counted = Counter()
    for match in re.finditer(word, text, re.MULTILINE):
        before = text[: match.start(1)]
        file = re.findall(r'^#line \d+ "(.+)"$', before, re.MULTILINE)[-1]
        indent, function = re.findall(r"^( *)__device__.*?(\w+)\(", before, re.MULTILINE)[-1]
        owner = re.findall(r"^struct (\w+)", before, re.MULTILINE)[-1:] if indent else []
        is_backward = any("backward" in name.lower() for name in (function, *owner))
        yield Barrier(file, counted[file], is_backward, before + ";" + text[match.end(1) :])
        counted[file] += 1


def is_noticed(kernel, without, cases):
    """Whether a run of a kernel with this text fails."""
    replaced = {kernel: without}
    with backend.running(
        device=ONE_MULTIPROCESSOR,
        mode="race",
        source=lambda name: replaced.get(name) or loader.source(name),
    ):
        for case in cases:
            try:
                CUDA_ON_HOST.run(case.astype(np.float32))
            except CudaHostError:
                return True
    return False


BARRIERS = [
    (kernel, i)
    for kernel in ("srwm_forward", "srwm_backward", "delta_forward", "delta_backward")
    for i, _ in enumerate(barriers(kernel))
]


@pytest.mark.slow_where(lambda which: which % 3 > 0)
@pytest.mark.parametrize(("kernel", "which"), BARRIERS, ids=lambda v: str(v))
def test_no_barrier_can_go_unnoticed(kernel, which):
    without = list(barriers(kernel))[which].without
    # One that nothing needs while there are steps is needed by sequences of none, and some only by more
    # sequences than run at a time.
    sizes = [VARIANTS[name][0] for name in ("several warps", "two warps for the softmax")]
    sizes += [((5,), (2, 1), 0, 32, 32), ((15,), (2, 1), 2, 8, 8)]
    row = SRWM if kernel.startswith("srwm") else DELTA
    cases = [random_case(row, size, reset=True) for size in sizes]
    if row is DELTA:  # some are passed only where the state grows
        cases.insert(1, long_keys_case(3, sizes[0]))
    assert is_noticed(kernel, without, cases), "a barrier was removed and no run noticed"


# In this order, because the first three notice all barriers of the headers.
OPERATORS_OF_OTHERS = list(
    dict.fromkeys(["delta_rnn", "normalised_sum_rule", "srwm_read", *(row.op.name for row in OTHERS)])
)
BARRIERS_OF_OTHERS = dict.fromkeys(
    (barrier.file, barrier.which)
    for name in OPERATORS_OF_OTHERS
    for direction in ("forward", "backward")
    for barrier in barriers(f"{name}_{direction}")
)


@pytest.mark.slow_where(lambda which: which > 0)
@pytest.mark.parametrize(("file", "which"), BARRIERS_OF_OTHERS, ids=str)
def test_no_barrier_of_the_other_kernels_can_go_unnoticed(file, which):
    """One in a header is needed by a kernel that has it, if not by all of them."""
    sizes = [*OF_OTHERS, ((5,), (2, 1), 0, 5, 7)]
    for name in OPERATORS_OF_OTHERS:
        cases = [
            random_case(row, size, **EVERYTHING) for row in OTHERS if row.op.name == name for size in sizes
        ]
        for direction in ("forward", "backward"):
            kernel = f"{name}_{direction}"
            for barrier in barriers(kernel):
                is_same = barrier[:3] == (file, which, direction == "backward")
                if is_same and is_noticed(kernel, barrier.without, cases):
                    return
    pytest.fail("a barrier was removed and no run noticed")


def test_barriers_of_a_step_are_few():
    """None of the block for heads of 16 and less, one forward and two backward up to 64."""
    for D, wanted in ((16, (0, 0)), (32, (1, 2)), (64, (1, 2))):
        for pass_, of_a_step in zip((launch.forward, launch.backward), wanted, strict=True):
            counts = [barriers_passed(pass_, D, steps) for steps in (10, 20)]
            assert (counts[1] - counts[0]) / 10 == of_a_step, (D, pass_)


def barriers_passed(pass_, D, steps):
    """Barriers of the block that a pass of one sequence takes."""
    counted = {}
    platform = CountingPlatform(counted)
    with backend.on(platform):
        CUDA_ON_HOST.run(random_case(SRWM, ((1,), (1,), steps, D, D)).astype(np.float32))
    kernel = pass_("srwm", D, D, "float32", platform.limits()).kernel
    return counted[kernel]["syncthreads"]


class CountingPlatform:
    """A driver that remembers what each kernel counted."""

    def __init__(self, counted):
        self.counted, self.of = counted, backend.Platform()
        self.limits = self.of.limits

    def kernel(self, plan, stream):
        return plan, self.of.kernel(plan, stream)

    def launch(self, kernel, blocks, *rest):
        plan, kernel = kernel
        self.of._replace(most_blocks=blocks).launch(kernel, blocks, *rest)
        self.counted[plan.kernel] = kernel.counts


@pytest.mark.parametrize(
    ("own", "copies"), [((), 1), ((1,), 1), ((5,), 0)], ids=["one W", "1", "each its own"]
)
def test_a_weight_of_all_sequences_is_copied_into_shared_memory(own, copies):
    bytes_asked = {}

    class Asking(CountingPlatform):
        def launch(self, kernel, blocks, threads, shared_bytes, *rest):
            plan, _ = kernel
            bytes_asked[plan.kernel] = (shared_bytes - plan.dynamic_bytes, plan.cached_bytes)
            super().launch(kernel, blocks, threads, shared_bytes, *rest)

    with backend.on(Asking({})):
        CUDA_ON_HOST.run(random_case(SRWM, ((5,), own, 3, 16, 16)).astype(np.float32))
    for kernel in ("srwm_forward", "srwm_backward"):
        more, of_a_copy = bytes_asked[kernel]
        assert of_a_copy == 16 * 52 * 4
        assert more == copies * of_a_copy


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_go_through(value):
    case = random_case(SRWM, ((2,), (2,), 5, 16, 16))
    case["x"][0, 2, 3] = value
    with np.errstate(invalid="ignore"):
        got, truth = CUDA_ON_HOST.run(case), truth_of(case)
    for name in ("y", "W_next"):
        assert np.array_equal(np.isnan(got[name]), np.isnan(truth[name])), name
    assert not np.isnan(got["gx"][1]).any()
