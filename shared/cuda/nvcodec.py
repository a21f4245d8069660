"""NVIDIA's codecs by PyNvVideoCodec, as decoder and encoder share them: the library, its errors.

The one module that imports it. What its exceptions mean says the driver's error number in their
text.
"""

from __future__ import annotations

import importlib
import re
from typing import Any, TypeAlias

from shared.errors import (
    DeviceLostError,
    EngineBusyError,
    EngineError,
    ErrorCode,
    OutOfMemoryError,
)

Failure: TypeAlias = EngineError | EngineBusyError | OutOfMemoryError

_LONGEST = 300
_CUDA = "CUDA_ERROR_"
"""In texts whose number is CUDA's and not NVENC's."""
_CODE = re.compile(r"Error code\s*:\s*(\d+)")

LOST = frozenset({46, 214, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721})
"""CUresults after which no call of the context succeeds (or the device is away): devices
unavailable, uncorrectable ECC error, illegal address, launch timeout, destroyed context, assertion,
errors of the hardware's stack, instructions, addresses, program counter, and failed launches."""
NO_MEMORY = 2
"""CUDA_ERROR_OUT_OF_MEMORY: what NVDEC says, too, when it can't hold another session."""
NOT_THERE = frozenset({100, 101, 801})
"""CUresults: no device, invalid device, not supported."""

NVENC_BUSY = frozenset({10, 21})
"""NV_ENC_ERR_OUT_OF_MEMORY and INCOMPATIBLE_CLIENT_KEY: what drivers say, older and newer ones,
when as many sessions are open as the GPU may have."""
NVENC_UNABLE = frozenset({1, 2, 3, 4, 5, 8, 12, 15, 22})
"""No encode device, unsupported device, invalid (encoder) device, device does not exist, invalid
parameter, unsupported parameter, invalid version, unimplemented."""


def library() -> Any:
    """The module PyNvVideoCodec. Raises EngineError where it, or a driver, is missing."""
    try:
        return importlib.import_module("PyNvVideoCodec")
    except (ImportError, RuntimeError, OSError) as error:
        # Without a driver its import raises RuntimeError, with advice of many lines.
        raise EngineError(f"PyNvVideoCodec can't be used: {short(error)}") from error


def errors(nvc: Any) -> tuple[type[Exception], ...]:
    """What the library raises: two kinds of its own, and C++'s as pybind11 renames them.

    CreateDecoder alone ends the process, with a line on stderr, where CUDA does not work
    (cuInit, cuDevicePrimaryCtxRetain): ask the device something before.
    """
    return (nvc.PyNvVCException, nvc.PyNvVCExceptionUnsupported, RuntimeError, ValueError)


def code_of(error: Exception) -> int | None:
    """The driver's error number in an exception of the library."""
    found = _CODE.search(str(error))
    return int(found.group(1)) if found else None


def short(error: Exception) -> str:
    """What an exception says, without the advice that some end with, on one line."""
    text, _, _ = str(error).partition("===")
    return " ".join(text.split())[:_LONGEST] or repr(error)


def decoding_failed(error: Exception, *, begun: bool) -> Failure:
    """What an exception of the decoder means. `begun`: it has given out a frame of this segment."""
    code, text = code_of(error), f"NVDEC: {short(error)}"
    if code in LOST:
        return DeviceLostError(text)
    if code == NO_MEMORY:
        return OutOfMemoryError(text) if begun else EngineBusyError(ErrorCode.BUSY, text)
    unable = code in NOT_THERE or _unsupported(error)
    return EngineError(text, begun or not unable)


def encoding_failed(error: Exception, *, begun: bool) -> Failure:
    """What an exception of the encoder means. `begun`: it has taken a frame of this chunk."""
    code, text = code_of(error), f"NVENC: {short(error)}"
    if code in LOST:  # NVENC's own numbers end at about 30
        return DeviceLostError(text)
    if _CUDA in text:  # memory for frames, or their copies
        return OutOfMemoryError(text) if code == NO_MEMORY else EngineError(text, True)
    if code in NVENC_BUSY and not begun:
        return EngineBusyError(ErrorCode.BUSY, text)
    unable = code in NVENC_UNABLE or _unsupported(error)
    return EngineError(text, begun or not unable)


def _unsupported(error: Exception) -> bool:
    return type(error).__name__ == "PyNvVCExceptionUnsupported"
