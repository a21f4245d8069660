"""Kernels: the very `.cu` sources, compiled for the CPU."""

# ruff: noqa: ARG002

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cupy import cuda
from cupy._array import ndarray
from cupy._driver import driver
from cupy.cuda.compiler import CompileException
from cupy.cuda.driver import CUDADriverError
from cupy.cuda.memory import MemoryPointer
from tests.doubles.cuda_on_cpu import KernelError, Kernels, compiled_text

SCALARS = frozenset(np.dtype(code).type for code in "?bhilqBHILQefdFD")


class RawModule:
    """Compiled when the first function is asked for."""

    def __init__(
        self,
        *,
        code: str | None = None,
        path: str | None = None,
        options: tuple[str, ...] = (),
        backend: str = "nvrtc",
    ) -> None:
        if (code is None) == (path is None):
            raise TypeError("Exactly one of `code` and `path` keyword arguments must be given.")
        if not isinstance(options, tuple):
            raise TypeError("Argument 'options' has incorrect type (expected tuple)")
        if code is None or backend != "nvrtc":
            raise NotImplementedError("the double compiles sources, as nvrtc does")
        self._code = code
        self._kernels: Kernels | None = None

    def compile(self, log_stream: object = None) -> None:
        driver.enter()
        try:
            self._kernels = compiled_text(self._code)
        except KernelError as error:
            raise CompileException(str(error)) from error

    def get_function(self, name: str) -> RawKernel:
        if self._kernels is None:
            self.compile()
        assert self._kernels is not None
        kernel = RawKernel(self._kernels, name)
        kernel.compile()
        return kernel


class RawKernel:
    def __init__(self, kernels: Kernels, name: str) -> None:
        self._kernels, self.name = kernels, name

    def compile(self, log_stream: object = None) -> None:
        if self.name not in self._kernels.parameters:
            raise CUDADriverError(500)

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], args: Sequence[Any], **_: Any
    ) -> None:
        for each in (grid, block):
            if not isinstance(each, tuple):
                raise TypeError(f"expected tuple, got {type(each).__name__}")
        given = [_argument(each) for each in args]
        driver.launching()
        driver.streams.add(cuda.get_current_stream().ptr)
        if any(_astray(each) for each in args):
            driver.lost = 700  # told of by the next call, as launches return at once
            return
        self._kernels.launch(self.name, _dims(grid), _dims(block), given)
        driver.launched()


def _dims(dims: tuple[int, ...]) -> tuple[int, int, int]:
    x, y, z = (max(1, int(each)) for each in (*dims, 1, 1)[:3])
    return x, y, z


def _argument(value: Any) -> Any:
    """As CuPy packs one: Python's int goes as 64 bits, its float as a double."""
    if value is None:
        return 0
    if isinstance(value, ndarray):
        return value.data.ptr
    if isinstance(value, MemoryPointer):
        return value.ptr
    if isinstance(value, np.ndarray):
        if value.size != 1:
            raise TypeError(
                "You are trying to pass a numpy.ndarray of size > 1 as a kernel argument. "
                "Only numpy.ndarrays of size one can be passed by value."
            )
        return value.reshape(())[()]
    if type(value) in SCALARS:
        return value
    if isinstance(value, int):
        return np.int64(value)
    if isinstance(value, float):
        return np.float64(value)
    raise TypeError(f"Unsupported type {type(value)}")


def _astray(value: Any) -> bool:
    """Whether an array's memory is not there (any more)."""
    return isinstance(value, ndarray) and bool(value.size) and not driver.held(value.data.ptr, 1)
