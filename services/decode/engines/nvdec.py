"""Decoding by NVDEC into the memory of the GPU, through PyNvVideoCodec."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.decode.engines.annexb import Feed
from services.decode.engines.base import DecodeReport, Frames
from services.decode.engines.sequence import read_sequence
from services.decode.engines.surfaces import SurfaceWriter
from services.decode.engines.times import timed
from services.decode.packets import PacketFile, PacketFlag, StreamHeader
from shared.cuda import nvcodec
from shared.cuda.device import Device
from shared.cuda.memory import Memory
from shared.errors import DeviceLostError, EngineError
from shared.jobs import Segment, SourceInfo
from shared.media.layout import Planes
from shared.sessions import SessionKind, SessionNeed

_PADDING = 64
"""Zero bytes after a packet, for parsers that read ahead."""

_CODECS = {"h264": "H264", "hevc": "HEVC", "vp9": "VP9", "av1": "AV1"}
"""FFmpeg's names, and those of the library's `cudaVideoCodec`."""

_BITS = {"yuv420p": 8, "yuvj420p": 8, "yuv420p10le": 10, "yuv420p12le": 12}
"""4:2:0 only: what surfaces are read as. Which of these a GPU can do, it says itself."""

_PROFILES = {"h264": (66, 77, 100, 110), "hevc": (1, 2, 3, 4)}
"""`profile_idc`: Baseline, Main, High, High 10 (Extended has tools that NVDEC lacks, the scalable
and multiview ones another meaning); Main, Main 10, Main Still Picture, range extensions."""

_UNKNOWN_ORDER, _PROGRESSIVE = 0, 1
"""FFmpeg's AVFieldOrder."""

_CODED_IN = {"h264": 16}
_CODED_IN_ELSE = 128
"""Coded sizes are rounded up to at most so many px: to macroblocks, or to other codecs' units."""

_INTERLACED = "The pictures are of fields: NVDEC would deinterlace them."


@dataclass(frozen=True, slots=True)
class _Pixels:
    """What a decoder is opened for. Sides in px, as shown."""

    codec: str
    bits: int
    width: int
    height: int


@dataclass(slots=True)
class _Open:
    """A decoder of the library. `most`: width and height of the largest pictures it can take.
    `sets`: parameter sets of the stream that its number of surfaces is for."""

    decoder: Any
    pixels: _Pixels
    sets: frozenset[bytes]
    most: tuple[int, int]


@dataclass(frozen=True, slots=True)
class NvdecFrame:
    """A frame on a surface of the decoder, which writes another there when the next one is asked
    for."""

    pts: int
    corrupt: bool
    surface: Any
    writer: SurfaceWriter
    rotation: int
    bits: int

    def write_to(self, planes: Planes) -> None:
        """See `DecodedFrame.write_to`. In order on the device's stream, as is the decoder, so it is
        done before anything else is written to the surface."""
        self.writer.write(self.surface, planes, self.rotation, self.bits)


class _Memory:
    """Memory of the library, described for `Device.adopt`."""

    def __init__(self, pointer: int, shape: tuple[int, int], pitch: int, size: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": shape,
            "strides": (pitch, size),
            "typestr": "|u1" if size == 1 else "<u2",
            "data": (pointer, False),
            "version": 3,
        }


class NvdecDecoder:
    """A SegmentDecoder. Keeps one decoder open between segments, for the next that it fits.

    The driver's parser says of no frame that it was concealed: `corrupt` is what the container
    said. Spatial layers and sizes that change within a VP9 or AV1 stream are scaled by NVDEC.
    """

    name = "nvdec"
    memory: Memory = "device"

    def __init__(self, device: Device) -> None:
        """Opens no session. Raises EngineError where the library or a driver is missing."""
        self._device = device
        self._nvc = nvcodec.library()
        self._errors = nvcodec.errors(self._nvc)
        self._writer = SurfaceWriter(device)
        self._kept: _Open | None = None
        self._turn = 0  # how many segments were begun
        self._midway = False  # within the last of them
        self._caps: dict[tuple[str, int], dict[str, int]] = {}
        self.session: SessionNeed | None = SessionNeed(SessionKind.NVDEC, device.uuid, self.close)
        self.report = DecodeReport()

    def close(self) -> None:
        """Close the decoder that is kept, if there is one."""
        kept, self._kept = self._kept, None
        if kept is not None:
            # Its last reference, also where an exception keeps the frames of a call that failed;
            # the library has no other way.
            kept.decoder = None

    def decode(self, path: Path, segment: Segment, source: SourceInfo) -> Frames:
        """See `SegmentDecoder.decode`."""
        if self._midway:
            self.close()  # an iterator that nobody ran to its end, nor closed
        self._midway, whole = True, False
        self._turn += 1
        turn = self._turn
        report = self.report = DecodeReport(expected=segment.frames)
        try:
            with PacketFile(path) as packets:
                pixels = self._pixels(packets.header, source)
                feed = Feed(packets, report)
                _check_sequences(feed, pixels.codec)
                frames = self._pictures(feed, pixels, packets)
                for pts, frame in timed(frames, packets.entries, segment, source, report):
                    corrupt, surface = frame
                    report.concealed += corrupt
                    yield NvdecFrame(
                        pts, corrupt, surface, self._writer, source.rotation, pixels.bits
                    )
            whole = True
        finally:
            # An iterator that is left lives until it is collected, maybe within a later segment.
            if turn == self._turn:
                self._midway = False
                if not whole:
                    self.close()

    # --- what the GPU can do ----------------------------------------------------------------------

    def _pixels(self, header: StreamHeader, source: SourceInfo) -> _Pixels:
        """Raises EngineError when NVDEC can't, or would not do the same as the other engines."""
        bits = _BITS.get(header.pixel_format or "")
        if header.codec not in _CODECS or bits is None:
            raise EngineError(f"NVDEC is not used for {header.codec} as {header.pixel_format}.")
        if header.field_order not in (_UNKNOWN_ORDER, _PROGRESSIVE):
            raise EngineError(_INTERLACED)
        turned = source.rotation in (90, 270)
        sides = (source.height, source.width) if turned else (source.width, source.height)
        if sides != (header.width, header.height):
            raise EngineError(f"Pictures of {header.width}x{header.height} px are to be scaled.")
        pixels = _Pixels(header.codec, bits, header.width, header.height)
        self._check(pixels)
        return pixels

    def _check(self, pixels: _Pixels) -> None:
        caps = self._abilities(pixels.codec, pixels.bits)
        blocks = -(-pixels.width // 16) * -(-pixels.height // 16)
        if (
            not caps["supported"]
            or not caps["width_min"] <= pixels.width <= caps["width_max"]
            or not caps["height_min"] <= pixels.height <= caps["height_max"]
            or blocks > caps["mb_num_max"]
        ):
            raise EngineError(
                f"This GPU does not decode {pixels.codec} of {pixels.width}x{pixels.height} px and"
                f" {pixels.bits} bits."
            )

    def _abilities(self, codec: str, bits: int) -> dict[str, int]:
        """Of this GPU; asked once, as the library opens a context for it."""
        known = self._caps.get((codec, bits))
        if known is None:
            nvc = self._nvc
            chroma = getattr(nvc.cudaVideoChromaFormat, "420")
            kind = getattr(nvc.cudaVideoCodec, _CODECS[codec])
            try:
                known = nvc.GetDecoderCaps(0, kind, chroma, bits)
            except self._errors as error:
                raise nvcodec.decoding_failed(error, begun=False) from error
            self._caps[codec, bits] = known
        return known

    # --- decoding ---------------------------------------------------------------------------------

    def _pictures(
        self, feed: Feed, pixels: _Pixels, packets: PacketFile
    ) -> Iterator[tuple[int, tuple[bool, Any]]]:
        """Number of its packet, damage and surface of every frame, in display order.

        A kept decoder that fails before its first frame is opened anew once: which changes of size
        it can take, only the driver knows.
        """
        entries = packets.entries
        # VP9 and AV1 have none of their own; AV1's sequence header is in the container's.
        sets = frozenset(feed.sequences or {packets.header.extradata.encode()})
        for last_try in (False, True):
            opened, kept = self._opened(pixels, sets)
            begun = False
            try:
                for frame in self._decoded(opened, feed):
                    number = int(frame.timestamp)
                    corrupt = bool(entries[number].flags & PacketFlag.CORRUPT)
                    surface = self._surface(frame, pixels)
                    begun = True
                    yield number, (corrupt, surface)
            except EngineError:
                self.close()
                if begun or last_try or not kept:
                    raise
            except self._errors as error:
                self.close()
                failure = nvcodec.decoding_failed(error, begun=begun)
                hopeless = isinstance(failure, DeviceLostError)
                if begun or last_try or not kept or hopeless:
                    raise failure from error
            else:
                return

    def _decoded(self, opened: _Open, feed: Feed) -> Iterator[Any]:
        """All frames of the library, each valid until the next Decode."""
        for number, data in feed:
            memory = ctypes.create_string_buffer(data, len(data) + _PADDING)
            packet = self._nvc.PacketData()
            packet.bsl_data, packet.bsl = ctypes.addressof(memory), len(data)
            packet.pts = number
            yield from opened.decoder.Decode(packet)
        # An empty packet ends the stream; another one may follow it.
        while rest := opened.decoder.Decode(self._nvc.PacketData()):
            yield from rest

    def _opened(self, pixels: _Pixels, sets: frozenset[bytes]) -> tuple[_Open, bool]:
        """A decoder for such pictures, and whether it was open already."""
        kept = self._kept
        if kept is not None and self._fits(kept, pixels, sets) and self._told(kept, pixels):
            kept.sets = sets
            return kept, True
        self.close()  # one session, one decoder
        # Raises where CUDA does not work: CreateDecoder ends the process then.
        self._device.free_bytes()
        nvc = self._nvc
        try:
            decoder = nvc.CreateDecoder(
                gpuid=0,
                codec=getattr(nvc.cudaVideoCodec, _CODECS[pixels.codec]),
                cudacontext=0,
                cudastream=self._device.stream,
                usedevicememory=True,
                maxwidth=pixels.width,
                maxheight=pixels.height,
            )
        except self._errors as error:
            raise nvcodec.decoding_failed(error, begun=False) from error
        self._kept = _Open(decoder, pixels, sets, (pixels.width, pixels.height))
        return self._kept, False

    def _told(self, kept: _Open, pixels: _Pixels) -> bool:
        """Tells a kept decoder of the pictures to come; False when it is beyond use."""
        try:
            kept.decoder.setReconfigParams(pixels.width, pixels.height)
        except self._errors as error:
            failure = nvcodec.decoding_failed(error, begun=False)
            if isinstance(failure, DeviceLostError):
                raise failure from error
            return False
        kept.pixels = pixels
        return True

    @staticmethod
    def _fits(kept: _Open, pixels: _Pixels, sets: frozenset[bytes]) -> bool:
        """Not for another size that may be coded in the same one: the library keeps its surfaces
        then, of which fewer rows may be written than it shows. Nor for another stream of the same
        size: it keeps their number then, and a stream that refers to more pictures has its
        references overwritten, which nobody says."""
        before, (width, height) = kept.pixels, kept.most
        if (before.codec, before.bits) != (pixels.codec, pixels.bits):
            return False
        if pixels.width > width or pixels.height > height:
            return False
        if (before.width, before.height) == (pixels.width, pixels.height):
            return kept.sets == sets
        return _units(before) != _units(pixels)

    def _surface(self, frame: Any, pixels: _Pixels) -> Any:
        """The rows of Y, then those of U and V, as one array: they lie one behind the other.

        How far rows are apart is taken from where the planes begin: the strides that the library
        tells are of bytes or of samples, by version.
        """
        luma, chroma = frame.cuda()[:2]
        height, width = int(luma.shape[0]), int(luma.shape[1])
        kinds = self._nvc.Pixel_Format
        size = {kinds.NV12: 1, kinds.P016: 2}.get(frame.format, 0)
        start = int(luma.dataptr)
        pitch, rest = divmod(int(chroma.dataptr) - start, max(height, 1))
        if (
            # Rows have an even number of samples, one more than an odd picture.
            (width, height) != (pixels.width + pixels.width % 2, pixels.height)
            or size != (1 if pixels.bits == 8 else 2)
            or pitch < width * size
            or rest
        ):
            raise EngineError(
                f"NVDEC's surface of {width}x{height} px as {frame.format} is not as expected."
            )
        rows = height + (height + 1) // 2
        return self._device.adopt(_Memory(start, (rows, width), pitch, size))


def _units(pixels: _Pixels) -> tuple[int, int]:
    """Pictures of different ones are of different coded sizes."""
    side = _CODED_IN.get(pixels.codec, _CODED_IN_ELSE)
    return -(-pixels.width // side), -(-pixels.height // side)


def _check_sequences(feed: Feed, codec: str) -> None:
    """Raises EngineError for what NVDEC lacks, or the library shows otherwise than other engines:
    it leaves out how far a picture is shifted within what is coded, and has surfaces for the
    first of several parameter sets."""
    if len(feed.sequences) > 1:
        raise EngineError("The segment has several parameter sets for its pictures.")
    for unit in feed.sequences:
        try:
            sequence = read_sequence(unit, codec)
        except IndexError as error:
            raise EngineError("The stream's parameter sets are damaged.") from error
        if sequence.profile not in _PROFILES[codec]:
            raise EngineError(f"NVDEC is not used for profile {sequence.profile} of {codec}.")
        if not sequence.frames_only:
            raise EngineError(_INTERLACED)
        if sequence.shifted:
            raise EngineError("The pictures are shifted within what is coded.")
