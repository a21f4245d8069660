"""What CUDA's errors mean here. Knows them by number, so it imports no CUDA."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from shared.errors import DeviceLostError, DualfaceError, EngineError, OutOfMemoryError

OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation

STICKY = {
    4: "cudaErrorCudartUnloading",
    214: "cudaErrorECCUncorrectable",
    220: "cudaErrorNvlinkUncorrectable",
    226: "cudaErrorContained",
    700: "cudaErrorIllegalAddress",
    702: "cudaErrorLaunchTimeout",
    709: "cudaErrorContextIsDestroyed",
    710: "cudaErrorAssert",
    714: "cudaErrorHardwareStackError",
    715: "cudaErrorIllegalInstruction",
    716: "cudaErrorMisalignedAddress",
    717: "cudaErrorInvalidAddressSpace",
    718: "cudaErrorInvalidPc",
    719: "cudaErrorLaunchFailure",
    721: "cudaErrorTensorMemoryLeak",
    806: "cudaErrorMpsRpcFailure",
    810: "cudaErrorMpsClientTerminated",
    911: "cudaErrorExternalDevice",
    999: "cudaErrorUnknown",
}
"""After these no call of the process works any more; CUDA's driver has the same numbers."""

GONE = {
    1: "cudaErrorInvalidValue",
    205: "cudaErrorMapBufferObjectFailed",
    304: "cudaErrorOperatingSystem",
    400: "cudaErrorInvalidResourceHandle",
}
"""What opening a handle says when the process that exported it, or its memory, is gone."""

OWN_HANDLE = 201
"""cudaErrorDeviceUninitialized: what opening a handle says to a process with its exporter's PID."""

_RESTART = "Restart the driver or the host when every process says so (`nvidia-smi` tells more)."
_NOT_HERE = {
    3: "A process touched CUDA before it forked; start it again.",
    34: "CuPy found CUDA's stub library in place of the driver; take it off LD_LIBRARY_PATH.",
    35: "There is no NVIDIA driver here, or it is older than CuPy's CUDA: install a newer one; a "
    "container needs NVIDIA's container runtime.",
    46: "Another process holds the GPU for itself: `nvidia-smi -c DEFAULT` lets others in.",
    100: "There is no GPU here, or CUDA_VISIBLE_DEVICES names none that is.",
    101: "There is no GPU here, or CUDA_VISIBLE_DEVICES names none that is.",
    802: "The GPU's fabric is not ready: start nvidia-fabricmanager.",
    803: "The driver's parts are of different versions; restart the host after an update.",
    804: "This GPU can't run a CUDA newer than its driver: install a newer driver.",
}


def status(error: BaseException) -> int | None:
    """The number of a CUDA error as CuPy raises it; None of any other."""
    found = getattr(error, "status", None)
    return found if isinstance(found, int) else None


def failure(error: BaseException, what: str) -> DualfaceError:
    """Our error for one that CuPy raised while `what` was done."""
    code = status(error)
    if code == OUT_OF_MEMORY or isinstance(error, MemoryError):
        return OutOfMemoryError(f"{what} ({error})")
    if code in STICKY:
        return DeviceLostError(f"The GPU's context broke ({what}): {error}. The process ends.")
    return EngineError(f"The GPU refused {what}: {error}", able=True)


def not_here(error: BaseException) -> DualfaceError:
    """Our error for one that CuPy raised while CUDA was started."""
    code = status(error)
    if code is None or code == OUT_OF_MEMORY or code in STICKY:
        return failure(error, "opening the device")
    return EngineError(f"{_NOT_HERE.get(code, _RESTART)} CUDA says: {error}.")


@contextmanager
def mapped(what: str) -> Iterator[None]:
    """CUDA's errors inside become ours. CuPy's are RuntimeErrors with a `status`."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        raise failure(error, what) from error
