"""`cupy.cuda` of the double."""

# ruff: noqa: ARG002

from __future__ import annotations

import ctypes
import itertools
import threading
import time
from types import TracebackType

from cupy._driver import driver as _driver
from cupy.cuda import compiler, driver, memory, runtime
from cupy.cuda.memory import MemoryPointer, MemoryPool, UnownedMemory

__all__ = [
    "Device",
    "Event",
    "MemoryPointer",
    "MemoryPool",
    "Stream",
    "UnownedMemory",
    "alloc_pinned_memory",
    "compiler",
    "driver",
    "get_current_stream",
    "get_elapsed_time",
    "memory",
    "runtime",
]

_numbers = itertools.count(0x5000_0000, 16)
_current = threading.local()


class Stream:
    """Work is done when it is given, so there is nothing to wait for; but it belongs to one."""

    null: Stream

    def __init__(self, null: bool = False, non_blocking: bool = False, ptds: bool = False) -> None:
        self.ptr = 0
        if not null:
            _driver.enter()
            self.ptr = next(_numbers)
        self._before: list[Stream] = []

    def use(self) -> Stream:
        _current.stream = self
        return self

    def synchronize(self) -> None:
        runtime.streamSynchronize(self.ptr)

    def __enter__(self) -> Stream:
        self._before.append(get_current_stream())
        return self.use()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._before.pop().use()


Stream.null = Stream(null=True)


def get_current_stream() -> Stream:
    return getattr(_current, "stream", Stream.null)


class Event:
    """Work is done when it is given, so it happens when it is recorded."""

    def __init__(
        self, block: bool = False, disable_timing: bool = False, interprocess: bool = False
    ) -> None:
        _driver.enter()
        self.at_s: float | None = None

    def record(self, stream: Stream | None = None) -> None:
        _driver.enter()
        self.at_s = time.perf_counter()

    def synchronize(self) -> None:
        _driver.enter()


def get_elapsed_time(start_event: Event, end_event: Event) -> float:
    """Milliseconds."""
    _driver.enter()
    if start_event.at_s is None or end_event.at_s is None:
        raise runtime.CUDARuntimeError(400)
    return 1000 * (end_event.at_s - start_event.at_s)


class Device:
    def __init__(self, device: int | None = None) -> None:
        self.id = device or 0

    def use(self) -> None:
        runtime.setDevice(self.id)

    def synchronize(self) -> None:
        runtime.deviceSynchronize()


def alloc_pinned_memory(size: int) -> ctypes.Array[ctypes.c_uint8]:
    """Speaks the buffer protocol; larger than asked for, as CuPy's pool rounds up."""
    _driver.enter()
    rounded = max(512, 1 << max(size - 1, 0).bit_length())
    kind = type(
        "PinnedMemoryPointer",
        (ctypes.c_uint8 * rounded,),
        {"ptr": property(ctypes.addressof), "size": lambda _: rounded},
    )
    return kind()
