"""The test equipment itself: what it runs right, and each fault that it is there to catch, planted."""

from __future__ import annotations

import re
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.cuda_host import backend
from tests.cuda_host.raw_module import FLAGS, BoundsError, CudaHostError, Kernel, RaceError, RawModule

# Without a C++ compiler no kernel can be built; in CI tests/operators.py fails for that.
pytestmark = pytest.mark.skipif(backend.unusable() is not None, reason=str(backend.unusable()))

# Sums a row of n <= 64 entries for each block.
SUM = """
extern "C" __global__ void sum(const float *a, float *out, int n) {
    __shared__ float s[64];
    int i = threadIdx.x;
    s[i] = i < n ? a[blockIdx.x * n + i] : 0;
    __syncthreads();
    for (int k = 32; k > 0; k /= 2) {
        if (i < k) s[i] += s[i + k];
        __syncthreads();
    }
    if (i == 0) out[blockIdx.x] = s[0];
}
"""

# Passes a value round a warp through shared memory, twice.
PASS_ROUND = """
extern "C" __global__ void pass_round(float *out) {
    __shared__ float s[32];
    int lane = threadIdx.x;
    float value = lane;
    for (int turn = 0; turn < 2; turn++) {
        s[lane] = value;
        __syncwarp();
        value = s[(lane + 1) % 32];
        __syncwarp();
    }
    out[lane] = value;
}
"""


def kernel(code: str, name: str | None = None, **how: Any) -> Kernel:
    module = RawModule(code=code, **how)
    return module.get_function(name or module.kernels[0])


def sum_of(code: str, **how: object) -> np.ndarray:
    a, out = np.arange(150, dtype=np.float32), np.full(3, np.nan, np.float32)
    kernel(code, **how)((3,), (64,), (a, out, np.int32(50)))
    return out


EXPECTED = np.arange(150, dtype=np.float32).reshape(3, 50).sum(1)
each_mode = pytest.mark.parametrize("mode", FLAGS)
each_order = pytest.mark.parametrize("order", ["forward", "reverse", "random"])


@each_mode
@each_order
def test_a_kernel_runs_in_every_mode_and_order(mode, order):
    assert np.array_equal(sum_of(SUM, mode=mode, order=order), EXPECTED)


@each_mode
def test_stacks_changed_by_the_c_library(mode):
    assert np.array_equal(sum_of(SUM, mode=mode, options=("-DCUDA_HOST_UCONTEXT",)), EXPECTED)


def test_a_missing_barrier_is_a_wrong_value_in_some_order_and_a_race_in_any():
    faulty = SUM.replace("s[i] += s[i + k];\n        __syncthreads();", "s[i] += s[i + k];")
    assert faulty != SUM
    wrong = [not np.array_equal(sum_of(faulty, order=order), EXPECTED) for order in ("forward", "reverse")]
    assert any(wrong)
    with pytest.raises(RaceError, match=r"data race[\s\S]*kernel\.cu:8"):
        sum_of(faulty, mode="race")


def test_a_missing_sync_of_a_warp_is_a_race():
    out = np.empty(32, np.float32)
    kernel(PASS_ROUND, mode="race")((1,), (32,), (out,))
    assert np.array_equal(out, (np.arange(32) + 2) % 32)
    for which in (0, 1):  # a value not there yet; a value overwritten by the turn to come
        parts = PASS_ROUND.split("        __syncwarp();\n")
        faulty = (
            parts[0] + "        __syncwarp();\n".join(parts[1:])
            if which == 0
            else "        __syncwarp();\n".join(parts[:2]) + parts[2]
        )
        with pytest.raises(RaceError, match="data race"):
            kernel(faulty, mode="race")((1,), (32,), (out,))


def test_a_shuffle_orders_no_memory():
    code = """
    extern "C" __global__ void f(float *out) {
        __shared__ float s[32];
        s[threadIdx.x] = 1;
        float x = __shfl_xor_sync(0xffffffffu, 1.0f, 1);
        out[threadIdx.x] = x + s[(threadIdx.x + 1) % 32];
    }"""
    out = np.empty(32, np.float32)
    with pytest.raises(RaceError, match="data race"):
        kernel(code, mode="race")((1,), (32,), (out,))


def test_two_blocks_at_one_address_are_a_race():
    code = """
    extern "C" __global__ void f(float *out) {
        if (threadIdx.x == 0) out[blockIdx.x / PER] += 1;
    }"""
    out = np.zeros(4, np.float32)
    kernel(code, mode="race", options=("-DPER=1",))((4,), (32,), (out,))
    assert np.array_equal(out, np.ones(4))
    with pytest.raises(RaceError, match="data race"):
        kernel(code, mode="race", options=("-DPER=2",))((4,), (32,), (out,))


def test_blocks_that_use_the_same_shared_memory_are_none():
    assert np.array_equal(sum_of(SUM, mode="race"), EXPECTED)


@each_mode
def test_unwritten_shared_memory_is_nan_in_every_block(mode):
    code = """
    extern "C" __global__ void f(float *out, double *more) {
        __shared__ float s[32];
        __shared__ double t;
        extern __shared__ float dynamic[];
        if (blockIdx.x == 0) s[threadIdx.x] = 1, t = 1, dynamic[threadIdx.x] = 1;
        __syncthreads();
        out[blockIdx.x * 32 + threadIdx.x] = s[threadIdx.x] + dynamic[threadIdx.x];
        if (threadIdx.x == 0) more[blockIdx.x] = t;
    }"""
    code = code.replace(", t = 1", "; if (blockIdx.x == 0 && threadIdx.x == 0) t = 1; if (blockIdx.x == 0)")
    code = code.replace("if (blockIdx.x == 0), dynamic", "if (blockIdx.x == 0) dynamic")
    out, more = np.zeros(64, np.float32), np.zeros(2)
    kernel(code, mode=mode)((2,), (32,), (out, more), shared_mem=128)
    assert np.array_equal(out[:32], np.full(32, 2))
    assert np.isnan(out[32:]).all()
    assert more[0] == 1
    assert np.isnan(more[1])


def test_dynamic_memory_is_as_large_as_each_launch_says():
    code = """
    extern "C" __global__ void f(float *out, int n) {
        extern __shared__ float dynamic[];
        for (int i = threadIdx.x; i < n; i += 32) dynamic[i] = i;
        __syncthreads();
        for (int i = threadIdx.x; i < n; i += 32) out[i] = dynamic[n - 1 - i];
    }
    """
    f = kernel(code)
    for n in (8, 100_000, 16):
        out = np.zeros(n, np.float32)
        f((1,), (32,), (out, np.int32(n)), shared_mem=4 * n)
        assert np.array_equal(out, np.arange(n)[::-1])


@pytest.mark.parametrize("memory", ["own", "dynamic", "out"])
def test_a_write_beyond_an_array_is_caught(memory):
    code = """
    extern "C" __global__ void f(float *out, int at) {
        __shared__ float own[32], other[32];
        extern __shared__ float dynamic[];
        other[threadIdx.x] = 0;
        MEMORY[at + threadIdx.x] = 1;
        out[threadIdx.x] = own[threadIdx.x] + dynamic[threadIdx.x] + other[0];
    }"""
    f = kernel(code, mode="bounds", options=(f"-DMEMORY={memory}",))
    out = np.zeros(32, np.float32)
    f((1,), (32,), (out, np.int32(0)), shared_mem=128)
    with pytest.raises(BoundsError, match=r"heap-buffer-overflow|index 32 out of bounds") as caught:
        f((1,), (32,), (out, np.int32(1)), shared_mem=128)
    assert "kernel.cu:6" in str(caught.value)


def test_a_vector_load_that_is_not_aligned_is_caught():
    code = """
    extern "C" __global__ void f(const float *a, float *out, int at) {
        float4 v = *reinterpret_cast<const float4 *>(a + at);
        out[0] = v.x + v.w;
    }"""
    f = kernel(code, mode="bounds")
    a, out = np.arange(8, dtype=np.float32), np.zeros(1, np.float32)
    f((1,), (1,), (a, out, np.int32(4)))
    assert out[0] == 11
    with pytest.raises(BoundsError, match="misaligned address"):
        f((1,), (1,), (a, out, np.int32(1)))


@each_order
def test_a_barrier_that_not_all_reach_names_its_line(order):
    code = """
    extern "C" __global__ void f() {
        if (threadIdx.x < 40)
            __syncthreads();
        else
            __syncthreads();
    }"""
    message = r"40 at the block's barrier of kernel\.cu:4; 24 at the block's barrier of kernel\.cu:6"
    if order == "forward":
        with pytest.raises(CudaHostError, match=message):
            kernel(code, order=order)((1,), (64,), ())
    else:
        with pytest.raises(CudaHostError, match=r"kernel\.cu:4.*kernel\.cu:6|kernel\.cu:6.*kernel\.cu:4"):
            kernel(code, order=order)((1,), (64,), ())


def test_a_barrier_after_some_threads_returned():
    code = 'extern "C" __global__ void f() { if (threadIdx.x > 5) return; __syncthreads(); }'
    with pytest.raises(CudaHostError, match=r"6 at the block's barrier of kernel\.cu:1; 26 have returned"):
        kernel(code)((1,), (32,), ())


@pytest.mark.parametrize(
    ("body", "message"),
    {
        "absent": ("__syncwarp(0xffu << 4)", "the mask does not name the calling lane"),
        "returned": (
            "if (lane > 7) return; __syncwarp()",
            r"8 at the warp's collective of kernel\.cu:4 with mask 0xffffffff; 24 have returned",
        ),
        "beyond": ("if (lane < 0) out[0] = 1; __syncwarp()", "a lane that the block does not have"),
        "unnamed source": (
            "if (lane < 4) out[lane] = __shfl_sync(0xfu, 1.0f, 5)",
            "a shuffle reads a lane that the mask does not name",
        ),
        "another": (
            "if (lane < 4) __syncwarp(0xffu);\n else if (lane < 8) __shfl_sync(0xffu, lane, 0)",
            r"4 at the .* of kernel\.cu:4 with mask 0x000000ff; 4 at the .* of kernel\.cu:5 with",
        ),
        "never": ("if (lane != 3) __syncwarp(); else __syncthreads()", "cannot go on"),
    }.values(),
)
def test_a_wrong_mask_names_line_and_lane(body, message):
    code = f"""
    extern "C" __global__ void f(float *out) {{
        int lane = threadIdx.x;
        {body};
    }}"""
    threads = 20 if "a lane that the block" in message else 32
    with pytest.raises(CudaHostError, match=message) as caught:
        kernel(code)((1,), (threads,), (np.zeros(32, np.float32),))
    assert re.search(r"kernel\.cu:\d+", str(caught.value))


def test_collectives_of_parts_of_a_warp():
    code = """
    extern "C" __global__ void f(float *out, unsigned *votes) {
        int lane = threadIdx.x;
        unsigned mask = lane < 16 ? 0x0000ffffu : 0xffff0000u;
        float sum = lane;
        for (int offset = 8; offset > 0; offset /= 2) sum += __shfl_xor_sync(mask, sum, offset);
        out[lane] = sum;
        out[32 + lane] = __shfl_up_sync(0xffffffffu, sum + lane, 1, 8);
        out[64 + lane] = __shfl_down_sync(0xffffffffu, sum + lane, 2);
        votes[lane] = __ballot_sync(0xffffffffu, lane % 3 == 0);
    }"""
    for order in ("forward", "reverse", "random"):
        out, votes = np.zeros(96, np.float32), np.zeros(32, np.uint32)
        f = kernel(code, order=order)
        f((1,), (32,), (out, votes))
        lane = np.arange(32)
        sums = np.where(lane < 16, np.arange(16).sum(), np.arange(16, 32).sum())
        assert np.array_equal(out[:32], sums)
        given = sums + lane
        assert np.array_equal(out[32:64], np.where(lane % 8 == 0, given, np.roll(given, 1)))
        assert np.array_equal(out[64:], np.where(lane >= 30, given, np.roll(given, -2)))
        assert (votes == sum(1 << i for i in range(0, 32, 3))).all()
        assert f.counts == {"syncthreads": 0, "syncwarp": 0, "shuffle": 2 * 4 + 2, "ballot": 1}


def test_halves_are_converted_bit_by_bit():
    code = """
    #include <cuda_fp16.h>
    #include <cuda_bf16.h>
    extern "C" __global__ void f(const __half *h, float *wide, const float *a, __half *narrow,
                                 const __nv_bfloat16 *b, float *wide_b, __nv_bfloat16 *narrow_b, int n) {
        for (int i = threadIdx.x; i < n; i += blockDim.x) {
            wide[i] = __half2float(h[i]), wide_b[i] = __bfloat162float(b[i]);
            narrow[i] = __float2half(a[i]), narrow_b[i] = __float2bfloat16(a[i]);
        }
    }"""
    n = 1 << 16
    patterns = np.arange(n, dtype=np.uint16)
    rng = np.random.default_rng(0)
    a = rng.integers(0, 1 << 32, n, dtype=np.uint32).view(np.float32)
    a[: n // 2] = (rng.standard_normal(n // 2) * 10.0 ** rng.integers(-9, 6, n // 2)).astype(np.float32)
    a[:4] = [65519.996, 65520, -65536, 2**-25]
    halves, brains = patterns.view(np.float16), patterns.view(ml_dtypes.bfloat16)
    wide, wide_b = np.empty(n, np.float32), np.empty(n, np.float32)
    narrow, narrow_b = np.empty(n, np.float16), np.empty(n, ml_dtypes.bfloat16)
    kernel(code)((1,), (64,), (halves, wide, a, narrow, brains, wide_b, narrow_b, np.int32(n)))
    with np.errstate(over="ignore", invalid="ignore"):
        expected = {
            "float16 to float": (wide, halves.astype(np.float32)),
            "float to float16": (narrow, a.astype(np.float16)),
            "bfloat16 to float": (wide_b, brains.astype(np.float32)),
            "float to bfloat16": (narrow_b, a.astype(ml_dtypes.bfloat16)),
        }
    for what, (got, wanted) in expected.items():
        numbers = ~np.isnan(wanted.astype(np.float32))
        bits = f"u{got.dtype.itemsize}"
        assert np.array_equal(got.view(bits)[numbers], wanted.view(bits)[numbers]), what
        assert np.isnan(got.astype(np.float32)[~numbers]).all(), what


@each_mode
def test_structs_and_numbers_go_by_value_and_none_is_null(mode):
    code = """
    struct Sizes { long long n; float factor[2]; };
    extern "C" __global__ void f(const float *missing, double *out, Sizes s, long long i, double d,
                                 bool b) {
        if (missing == nullptr) out[0] = s.n * s.factor[1] + i + d + b;
    }"""
    sizes = np.array((3, [1, 2]), [("n", np.int64), ("factor", np.float32, (2,))])
    out = np.zeros(1)
    kernel(code, mode=mode)((1,), (1,), (None, out, sizes, 100, 0.5, True))
    assert out[0] == 107.5


def test_wrong_arguments_are_refused():
    f = kernel('extern "C" __global__ void f(float *out, int n) { out[0] = n; }')
    out = np.zeros(1, np.float32)
    with pytest.raises(CudaHostError, match="expected 2 arguments, got 1"):
        f((1,), (1,), (out,))
    with pytest.raises(CudaHostError, match="argument 1: expected 4 bytes, got 8"):
        f((1,), (1,), (out, 3))
    with pytest.raises(CudaHostError, match="expected an array, a number or None"):
        f((1,), (1,), (out, "3"))
    with pytest.raises(CudaHostError, match="expected 1 to 1024 threads a block, got 2048"):
        f((1,), (2048,), (out, np.int32(3)))
    with pytest.raises(CudaHostError, match=r"expected one of the kernels \('f',\), got 'g'"):
        RawModule(code='extern "C" __global__ void f() {}').get_function("g")


def test_every_index_of_grid_and_block():
    code = """
    extern "C" __global__ void f(int *out) {
        int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
        int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
        out[block * blockDim.x * blockDim.y * blockDim.z + thread] += 1;
    }"""
    out = np.zeros(2 * 3 * 4 * 5 * 6 * 7, np.int32)
    kernel(code, order="reverse")((2, 3, 4), (5, 6, 7), (out,))
    assert (out == 1).all()


def test_what_cannot_run_here_is_refused():
    with pytest.raises(CudaHostError, match="inline PTX"):
        kernel('extern "C" __global__ void f() { asm volatile("bar.sync 0;"); }')
    with pytest.raises(CudaHostError, match="error: "):
        kernel('extern "C" __global__ void f() { not_a_function(); }')
    with pytest.raises(ValueError, match="expected a mode"):
        RawModule(code=SUM, mode="fast")
