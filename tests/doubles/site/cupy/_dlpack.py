"""DLPack capsules, given and taken (https://dmlc.github.io/dlpack/latest/c_api.html)."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from cupy._array import ndarray
from cupy.cuda.memory import MemoryPointer, UnownedMemory

CPU, CUDA = 1, 2
CODES = {"i": 0, "u": 1, "f": 2}
NAME = b"dltensor"
USED = b"used_dltensor"


class Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class Managed(ctypes.Structure):
    pass


Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(Managed))
Managed._fields_ = (
    ("tensor", Tensor),
    ("context", ctypes.c_void_p),
    ("deleter", Deleter),
)

_api = ctypes.pythonapi
_api.PyCapsule_New.restype = ctypes.py_object
_api.PyCapsule_New.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
_api.PyCapsule_GetPointer.restype = ctypes.c_void_p
_api.PyCapsule_GetPointer.argtypes = (ctypes.py_object, ctypes.c_char_p)
_api.PyCapsule_SetName.argtypes = (ctypes.py_object, ctypes.c_char_p)

_given: dict[int, tuple[object, ...]] = {}
"""What capsules that were given out keep alive, until their deleter is called."""


@Deleter
def _forget(managed: Any) -> None:
    _given.pop(ctypes.addressof(managed.contents), None)


def capsule(array: ndarray) -> object:
    """One that nobody takes keeps its array for ever: a leak that tests can bear."""
    item = array.itemsize
    shape = (ctypes.c_int64 * array.ndim)(*array.shape)
    strides = (ctypes.c_int64 * array.ndim)(*(step // item for step in array.strides))
    tensor = Tensor(
        array.data.ptr,
        CUDA,
        0,
        array.ndim,
        CODES[array.dtype.kind],
        8 * item,
        1,
        shape,
        strides,
        0,
    )
    managed = Managed(tensor, None, _forget)
    address = ctypes.addressof(managed)
    _given[address] = (managed, array, shape, strides)
    return _api.PyCapsule_New(address, NAME, None)


class _Taken:
    """Calls the deleter when the last array over the memory is gone."""

    def __init__(self, managed: Any) -> None:
        self._managed = managed

    def __del__(self) -> None:
        if self._managed.contents.deleter:
            self._managed.contents.deleter(self._managed)


def from_dlpack(thing: Any, **_: object) -> ndarray:
    """As CuPy's: device memory only; strides kept."""
    if thing.__dlpack_device__()[0] == CPU:
        raise TypeError(
            "CPU arrays cannot be directly imported to CuPy. "
            "Use `cupy.array(numpy.from_dlpack(input))` instead."
        )
    given = thing.__dlpack__()
    address = _api.PyCapsule_GetPointer(given, NAME)
    managed = ctypes.cast(address, ctypes.POINTER(Managed))
    _api.PyCapsule_SetName(given, USED)
    tensor = managed.contents.tensor
    kind = next(kind for kind, code in CODES.items() if code == tensor.code)
    dtype = np.dtype(f"{kind}{tensor.bits // 8}")
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    strides = None
    span = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if tensor.strides:
        strides = tuple(tensor.strides[i] * dtype.itemsize for i in range(tensor.ndim))
        steps = ((n - 1) * s for n, s in zip(shape, strides, strict=True))
        span = sum(steps) + dtype.itemsize if span else 0
    memory = UnownedMemory((tensor.data or 0) + tensor.byte_offset, span, _Taken(managed))
    return ndarray(shape, dtype, MemoryPointer(memory, 0), strides)
