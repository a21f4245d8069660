"""The double that runs CUDA kernels on the CPU: what it computes, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.doubles import cuda_on_cpu
from tests.doubles.cuda_on_cpu import KernelError, Kernels

pytestmark = pytest.mark.skipif(bool(cuda_on_cpu.missing()), reason=cuda_on_cpu.missing())

SOURCE = """
#include <cuda_fp16.h>

// extern "C" __global__ void commented_out(int x) {}
__device__ __forceinline__ float twice(float x) { return 2.0f * x; }

extern "C" __global__ void where(unsigned* __restrict__ out, int width, int height) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= width || y >= height) return;
    out[(size_t)y * width + x] = gridDim.x * 1000000 + blockIdx.y * 1000 + blockIdx.z + x;
}

extern "C" __global__ void __launch_bounds__(64) narrow(
    const float* __restrict__ values, __half* __restrict__ halves, float* __restrict__ back,
    size_t count, float factor) {
    const size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x;
    if (i >= count) return;
    halves[i] = __float2half(twice(values[i]) * factor);
    back[i] = __half2float(halves[i]);
}
"""


@pytest.fixture
def kernels(tmp_path: Path) -> Kernels:
    """Of a source like ours."""
    path = tmp_path / "some.cu"
    path.write_text(SOURCE)
    return cuda_on_cpu.compiled(path)


def test_every_thread_of_a_launch_runs_once_with_its_own_place(kernels: Kernels) -> None:
    out = np.zeros((7, 21), np.uint32)
    args = (out.ctypes.data, np.int32(21), np.int32(7))
    kernels.launch("where", (3, 2, 1), (8, 4, 1), args)
    rows, columns = np.mgrid[:7, :21]
    assert np.array_equal(out, 3_000_000 + rows // 4 * 1000 + columns)


def test_halves_are_those_of_ieee_754(kernels: Kernels) -> None:
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    every = every[np.isfinite(every)]
    near = every.astype(np.float32)
    values = np.concatenate((near, near[:-1] + np.diff(near) / 2, near * 1.0003, [1e6, -1e6, 1e-9]))
    values = values.astype(np.float32)
    halves, back = np.zeros(values.size, np.float16), np.zeros(values.size, np.float32)
    args = (values.ctypes.data, halves.ctypes.data, back.ctypes.data)
    grid = (-(-values.size // 64), 1, 1)
    kernels.launch("narrow", grid, (64, 1, 1), (*args, np.uint64(values.size), np.float32(0.5)))
    with np.errstate(over="ignore"):
        assert np.array_equal(halves.view(np.uint16), values.astype(np.float16).view(np.uint16))
    assert np.array_equal(back, halves.astype(np.float32))


@pytest.mark.parametrize(
    ("grid", "block", "args", "says"),
    [
        ((1, 1, 1), (1, 1, 1), (0, np.int32(1)), "takes 3 arguments, not 2"),
        ((1, 1, 1), (1, 1, 1), (0, np.int64(1), np.int32(1)), "width is int32, not int64"),
        ((1, 1, 1), (1, 1, 1), (0, np.float32(1), np.int32(1)), "width is int32, not float32"),
        ((1, 1, 1), (1, 1, 1), (0, 1, np.int32(1)), "width is int32, not int"),
        ((1, 1, 1), (1, 1, 1), (np.int32(0), np.int32(1), np.int32(1)), "out is a pointer"),
        ((0, 1, 1), (1, 1, 1), (0, np.int32(1), np.int32(1)), "grid"),
        ((1, 65536, 1), (1, 1, 1), (0, np.int32(1), np.int32(1)), "grid"),
        ((1, 1, 1), (32, 32, 2), (0, np.int32(1), np.int32(1)), "more than 1024 threads"),
    ],
)
def test_a_launch_that_a_gpu_would_refuse_or_misread_is_refused(
    kernels: Kernels,
    grid: tuple[int, int, int],
    block: tuple[int, int, int],
    args: tuple[object, ...],
    says: str,
) -> None:
    with pytest.raises(KernelError, match=says):
        kernels.launch("where", grid, block, args)
    with pytest.raises(KernelError, match="no kernel nowhere"):
        kernels.launch("nowhere", grid, block, args)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("__global__ void mangled(int x) {}", 'extern "C"'),
        ('extern "C" __global__ void f(struct Big x) {}', "not known"),
        ('extern "C" __global__ void f(int x) { __syncthreads(); }', "does not compile"),
        ('extern "C" __global__ void f(int* x) { int unused; }', "unused"),
    ],
)
def test_a_source_that_could_not_be_checked_is_refused(source: str, says: str) -> None:
    with pytest.raises(KernelError, match=says):
        cuda_on_cpu.compiled_text(source)
