"""How many engines of NVDEC and NVENC the first visible GPU has, as PyNvVideoCodec is told by the
driver. Each call opens a context for a moment; for processes that may die of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shared.cuda import nvcodec
from shared.errors import EngineError


def decoding_engines() -> int | None:
    """Of NVDEC; None where nobody tells: no library, no driver, or an older one."""

    def caps(nvc: Any) -> dict[str, int]:
        chroma = getattr(nvc.cudaVideoChromaFormat, "420")
        found: dict[str, int] = nvc.GetDecoderCaps(0, nvc.cudaVideoCodec.H264, chroma, 8)
        return found

    return _told(caps, "num_decoder_engines")


def encoding_engines() -> int | None:
    """Of NVENC; None as above, and where the GPU has none."""

    def caps(nvc: Any) -> dict[str, int]:
        found: dict[str, int] = nvc.GetEncoderCaps(0, "h264")
        return found

    return _told(caps, "num_encoder_engines")


def _told(ask: Callable[[Any], dict[str, int]], name: str) -> int | None:
    try:
        nvc = nvcodec.library()
    except EngineError:
        return None
    try:
        count = ask(nvc).get(name)
    except nvcodec.errors(nvc):
        return None
    return count or None
