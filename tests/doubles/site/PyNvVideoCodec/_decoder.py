"""The decoder: FFmpeg's, one thread, into memory of the device."""

# ruff: noqa: N801, N802, N803, N816

from __future__ import annotations

import ctypes
import enum
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import av
import numpy as np
from av.codec.context import CodecContext, Flags
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from cupy._driver import CUDARuntimeError, driver, raw

from PyNvVideoCodec._faults import (
    NOT_SUPPORTED,
    OUT_OF_MEMORY,
    Sessions,
    enter,
    error,
    native,
    of_kinds,
)
from PyNvVideoCodec._sequence import references

PITCH = 256
"""What rows are rounded up to: the real one may, by version."""
STALE = 0xEE
MORE_SURFACES = 4
"""Than the parser says that a stream needs."""

sessions = Sessions("nvdec", 32)

Size = tuple[int, int]
"""Width and height in px."""


class cudaVideoCodec(enum.IntEnum):
    MPEG2 = 1
    H264 = 4
    HEVC = 8
    VP9 = 10
    AV1 = 11


cudaVideoChromaFormat = enum.IntEnum(
    "cudaVideoChromaFormat", {"Monochrome": 0, "420": 1, "422": 2, "444": 3}
)


class Pixel_Format(enum.IntEnum):
    NV12 = 3
    P016 = 6


class OutputColorType(enum.IntEnum):
    NATIVE = 0


class DisplayDecodeLatencyType(enum.IntEnum):
    NATIVE = 0
    LOW = 1


class VideoPacketFlag(enum.IntEnum):
    ENDOFSTREAM = 1
    ENDOFPICTURE = 8


NAMES = {
    cudaVideoCodec.H264: "h264",
    cudaVideoCodec.HEVC: "hevc",
    cudaVideoCodec.VP9: "vp9",
    cudaVideoCodec.AV1: "libdav1d",
}
LIMITS = {
    cudaVideoCodec.H264: ((8,), 48, 16, 4096),
    cudaVideoCodec.HEVC: ((8, 10, 12), 144, 144, 8192),
    cudaVideoCodec.VP9: ((8, 10, 12), 128, 128, 8192),
    cudaVideoCodec.AV1: ((8, 10), 128, 128, 8192),
}
"""Bits, smallest sides and largest side, as of an Ampere."""


def GetDecoderCaps(
    gpuid: int = 0,
    codec: cudaVideoCodec = cudaVideoCodec.H264,
    chromaformat: cudaVideoChromaFormat = cudaVideoChromaFormat(1),
    bitdepth: int = 8,
) -> dict[str, int]:
    of_kinds(
        "GetDecoderCaps",
        ((gpuid, int), (codec, cudaVideoCodec), (chromaformat, cudaVideoChromaFormat)),
    )
    enter("cuvidGetDecoderCaps")
    bits, width, height, most = LIMITS.get(codec, ((), 0, 0, 0))
    known = os.environ.get("DOUBLE_NVDEC_CODECS", "H264,HEVC,VP9,AV1").split(",")
    supported = codec.name in known and bitdepth in bits and chromaformat == 1
    return {
        "supported": int(supported),
        "codec_id": int(codec),
        "chromaformat_id": int(chromaformat),
        "bitdepth": bitdepth,
        "num_decoder_engines": int(os.environ.get("DOUBLE_NVDEC_ENGINES", "1")),
        "width_min": width,
        "height_min": height,
        "width_max": most,
        "height_max": most,
        "mb_num_max": most * most // 256,
    }


class PacketData:
    """`bsl_data`: address of `bsl` bytes. Without any: the end of the stream."""

    def __init__(self) -> None:
        self.bsl_data = self.bsl = self.pts = self.dts = self.key = self.decode_flag = 0


class CAIMemoryView:
    def __init__(
        self, shape: tuple[int, ...], stride: tuple[int, ...], kind: str, data: int
    ) -> None:
        self.shape, self.stride, self.dataptr, self.data = list(shape), list(stride), data, data
        self.__cuda_array_interface__ = {
            "version": 3,
            "shape": list(shape),  # no tuples, as in the real one
            "strides": list(stride),
            "typestr": kind,
            "stream": 2,
            "data": (data, False),
            "gpuIdx": 0,
        }


class DecodedFrame:
    def __init__(self, timestamp: int, kind: Pixel_Format, views: list[CAIMemoryView]) -> None:
        self.timestamp, self.format, self._views = timestamp, kind, views

    def getPTS(self) -> int:
        return self.timestamp

    def cuda(self) -> list[CAIMemoryView]:
        return self._views

    def GetPtrToPlane(self, planeIdx: int) -> int:
        return self._views[planeIdx].dataptr


class PyNvDecoder:
    """Opens its session with the first picture, as the real one does."""

    def __init__(self, codec: cudaVideoCodec, maxwidth: int, maxheight: int) -> None:
        self._process = driver._live
        self._pool: list[tuple[int, int]] = []
        self._codec = codec
        self._most = _aligned(maxwidth), _aligned(maxheight)
        self._context = self._fresh()
        self._is_open = False
        self._size: Size | None = None
        self._coded: Size = (0, 0)
        self._surface: Size = (0, 0)  # what NVDEC writes: the first stream's coded size
        self._stretched = False
        self._told: Size | None = None
        self._depth = 0
        self._needs = 0  # pictures that the stream refers to
        self._surfaces = 0  # that there are: as many as the stream needed at the last (re)opening
        self._scaler = VideoReformatter()

    def __del__(self) -> None:
        if self._process is not driver._live:
            return  # in the process that was before: its memory is gone, another's may lie there
        for address, _ in self._pool:
            with suppress(CUDARuntimeError):  # gone with its context
                driver.release(address)

    @native
    def setReconfigParams(self, width: int = 0, height: int = 0) -> int:
        enter("m_api.cuvidParseVideoData(m_hParser, &packet)")
        if width == height == 0:
            return 0
        if width > self._most[0] or height > self._most[1]:
            raise RuntimeError(
                "Resize dimensions must be lower than max width and height, please recreate "
                "decoder instance"
            )
        self._told = width, height
        return 1

    @native
    def Decode(self, packet: PacketData) -> list[DecodedFrame]:
        enter("m_api.cuvidParseVideoData(m_hParser, &packet)")
        for address, size in self._pool:
            raw(address, size)[:] = STALE
        frames = []
        for picture in self._pictures(packet):
            if code := sessions.frame():
                raise error(f"cuvidMapVideoFrame returned error {code}", code)
            frames.append(self._given(picture, len(frames)))
        return frames

    def _fresh(self) -> Any:
        made: Any = CodecContext.create(NAMES[self._codec], "r")
        made.thread_count = 1
        made.flags |= Flags.output_corrupt
        # As many frames held back as the level allows, where the stream does not say less.
        made.options = {"strict": "1"} if self._codec < cudaVideoCodec.VP9 else {}
        return made

    def _pictures(self, packet: PacketData) -> Iterator[VideoFrame]:
        try:
            if packet.bsl_data and packet.bsl:
                data = ctypes.string_at(packet.bsl_data, packet.bsl)
                needs = references(data, NAMES[self._codec])
                self._needs = self._needs if needs is None else needs
                given = av.Packet(data)
                given.pts = packet.pts
                yield from self._context.decode(given)
            else:
                yield from self._context.decode(None)
                self._context = self._fresh()
        except (av.error.EOFError, av.error.InvalidDataError):
            return  # parsers skip what they can't read

    def _given(self, picture: VideoFrame, index: int) -> DecodedFrame:
        self._adapt(picture)
        assert self._size is not None
        width, height = self._size
        if self._stretched or (picture.width, picture.height) != self._size:
            number = picture.pts
            picture = self._scaler.reformat(picture, *self._scaled(picture))
            picture.pts = number
        size = 1 if self._depth == 8 else 2
        pitch = -(-(width + 1) * size // PITCH) * PITCH
        down, across = (height + 1) // 2, (width + 1) // 2
        start = self._room(index, pitch * (height + down))
        rows = raw(start, pitch * (height + down)).reshape(height + down, pitch)
        kind = np.uint8 if size == 1 else np.dtype("<u2")
        luma, *pair = (
            np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size).view(kind)
            for plane in picture.planes
        )
        shift = 0 if size == 1 else 16 - self._depth
        seen = rows.view(kind)
        there = min(height, self._surface[1], len(luma))  # NVDEC writes no more rows
        seen[:there, :width] = luma[:there, :width] << shift
        seen[there:height] = STALE
        for at, plane in enumerate(pair):
            below = min(down, len(plane))
            seen[height : height + below, at : 2 * across : 2] = plane[:below, :across] << shift
        if self._needs > self._surfaces:
            rows[:] = STALE  # what it refers to was written over
        letters = "|u1" if size == 1 else "|u2"
        step = pitch // size  # in samples, as the real one says it
        chroma = start + pitch * height
        views = [
            CAIMemoryView((height, 2 * across, 1), (step, 1, 1), letters, start),
            CAIMemoryView((height // 2, across, 2), (step, 2, 1), letters, chroma),
        ]
        return DecodedFrame(
            picture.pts or 0, Pixel_Format.NV12 if size == 1 else Pixel_Format.P016, views
        )

    def _adapt(self, picture: VideoFrame) -> None:
        """The session to the stream, as at a sequence header."""
        size, depth = (picture.width, picture.height), picture.format.components[0].bits
        coded = self._context.coded_width, self._context.coded_height
        if not self._is_open:
            if not sessions.open(self):
                raise error(
                    f"m_api.cuvidCreateDecoder returned error {OUT_OF_MEMORY}", OUT_OF_MEMORY
                )
            self._is_open = True
            self._size, self._depth = size, depth
            self._coded = self._surface = coded
            self._surfaces = self._needs + MORE_SURFACES
            self._most = (
                _aligned(max(self._most[0], coded[0])),
                _aligned(max(self._most[1], coded[1])),
            )
            return
        if depth != self._depth:
            raise error("Reconfigure Not supported for bit depth change", NOT_SUPPORTED)
        if coded[0] > self._most[0] or coded[1] > self._most[1]:
            raise error(
                "Reconfigure Not supported when width/height > maxwidth/maxheight", NOT_SUPPORTED
            )
        if coded == self._coded:
            self._size = size  # of the surfaces that there are
        elif self._told is not None:
            self._size = self._surface = self._told
            self._stretched, self._told = False, None
            self._surfaces = self._needs + MORE_SURFACES
        else:
            self._stretched = True
        self._coded = coded

    def _scaled(self, picture: VideoFrame) -> Size:
        """What is coded fills the surface, whatever part of it is shown."""
        assert self._size is not None
        width = picture.width * self._surface[0] // self._coded[0]
        height = picture.height * self._surface[1] // self._coded[1]
        return max(width, self._size[0]), height

    def _room(self, index: int, size: int) -> int:
        while len(self._pool) <= index:
            self._pool.append((0, 0))
        address, have = self._pool[index]
        if have < size:
            if address:
                driver.release(address)
            try:
                address = driver.malloc(size)
            except CUDARuntimeError as refused:
                raise error(f"cuMemAlloc returned error {refused.status}", refused.status) from None
            self._pool[index] = address, size
        return address


def _aligned(side: int) -> int:
    return -(-side // 32) * 32


def CreateDecoder(
    gpuid: int = 0,
    codec: cudaVideoCodec = cudaVideoCodec.H264,
    cudacontext: int = 0,
    cudastream: int = 0,
    usedevicememory: bool = False,
    maxwidth: int = 0,
    maxheight: int = 0,
) -> PyNvDecoder:
    of_kinds(
        "CreateDecoder",
        (
            *((each, int) for each in (gpuid, cudacontext, cudastream, maxwidth, maxheight)),
            (codec, cudaVideoCodec),
            (usedevicememory, bool),
        ),
    )
    try:
        driver.enter()
    except CUDARuntimeError as refused:
        # The one call that does not raise.
        told = f"[FATAL][00:00:00] CUDA driver API error {refused} at line 65 in file double.cpp"
        print(told, file=sys.stderr, flush=True)
        os._exit(1)
    if gpuid >= driver.count():
        raise error("GPU ordinal out of range. Should be within [0, 0]", 101)
    if not usedevicememory:
        raise NotImplementedError("the double decodes into device memory only")
    return PyNvDecoder(codec, maxwidth, maxheight)
