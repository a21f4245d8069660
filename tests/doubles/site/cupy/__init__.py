"""A double of CuPy for machines without a GPU: what `shared.cuda` uses of its public API.

Device memory is host memory that NumPy is kept from, can be exported to other processes, and runs
out; kernels run on the CPU. `_driver.py` says what can be set from outside.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cupy import cuda
from cupy._array import ndarray, of_interface
from cupy._dlpack import from_dlpack
from cupy._driver import driver as _driver
from cupy._raw import RawKernel, RawModule
from cupy.cuda.memory import MemoryPool, pool

__version__ = "14.2.0"
__all__ = [
    "RawKernel",
    "RawModule",
    "asarray",
    "cuda",
    "empty",
    "float16",
    "float32",
    "from_dlpack",
    "get_default_memory_pool",
    "int32",
    "ndarray",
    "uint8",
    "uint16",
]

uint8, uint16, int32 = np.uint8, np.uint16, np.int32
float16, float32 = np.float16, np.float32


def empty(shape: int | tuple[int, ...], dtype: npt.DTypeLike = float) -> ndarray:
    """Of any content: never zeros by chance."""
    return ndarray(shape, dtype)


def asarray(thing: Any, dtype: npt.DTypeLike | None = None) -> ndarray:
    """Of what speaks the CUDA array interface, without a copy; NumPy's arrays are copied."""
    if isinstance(thing, ndarray):
        made = thing
    elif hasattr(thing, "__cuda_array_interface__"):
        made = of_interface(thing)
    else:
        host = np.asarray(thing)
        made = ndarray(host.shape, host.dtype)
        made.set(np.ascontiguousarray(host))
    return made if dtype is None else made.astype(dtype, copy=False)


def get_default_memory_pool() -> MemoryPool:
    return pool


def reset_double() -> None:
    """As in a new process (not CuPy's): for tests that stay in one."""
    _driver.reset()
    pool.forget()
