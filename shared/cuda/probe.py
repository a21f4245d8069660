"""`python -m shared.cuda.probe`: whether CUDA works for this process and between two of ours.

Looks at the first visible device. The protocol is that of `shared.findings`. `--reader HANDLE` is
the other process.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from shared.findings import Finding, Step, look, ok, problem

if TYPE_CHECKING:
    from shared.cuda.device import Device

SIZE = 1 << 20
BLOCK = 256
READER_LIMIT_S = 20.0
KERNELS = Path(__file__).with_name("probe.cu")

DRIVER_FIX = (
    "see whether `nvidia-smi` works; in a container start it with `--gpus all` (or CDI). After an "
    "update of the driver, restart the machine"
)
KERNEL_FIX = (
    "install NVRTC and the headers of CUDA 13: pip install 'cupy-cuda13x[ctk]', or the CUDA toolkit"
)
IPC_FIX = (
    "processes that share a GPU have to see each other: containers of one host need "
    "`--ipc host --pid host`, or one container (pod) for all"
)


def main(arguments: Sequence[str]) -> int:
    """See above."""
    if arguments[:1] == ["--reader"]:
        return _read(bytes.fromhex(arguments[1]))
    own = _Own()
    steps = (
        Step("cuda.context", lambda: _context(own.device()), DRIVER_FIX),
        Step("cuda.kernels", lambda: _kernels(own.device()), KERNEL_FIX),
        Step("cuda.ipc", lambda: _ipc(own.device()), IPC_FIX),
    )
    return look(steps, arguments)


class _Own:
    """The device of this process, opened once."""

    def __init__(self) -> None:
        self._device: Device | None = None

    def device(self) -> Device:
        """Raises EngineError where there is none."""
        if self._device is None:
            self._device = _opened()
        return self._device


def _opened() -> Device:
    # CuPy: only in a process that may die of it.
    from shared.cuda.device import Device

    return Device()


def _pattern() -> npt.NDArray[np.uint8]:
    return np.random.default_rng(7).integers(0, 255, SIZE, dtype=np.uint8)


def _bytes_of(device: Device, pointer: int) -> npt.NDArray[np.uint8]:
    copy = np.empty(SIZE, np.uint8)
    device.download(device.view(pointer, SIZE), copy)
    return copy


def _context(device: Device) -> Iterator[Finding]:
    free, total = device.free_bytes(), device.total_bytes
    yield ok(
        "cuda.context",
        f"{device.name}: CUDA works, {free >> 20} of {total >> 20} MiB free",
        uuid=device.uuid,
        compute=".".join(str(part) for part in device.compute),
        free_bytes=free,
        total_bytes=total,
    )


def _kernels(device: Device) -> Iterator[Finding]:
    pointer, pattern = device.allocate(SIZE), _pattern()
    try:
        array: Any = device.view(pointer, SIZE)
        device.upload(pattern, array)
        kernel = device.kernel(KERNELS, "add_one")
        kernel((SIZE // BLOCK, 1, 1), (BLOCK, 1, 1), array, np.uint64(SIZE))
        device.finish()
        if not np.array_equal(_bytes_of(device, pointer), pattern + 1):
            yield problem("cuda.kernels", "a kernel computed something else", KERNEL_FIX)
            return
    finally:
        device.free(pointer)
    yield ok("cuda.kernels", "kernels compile and run")


def _ipc(device: Device) -> Iterator[Finding]:
    pointer, pattern = device.allocate(SIZE), _pattern()
    try:
        device.upload(pattern, device.view(pointer, SIZE))
        device.finish()
        other = [
            sys.executable,
            "-m",
            "shared.cuda.probe",
            "--reader",
            device.export(pointer).hex(),
        ]
        ended = subprocess.run(
            other, capture_output=True, text=True, timeout=READER_LIMIT_S, check=False
        )
        if ended.returncode != 0:
            said = ended.stderr.strip().splitlines()[-1:] or [f"code {ended.returncode}"]
            text = f"another process can't use this one's memory ({said[0]})"
            yield problem("cuda.ipc", text, IPC_FIX)
            return
        if not np.array_equal(_bytes_of(device, pointer), np.flip(pattern)):
            yield problem("cuda.ipc", "what another process wrote is not there", IPC_FIX)
            return
    finally:
        device.free(pointer)
    yield ok("cuda.ipc", "two processes read and write the same memory of the GPU")


def _read(handle: bytes) -> int:
    """See that the pattern is there, and turn it round. 1: it is not."""
    device = _opened()
    pointer = device.open(handle)
    try:
        pattern = _pattern()
        if not np.array_equal(_bytes_of(device, pointer), pattern):
            print("it reads other bytes than were written", file=sys.stderr)
            return 1
        device.upload(np.flip(pattern).copy(), device.view(pointer, SIZE))
        device.finish()
    finally:
        device.close(pointer)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
