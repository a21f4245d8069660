"""The driver under the double: device memory, handles for other processes, faults on demand.

An allocation is an anonymous file (`memfd`), mapped; its handle names this process and the file's
descriptor, so another process finds it under /proc for as long as this one lives and has not freed
it, and nothing is ever left behind. Addresses are checked as a GPU checks them: what lies outside
every allocation is refused, not read.

Set from outside, read at each call:
  DOUBLE_GPUS         how many devices (1); 0: none; `no-driver`: not even a driver
  DOUBLE_VRAM_MIB     memory of each, for one process (4096)
  DOUBLE_UUID         of the first device, 32 hexadecimal digits
  DOUBLE_COMPUTE      compute capability (8.6)
  DOUBLE_FAULTS       `malloc=N`: the N-th allocation of the process fails;
                      `illegal=N`: the N-th launch breaks the context; several with commas
  DOUBLE_FAULTS_FILE  as DOUBLE_FAULTS, from a file that the first process to be struck removes
  CUDA_VISIBLE_DEVICES  as for CUDA
"""

from __future__ import annotations

import bisect
import ctypes
import mmap
import os
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]

MIB = 1024 * 1024
HANDLE = struct.Struct("<8sQQQQQ16x")
MAGIC = b"dbl-cuda"

NAMES = {
    1: ("cudaErrorInvalidValue", "invalid argument"),
    2: ("cudaErrorMemoryAllocation", "out of memory"),
    3: ("cudaErrorInitializationError", "initialization error"),
    12: ("cudaErrorInvalidPitchValue", "invalid pitch argument"),
    35: (
        "cudaErrorInsufficientDriver",
        "CUDA driver version is insufficient for CUDA runtime version",
    ),
    100: ("cudaErrorNoDevice", "no CUDA-capable device is detected"),
    101: ("cudaErrorInvalidDevice", "invalid device ordinal"),
    201: ("cudaErrorDeviceUninitialized", "invalid device context"),
    400: ("cudaErrorInvalidResourceHandle", "invalid resource handle"),
    500: ("cudaErrorSymbolNotFound", "named symbol not found"),
    700: ("cudaErrorIllegalAddress", "an illegal memory access was encountered"),
}


class CUDARuntimeError(RuntimeError):
    """As CuPy's: `status` is the cudaError_t."""

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(": ".join(NAMES.get(status, (f"cudaError{status}", "unknown"))))

    def __reduce__(self) -> tuple[type, tuple[int]]:
        return type(self), (self.status,)


class Allocation:
    """Device memory of this process (`opened` 0), or of another (how often it was opened)."""

    def __init__(self, fd: int, size: int, opened: int = 0) -> None:
        self.fd, self.size, self.opened = fd, size, opened
        self._map = mmap.mmap(fd, size)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))

    def close(self) -> None:
        self._map.close()
        os.close(self.fd)


class Driver:
    """What one process sees of its GPU."""

    def __init__(self) -> None:
        self._pid: int | None = None
        self._live: dict[int, Allocation] = {}
        self._addresses: list[int] = []
        self.lost = 0
        self.allocations = self.launches = 0
        self.streams: set[int] = set()

    def enter(self) -> None:
        """At the start of each call. A context does not survive a fork, nor an illegal access."""
        if self._pid is None:
            self._pid = os.getpid()
        if self._pid != os.getpid():
            raise CUDARuntimeError(3)
        if self.lost:
            raise CUDARuntimeError(self.lost)

    def malloc(self, size: int) -> int:
        self.enter()
        self.allocations += 1
        if self._strikes("malloc", self.allocations) or size > self.free():
            raise CUDARuntimeError(2)
        if size == 0:
            return 0
        fd = os.memfd_create("double-of-gpu-memory", os.MFD_CLOEXEC)
        os.ftruncate(fd, size)
        return self._add(Allocation(fd, size))

    def release(self, address: int) -> None:
        self.enter()
        if address == 0:
            return
        found = self._live.get(address)
        if found is None or found.opened:
            raise CUDARuntimeError(1)
        self._remove(found)

    def export(self, address: int) -> bytes:
        self.enter()
        found = self._holding(address)
        if found is None or found.opened:
            raise CUDARuntimeError(1)
        pid = os.getpid()
        inode = os.fstat(found.fd).st_ino
        return HANDLE.pack(MAGIC, pid, _started(pid), found.fd, inode, found.size)

    def open(self, handle: bytes) -> int:
        self.enter()
        magic, pid, started, remote, inode, size = HANDLE.unpack(handle)
        if magic != MAGIC:
            raise CUDARuntimeError(400)
        if pid == os.getpid() and started == _started(pid):
            raise CUDARuntimeError(201)  # one's own
        try:
            if _started(pid) != started:
                raise CUDARuntimeError(400)
            fd = os.open(f"/proc/{pid}/fd/{remote}", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            raise CUDARuntimeError(400) from None
        if os.fstat(fd).st_ino != inode:
            os.close(fd)
            raise CUDARuntimeError(400)
        for each in self._live.values():
            if each.opened and os.fstat(each.fd).st_ino == inode:
                os.close(fd)
                each.opened += 1
                return each.address
        return self._add(Allocation(fd, size, opened=1))

    def close(self, address: int) -> None:
        self.enter()
        found = self._live.get(address)
        if found is None or not found.opened:
            raise CUDARuntimeError(1)
        found.opened -= 1
        if not found.opened:
            self._remove(found)

    def launching(self) -> None:
        """Before a launch. The one that breaks the context is told of only by the calls after."""
        self.enter()
        self.launches += 1

    def launched(self) -> None:
        if self._strikes("illegal", self.launches):
            self.lost = 700

    def held(self, address: int, size: int) -> bool:
        """Whether these bytes lie in one allocation."""
        found = self._holding(address)
        return found is not None and address + size <= found.address + found.size

    def check(self, address: int, size: int) -> None:
        if size and not self.held(address, size):
            raise CUDARuntimeError(1)

    def free(self) -> int:
        used = sum(each.size for each in self._live.values() if not each.opened)
        return self.total() - used

    def total(self) -> int:
        return int(os.environ.get("DOUBLE_VRAM_MIB", "4096")) * MIB

    def count(self) -> int:
        self.enter()
        return len(self._visible())

    def uuid(self, device: int) -> bytes:
        return bytes.fromhex(self._visible()[device])

    def reset(self) -> None:
        """As a new process: for tests that stay in one."""
        for each in list(self._live.values()):
            self._remove(each)
        self.__init__()  # type: ignore[misc]

    def _visible(self) -> list[str]:
        told = os.environ.get("DOUBLE_GPUS", "1")
        if told == "no-driver":
            raise CUDARuntimeError(35)
        first = os.environ.get("DOUBLE_UUID", "d0b1e0a15f3c4e7d9a2b6c8d1e2f3a4b")
        every = [f"{i:02x}{first[2:]}" if i else first for i in range(int(told))]
        chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
        if chosen is not None:
            every = [u for each in chosen.split(",") for u in _chosen(each.strip(), every)]
        if not every:
            raise CUDARuntimeError(100)
        return every

    def _strikes(self, kind: str, count: int) -> bool:
        path = os.environ.get("DOUBLE_FAULTS_FILE", "")
        if path and (kind, str(count)) in _faults(_text(Path(path))):
            Path(path).unlink(missing_ok=True)
            return True
        return (kind, str(count)) in _faults(os.environ.get("DOUBLE_FAULTS", ""))

    def _add(self, allocation: Allocation) -> int:
        self._live[allocation.address] = allocation
        bisect.insort(self._addresses, allocation.address)
        return allocation.address

    def _remove(self, allocation: Allocation) -> None:
        del self._live[allocation.address]
        self._addresses.remove(allocation.address)
        allocation.close()

    def _holding(self, address: int) -> Allocation | None:
        at = bisect.bisect_right(self._addresses, address) - 1
        if at < 0:
            return None
        found = self._live[self._addresses[at]]
        return found if address < found.address + found.size else None


def raw(address: int, size: int) -> Bytes:
    """Bytes at an address, as NumPy sees them: for the double's own use."""
    if size == 0:
        return np.empty(0, np.uint8)
    return np.frombuffer((ctypes.c_uint8 * size).from_address(address), np.uint8)


def _chosen(wanted: str, every: list[str]) -> list[str]:
    """What one entry of CUDA_VISIBLE_DEVICES stands for: an index, or a UUID's beginning."""
    if wanted.isdigit():
        return every[int(wanted) : int(wanted) + 1]
    if wanted.startswith("MIG-"):
        return every[:1]
    digits = wanted.removeprefix("GPU-").replace("-", "")
    return [each for each in every if digits and each.startswith(digits)][:1]


def _faults(text: str) -> list[tuple[str, ...]]:
    return [tuple(each.strip().split("=")) for each in text.split(",")]


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:  # has struck
        return ""


def _started(pid: int) -> int:
    """When a process began, in ticks since boot: a PID alone may come back."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


driver = Driver()
