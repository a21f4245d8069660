"""The encoder: libx264 or libx265 without B-frames, out of memory of the device."""

# ruff: noqa: N802, ARG001

from __future__ import annotations

import os
from collections import deque
from fractions import Fraction
from typing import Any

import numpy as np
from av.codec.context import CodecContext, Flags
from av.video.frame import VideoFrame
from cupy._driver import driver, raw

from PyNvVideoCodec._faults import (
    NVENC_INVALID_CALL,
    NVENC_INVALID_PARAM,
    NVENC_OUT_OF_MEMORY,
    NVENC_UNSUPPORTED_DEVICE,
    Sessions,
    enter,
    error,
    native,
)

DELAY = 3
"""Packets that are held back: an input buffer of the real one is four frames deep."""
NAMES = {"h264": "libx264", "hevc": "libx265"}
LIMITS = {"h264": (145, 49, 4096), "hevc": (129, 33, 8192)}
"""Smallest sides and largest, as of an Ampere."""
OPTIONS = frozenset(
    [
        "codec",
        "gpu_id",
        "preset",
        "tuning_info",
        "rc",
        "gop",
        "idrperiod",
        "bf",
        "fps",
        "cq",
        "bitrate",
        "maxbitrate",
        "vbvbufsize",
        "vbvinit",
        "constqp",
        "repeatspspps",
        "multipass",
    ]
)

FORCE_IDR = 2

sessions = Sessions("nvenc", 8)


def _has_encoder(what: str) -> None:
    enter(what)
    if os.environ.get("DOUBLE_NO_NVENC") == "1":
        raise error(
            f"m_nvenc.nvEncOpenEncodeSessionEx returned error {NVENC_UNSUPPORTED_DEVICE}",
            NVENC_UNSUPPORTED_DEVICE,
        )


def GetEncoderCaps(gpuid: int = 0, codec: str = "h264") -> dict[str, int]:
    _has_encoder("GetEncoderCaps")
    if codec not in LIMITS:
        return {}
    width, height, most = LIMITS[codec]
    return {
        "width_min": width,
        "height_min": height,
        "width_max": most,
        "height_max": most,
        "num_encoder_engines": int(os.environ.get("DOUBLE_NVENC_ENGINES", "1")),
    }


class PyNvEncoder:
    def __init__(
        self, width: int, height: int, fmt: str, usecpuinputbuffer: bool, options: dict[str, str]
    ) -> None:
        if fmt != "NV12" or usecpuinputbuffer:
            raise NotImplementedError("the double encodes NV12 from device memory only")
        unknown = set(options) - OPTIONS
        if unknown:
            raise NotImplementedError(f"the double does not know {sorted(unknown)}")
        codec = options.get("codec", "h264")
        least = LIMITS[codec]
        inside = least[0] <= width <= least[2] and least[1] <= height <= least[2]
        if not inside or options.get("preset", "P4") not in [f"P{n}" for n in range(1, 8)]:
            raise error("nvEncInitializeEncoder returned error 8", NVENC_INVALID_PARAM)
        if not sessions.open(self):
            raise error("nvEncOpenEncodeSessionEx returned error 10", NVENC_OUT_OF_MEMORY)
        self._size = width, height
        self._options = options
        self._codec = codec
        self._context = self._opened(headers=True)
        self._held: deque[dict[str, Any]] = deque()
        self._count = 0
        self._ended = False

    def GetSequenceParams(self) -> bytes:
        return bytes(self._opened(headers=False).extradata)

    @native
    def Encode(self, frame: Any, flags: int = 0) -> list[dict[str, Any]]:
        enter("nvEncEncodePicture")
        if self._ended:
            self._go_on(flags)
        if code := sessions.frame():
            raise error("nvEncEncodePicture API failed", code)
        picture = self._picture(frame)
        picture.pts, picture.time_base = self._count, self._context.time_base
        self._count += 1
        if not self._ended:
            self._take(self._context.encode(picture))
        return [self._held.popleft() for _ in range(len(self._held) - DELAY)]

    @native
    def EndEncode(self) -> list[dict[str, Any]]:
        enter("nvEncEncodePicture")
        if not self._ended:
            self._take(self._context.encode(None))
        rest, self._held = list(self._held), deque()
        self._ended = True
        return rest

    def _go_on(self, flags: int) -> None:
        """After a flush. Parameter sets come with the first picture only, unless asked for."""
        if not flags & FORCE_IDR:
            raise NotImplementedError("a picture that refers to those before a flush")
        how = os.environ.get("DOUBLE_NVENC_GOES_ON", "1")
        if how == "1":
            self._context, self._ended = self._opened(headers=False), False
        elif how == "error":
            raise error("nvEncEncodePicture API failed", NVENC_INVALID_CALL)

    def _opened(self, *, headers: bool) -> Any:
        """`headers`: in the stream, before the first picture."""
        options, gop = self._options, int(self._options.get("gop", "250"))
        made: Any = CodecContext.create(NAMES[self._codec], "w")
        made.width, made.height = self._size
        made.pix_fmt = "nv12" if self._codec == "h264" else "yuv420p"
        made.framerate = Fraction(options.get("fps", "30"))
        made.time_base = 1 / made.framerate
        made.thread_count = 1
        made.gop_size, made.max_b_frames = gop, int(options.get("bf", "0"))
        if not headers:
            made.flags |= Flags.global_header
        common = f"keyint={gop}:bframes={options.get('bf', '0')}:rc-lookahead=0:scenecut=0"
        quality = {"crf": options.get("cq", "28")}
        if "bitrate" in options:
            kilo = [int(options.get(name, options["bitrate"])) // 1000 for name in RATES]
            common += f":bitrate={kilo[0]}:vbv-maxrate={kilo[1]}:vbv-bufsize={kilo[2]}"
            quality = {}
        if self._codec == "h264":
            own = {"x264-params": f"{common}:cpu-independent=1:sync-lookahead=0"}
        else:
            own = {
                "x265-params": f"{common}:log-level=error:info=0:pools=none:no-wpp=1"
                f":frame-threads=1:repeat-headers={int(headers)}"
            }
        made.options = {"preset": "ultrafast", **quality, **own}
        made.open()
        return made

    def _take(self, packets: list[Any]) -> None:
        for packet in packets:
            kind = 3 if packet.is_keyframe else 0
            self._held.append(
                {"data": bytes(packet), "timestamp": packet.pts, "picture_type": kind}
            )

    def _picture(self, frame: Any) -> VideoFrame:
        """The picture in the memory that `frame.cuda()` tells of, checked as the real one does."""
        width, height = self._size
        luma, chroma = (part.__cuda_array_interface__ for part in frame.cuda())
        expected = (
            (luma, (height, width, 1), (width, 1, 1)),
            (chroma, (height // 2, width // 2, 2), (width // 2 * 2, 2, 1)),
        )
        for told, shape, strides in expected:
            if told["typestr"] != "|u1":
                raise RuntimeError("Could not encode CUDA array! Invalid typstr")
            if tuple(told["shape"]) != shape:
                raise RuntimeError(f"Invalid shape: {told['shape']}, expected: {shape}")
            if told["strides"] is not None and tuple(told["strides"]) != strides:
                raise RuntimeError(f"Invalid strides: {told['strides']}, expected: {strides}")
        start, behind = luma["data"][0], chroma["data"][0]
        if behind <= start:
            raise error("Unsupported surface allocation.", NVENC_INVALID_PARAM)
        driver.check(start, width * height)
        driver.check(behind, width * height // 2)
        y = raw(start, width * height).reshape(height, width)
        uv = raw(behind, width * height // 2).reshape(height // 2, width)
        made = VideoFrame.from_ndarray(np.concatenate([y, uv]), format="nv12")
        return made if self._codec == "h264" else made.reformat(format="yuv420p")


RATES = ("bitrate", "maxbitrate", "vbvbufsize")


def CreateEncoder(
    width: int, height: int, fmt: str, usecpuinputbuffer: bool, **kwargs: object
) -> PyNvEncoder:
    _has_encoder("CreateEncoder")
    for name in ("cudacontext", "cudastream"):
        kwargs.pop(name, None)
    options = {name: str(value) for name, value in kwargs.items()}
    return PyNvEncoder(width, height, fmt, usecpuinputbuffer, options)
