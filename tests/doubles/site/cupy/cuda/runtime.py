"""The CUDA runtime as CuPy wraps it: the functions that are used here."""

# ruff: noqa: N802, N816, ARG001

from __future__ import annotations

import os

import numpy as np

from cupy._driver import NAMES, CUDARuntimeError, driver, raw

__all__ = ["CUDARuntimeError"]

memcpyHostToHost, memcpyHostToDevice, memcpyDeviceToHost, memcpyDeviceToDevice = range(4)
cudaIpcMemLazyEnablePeerAccess = 1
for _status, (_name, _) in NAMES.items():
    globals()[_name] = _status


def getDeviceCount() -> int:
    return driver.count()


def setDevice(device: int) -> None:
    if device >= driver.count():
        raise CUDARuntimeError(101)


def getDevice() -> int:
    return 0


def getDeviceProperties(device: int) -> dict[str, object]:
    if device >= driver.count():
        raise CUDARuntimeError(101)
    major, _, minor = os.environ.get("DOUBLE_COMPUTE", "8.6").partition(".")
    return {
        "name": b"Double of a GPU",
        "totalGlobalMem": driver.total(),
        "major": int(major),
        "minor": int(minor),
        "multiProcessorCount": 28,
        # CuPy takes the bytes for a C string: cut off at the first zero.
        "uuid": driver.uuid(device).split(b"\0")[0],
    }


def deviceGetPCIBusId(device: int) -> str:
    if device >= driver.count():
        raise CUDARuntimeError(101)
    return f"0000:{device + 1:02X}:00.0"


def deviceSynchronize() -> None:
    driver.enter()


def malloc(size: int) -> int:
    return driver.malloc(size)


def free(pointer: int) -> None:
    driver.release(pointer)


def memGetInfo() -> tuple[int, int]:
    driver.enter()
    return driver.free(), driver.total()


def ipcGetMemHandle(pointer: int) -> bytes:
    return driver.export(pointer)


def ipcOpenMemHandle(handle: bytes, flags: int = cudaIpcMemLazyEnablePeerAccess) -> int:
    if not isinstance(handle, bytes):
        raise TypeError(f"expected bytes, {type(handle).__name__} found")
    if flags != cudaIpcMemLazyEnablePeerAccess:
        raise CUDARuntimeError(1)
    return driver.open(handle)


def ipcCloseMemHandle(pointer: int) -> None:
    driver.close(pointer)


def memcpyAsync(dst: int, src: int, size: int, kind: int, stream: int) -> None:
    memcpy2DAsync(dst, size, src, size, size, 1 if size else 0, kind, stream)


def memcpy2DAsync(
    dst: int,
    dpitch: int,
    src: int,
    spitch: int,
    width: int,
    height: int,
    kind: int,
    stream: int,
) -> None:
    driver.enter()
    driver.streams.add(stream)
    if width == 0 or height == 0:
        return
    if width > dpitch or width > spitch:
        raise CUDARuntimeError(12)
    from_bytes, to_bytes = (height - 1) * spitch + width, (height - 1) * dpitch + width
    if kind in (memcpyDeviceToHost, memcpyDeviceToDevice):
        driver.check(src, from_bytes)
    if kind in (memcpyHostToDevice, memcpyDeviceToDevice):
        driver.check(dst, to_bytes)
    strided = np.lib.stride_tricks.as_strided
    source = strided(raw(src, from_bytes), (height, width), (spitch, 1))
    target = strided(raw(dst, to_bytes), (height, width), (dpitch, 1))
    target[...] = source


def memsetAsync(pointer: int, value: int, size: int, stream: int) -> None:
    driver.enter()
    driver.streams.add(stream)
    driver.check(pointer, size)
    raw(pointer, size)[...] = value


def streamSynchronize(stream: int) -> None:
    driver.enter()
