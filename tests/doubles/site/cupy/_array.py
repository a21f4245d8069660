"""`cupy.ndarray` of the double: an array that NumPy can't touch unless it is asked to.

Stricter than CuPy in one thing: what CuPy would copy to or from the host by itself (`float()` of
one element, a NumPy array assigned to the whole of one) is refused, because such copies escape
counting.
"""

# ruff: noqa: ARG002

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cupy._driver import driver, raw
from cupy.cuda.memory import MemoryPointer, UnownedMemory, pool

IMPLICIT = (
    "Implicit conversion to a NumPy array is not allowed. "
    "Please use `.get()` to construct a NumPy array explicitly."
)


class ndarray:  # noqa: N801
    """Shape, strides and a pointer into device memory."""

    __array_priority__ = 100
    __array_ufunc__ = None
    __hash__ = None  # type: ignore[assignment]

    def __init__(
        self,
        shape: int | tuple[int, ...],
        dtype: npt.DTypeLike = float,
        memptr: MemoryPointer | None = None,
        strides: tuple[int, ...] | None = None,
        order: str = "C",
    ) -> None:
        self.shape = (shape,) if isinstance(shape, int) else tuple(int(n) for n in shape)
        self.dtype = np.dtype(dtype)
        dense = _dense(self.shape, self.dtype.itemsize)
        self.strides = dense if strides is None else tuple(strides)
        if order != "C":
            raise NotImplementedError("the double knows C order only")
        self.data = memptr if memptr is not None else pool.malloc(self.nbytes)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def itemsize(self) -> int:
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        return self.size * self.itemsize

    @property
    def flags(self) -> _Flags:
        return _Flags(self.strides == _dense(self.shape, self.itemsize) or self.size <= 1)

    @property
    def T(self) -> ndarray:  # noqa: N802
        return self._view(self.shape[::-1], self.strides[::-1])

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "descr": self.dtype.descr,
            "data": (self.data.ptr, False),
            "strides": None if self.flags.c_contiguous else self.strides,
            "version": 3,
            "stream": 1,
        }

    def __dlpack__(self, stream: int | None = None, **_: object) -> object:
        from cupy._dlpack import capsule

        return capsule(self)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0  # kDLCUDA

    def __array__(self, *_: object, **__: object) -> np.ndarray:
        raise TypeError(IMPLICIT)

    def __array_function__(self, *_: object, **__: object) -> object:
        raise TypeError(IMPLICIT)

    def _refuse(self, *_: object) -> Any:
        raise TypeError(f"{IMPLICIT} (Or the double can't do this.)")

    __float__ = __int__ = __bool__ = __index__ = __complex__ = _refuse
    __eq__ = __ne__ = __lt__ = __gt__ = __le__ = __ge__ = _refuse  # type: ignore[assignment]
    __contains__ = __reduce__ = _refuse  # type: ignore[assignment]

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of unsized object")
        return self.shape[0]

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"<double of a device array {self.shape} {self.dtype}>"

    def __getitem__(self, key: Any) -> ndarray:
        _only_views(key)
        shadow = self._shadow()
        part = shadow[key]
        if not isinstance(part, np.ndarray):  # one element: an array of no dimensions
            part = shadow[(*key, ...) if isinstance(key, tuple) else (key, ...)]
        offset = part.ctypes.data - shadow.ctypes.data if part.size else 0
        return self._view(part.shape, part.strides, offset)

    def __setitem__(self, key: Any, value: Any) -> None:
        target = self if key is Ellipsis else self[key]
        if isinstance(value, np.ndarray) and value.ndim:
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        target._host()[...] = value._host() if isinstance(value, ndarray) else value

    def reshape(self, *shape: Any, order: str = "C") -> ndarray:
        wanted = shape[0] if len(shape) == 1 and isinstance(shape[0], tuple | list) else shape
        shadow = self._shadow()
        reshaped = shadow.reshape(wanted)
        if reshaped.size and not np.shares_memory(reshaped, shadow):
            return self.copy().reshape(wanted)
        return self._view(reshaped.shape, reshaped.strides)

    def ravel(self) -> ndarray:
        return self.reshape(-1)

    def transpose(self, *axes: Any) -> ndarray:
        turned = self._shadow().transpose(*axes)
        return self._view(turned.shape, turned.strides)

    def view(self, dtype: npt.DTypeLike) -> ndarray:
        seen = self._shadow().view(dtype)
        return ndarray(seen.shape, seen.dtype, self.data, seen.strides)

    def copy(self) -> ndarray:
        return self.astype(self.dtype)

    def astype(self, dtype: npt.DTypeLike, copy: bool = True) -> ndarray:
        if not copy and self.dtype == dtype:
            return self
        made = ndarray(self.shape, dtype)
        made._host()[...] = self._host()
        return made

    def fill(self, value: Any) -> None:
        self[...] = value

    def get(self, stream: object = None, order: str = "C", out: Any = None) -> np.ndarray:
        if out is None:
            return self._host().copy()
        if not isinstance(out, np.ndarray):
            raise TypeError("Only numpy.ndarray can be obtained from cupy.ndarray")
        if out.dtype != self.dtype or out.shape != self.shape:
            raise ValueError("out has another shape or dtype")
        out[...] = self._host()
        return out

    def set(self, arr: np.ndarray, stream: object = None) -> None:
        if not isinstance(arr, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if self.dtype != arr.dtype:
            raise TypeError(f"{arr.dtype} array cannot be set to {self.dtype} array")
        if self.shape != arr.shape:
            raise ValueError(f"Shape mismatch. Old shape: {self.shape}, new shape: {arr.shape}")
        if not self.flags.c_contiguous:
            raise RuntimeError("Cannot set to non-contiguous array")
        self._host()[...] = arr

    def _view(self, shape: tuple[int, ...], strides: tuple[int, ...], offset: int = 0) -> ndarray:
        return ndarray(shape, self.dtype, self.data + offset, strides)

    def _span(self) -> tuple[int, int]:
        """Bytes before and after the pointer that the elements take up."""
        if not self.size:
            return 0, 0
        steps = [(n - 1) * s for n, s in zip(self.shape, self.strides, strict=True)]
        before = -sum(step for step in steps if step < 0)
        return before, sum(step for step in steps if step > 0) + self.itemsize

    def _shadow(self) -> np.ndarray:
        """The same array by addresses only, for NumPy's indexing rules. Never read."""
        return self._seen(checked=False)

    def _host(self) -> np.ndarray:
        """The elements themselves, after the checks of a call to CUDA."""
        driver.enter()
        return self._seen(checked=True)

    def _seen(self, checked: bool) -> np.ndarray:
        before, after = self._span()
        start = self.data.ptr - before
        if checked:
            driver.check(start, before + after)
        return np.ndarray(self.shape, self.dtype, raw(start, before + after), before, self.strides)


class _Flags:
    def __init__(self, c_contiguous: bool) -> None:
        self.c_contiguous = c_contiguous

    def __getitem__(self, name: str) -> bool:
        if name not in ("C_CONTIGUOUS", "C"):
            raise KeyError(name)
        return self.c_contiguous


def of_interface(thing: Any) -> ndarray:
    """An array over what the CUDA array interface of `thing` describes; keeps `thing`."""
    told = thing.__cuda_array_interface__
    shape, dtype = tuple(told["shape"]), np.dtype(told["typestr"])
    strides = told.get("strides")
    size = int(np.prod(shape, dtype=np.int64))
    span = 0
    if size:
        steps = strides or _dense(shape, dtype.itemsize)
        span = sum((n - 1) * s for n, s in zip(shape, steps, strict=True)) + dtype.itemsize
    memory = UnownedMemory(told["data"][0], span, thing)
    return ndarray(shape, dtype, MemoryPointer(memory, 0), strides)


def _only_views(key: Any) -> None:
    for each in key if isinstance(key, tuple) else (key,):
        if not isinstance(each, int | np.integer | slice | type(None) | type(Ellipsis)):
            raise NotImplementedError("the double cuts views only")


def _dense(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    strides, step = [], itemsize
    for n in reversed(shape):
        strides.append(step)
        step *= max(n, 1)
    return tuple(reversed(strides))
