"""What the errors of NVIDIA's codecs mean to the chain of engines."""

from __future__ import annotations

import pytest

from shared.cuda.nvcodec import code_of, decoding_failed, encoding_failed, short
from shared.errors import DeviceLostError, DualfaceError, EngineBusyError, EngineError
from shared.errors import OutOfMemoryError as DeviceFullError

NEITHER, ABLE, UNABLE = None, True, False


def told(text: str, code: int, *, unsupported: bool = False) -> Exception:
    kind = type(
        "PyNvVCExceptionUnsupported" if unsupported else "PyNvVCException", (Exception,), {}
    )
    made: Exception = kind(f"Where : {text}\nError code : {code}\nError Type : 1 at line 7")
    return made


NVDEC = "m_api.cuvidCreateDecoder(...) returned error"
NVENC = "m_nvenc.nvEncOpenEncodeSessionEx(...) returned error"
CUDA = "CUDA driver API error CUDA_ERROR_OF_SOME_KIND"


@pytest.mark.parametrize(
    ("error", "begun", "expected", "able"),
    [
        (told(NVDEC, 2), False, EngineBusyError, NEITHER),
        (told(NVDEC, 2), True, DeviceFullError, NEITHER),
        (told(NVDEC, 801), False, EngineError, UNABLE),
        (told("MBCount not supported", 801, unsupported=True), False, EngineError, UNABLE),
        (told("of a kind that is new", 1, unsupported=True), False, EngineError, UNABLE),
        (told(NVDEC, 999), False, EngineError, ABLE),
        (told(NVDEC, 801), True, EngineError, ABLE),
        (told(NVDEC, 700), False, DeviceLostError, ABLE),
        (told(NVDEC, 719), True, DeviceLostError, ABLE),
        (RuntimeError("no number at all"), False, EngineError, ABLE),
    ],
)
def test_a_decoders_error_says_what_the_chain_does_next(
    error: Exception, begun: bool, expected: type[DualfaceError], able: bool | None
) -> None:
    failure = decoding_failed(error, begun=begun)
    assert type(failure) is expected
    assert getattr(failure, "able", NEITHER) == able


@pytest.mark.parametrize(
    ("error", "begun", "expected", "able"),
    [
        (told(NVENC, 10), False, EngineBusyError, NEITHER),
        (told(NVENC, 21), False, EngineBusyError, NEITHER),
        (told(NVENC, 10), True, EngineError, ABLE),
        (told(NVENC, 1), False, EngineError, UNABLE),
        (told(NVENC, 2), False, EngineError, UNABLE),
        (told(NVENC, 8), False, EngineError, UNABLE),
        (told(NVENC, 20), False, EngineError, ABLE),
        (told(CUDA, 2), False, DeviceFullError, NEITHER),
        (told(CUDA, 1), False, EngineError, ABLE),
        (told(CUDA, 700), True, DeviceLostError, ABLE),
        (told("Format is not supported", 8, unsupported=True), False, EngineError, UNABLE),
    ],
)
def test_an_encoders_error_says_what_the_chain_does_next(
    error: Exception, begun: bool, expected: type[DualfaceError], able: bool | None
) -> None:
    failure = encoding_failed(error, begun=begun)
    assert type(failure) is expected
    assert getattr(failure, "able", NEITHER) == able


def test_an_error_is_one_short_line_without_the_librarys_advice() -> None:
    long = RuntimeError(
        "libnvidia-encode.so.1: cannot open\n\n=== TROUBLESHOOTING STEPS ===\n1. ..."
    )
    assert short(long) == "libnvidia-encode.so.1: cannot open"
    assert len(short(RuntimeError("x" * 5000))) <= 300
    assert "RuntimeError" in short(RuntimeError(""))
    assert code_of(RuntimeError("nothing")) is None
