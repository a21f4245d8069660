"""CuPy's memory: pointers that keep their memory alive, and a pool that keeps what was freed."""

# ruff: noqa: ARG002

from __future__ import annotations

from collections import defaultdict

from cupy._driver import CUDARuntimeError, driver, raw

ROUND = 512
POISON = 0xA5
"""Fills memory that is given out: nobody may rely on zeros."""


class OutOfMemoryError(MemoryError):
    def __init__(self, size: int, total: int) -> None:
        super().__init__(
            f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes)."
        )


class UnownedMemory:
    """Memory that somebody else allocated; `owner` is kept alive with it."""

    def __init__(self, ptr: int, size: int, owner: object, device_id: int = -1) -> None:
        driver.enter()
        if device_id < 0:  # CUDA is asked whose it is
            driver.check(ptr, size)
        self.ptr, self.size, self.device_id = ptr, size, max(device_id, 0)
        self._owner = owner


class PooledMemory:
    def __init__(self, size: int, pool: MemoryPool) -> None:
        self.size, self.device_id = size, 0
        self._pool, self._age = pool, pool.age
        self.ptr = pool.take(size)

    def __del__(self) -> None:
        if hasattr(self, "ptr") and self._age == self._pool.age:
            self._pool.give(self.ptr, self.size)


class MemoryPointer:
    def __init__(self, mem: UnownedMemory | PooledMemory, offset: int) -> None:
        self.mem, self.offset = mem, offset
        self.device_id = mem.device_id

    @property
    def ptr(self) -> int:
        return self.mem.ptr + self.offset

    def __int__(self) -> int:
        return self.ptr

    def __add__(self, offset: int) -> MemoryPointer:
        return MemoryPointer(self.mem, self.offset + offset)


class MemoryPool:
    def __init__(self) -> None:
        self._free: defaultdict[int, list[int]] = defaultdict(list)
        self._used = 0
        self.age = 0

    def forget(self) -> None:
        """All memory is gone; addresses of it that come back late are others' by now."""
        self._free.clear()
        self._used = 0
        self.age += 1

    def malloc(self, size: int) -> MemoryPointer:
        return MemoryPointer(PooledMemory(-(-size // ROUND) * ROUND, self), 0)

    def take(self, size: int) -> int:
        driver.enter()
        kept = self._free[size]
        pointer = kept.pop() if kept else self._allocate(size)
        self._used += size
        if size:
            raw(pointer, size)[...] = POISON
        return pointer

    def give(self, pointer: int, size: int) -> None:
        self._used -= size
        self._free[size].append(pointer)

    def _allocate(self, size: int) -> int:
        try:
            return driver.malloc(size)
        except CUDARuntimeError as error:
            if error.status != 2:
                raise
        self.free_all_blocks()
        try:
            return driver.malloc(size)
        except CUDARuntimeError as error:
            if error.status != 2:
                raise
            raise OutOfMemoryError(size, self.total_bytes()) from None

    def free_all_blocks(self, stream: object = None) -> None:
        for pointers in self._free.values():
            for pointer in pointers:
                driver.release(pointer)
        self._free.clear()

    def used_bytes(self) -> int:
        return self._used

    def free_bytes(self) -> int:
        return sum(size * len(pointers) for size, pointers in self._free.items())

    def total_bytes(self) -> int:
        return self.used_bytes() + self.free_bytes()


pool = MemoryPool()
