"""The segment object: one stream's packets in a plain file, with nothing re-timed.

Why not a container: NUT chooses another time base, refuses negative, missing and repeated times,
drops the flags that say "decode but don't show", and every container has to be probed, which
decodes frames, each time a segment is opened. Here every value comes back as it was.

    magic "DFSEG1\\r\\n", u32 length, that many bytes of JSON (StreamHeader)
    per packet: <q pts> <q dts> <q duration> <I size> <B flags> <B side data count>, then
                per side data <B type> <I size> <bytes>, then the payload
    end: a packet record with flag END whose pts is the number of packets before it

All little-endian; an absent time is the smallest i64. Side data types are FFmpeg's AVPacketSideData
numbers.
"""

from __future__ import annotations

import struct
from base64 import b64decode, b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, TypeAlias

from av.packet import Packet, PacketSideData, PktSideDataT
from av.stream import Stream
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from shared.errors import ErrorCode, PermanentError
from shared.jobs import Model, Ratio

AnyPacket: TypeAlias = "Packet[Stream]"

_MAGIC = b"DFSEG1\r\n"
_LENGTH = struct.Struct("<I")
_RECORD = struct.Struct("<qqqIBB")
_SIDE = struct.Struct("<BI")
_NO_TIME = -(1 << 63)
_MOST_HEADER_BYTES = 16 << 20

# What decoders read beside the payload: a new palette, new parameter sets, a changed size.
_KEPT_SIDE_DATA: dict[PktSideDataT, int] = {"palette": 0, "new_extradata": 1, "param_change": 2}


class PacketFlag(IntFlag):
    """What is to be known about a packet besides its bytes."""

    KEY = 1
    CORRUPT = 2
    HIDDEN = 4
    """Decoded for others' sake, never shown: before an edit list's start, or an alt-ref frame."""
    END = 128


class StreamHeader(Model):
    """What a decoder has to know before the first packet."""

    codec: str
    decoder: str
    """FFmpeg's software decoder for it, whose name may differ (libdav1d for av1)."""
    width: int
    height: int
    pixel_format: str | None
    codec_tag: str
    bits_per_coded_sample: int
    reorder_depth: int
    field_order: int
    time_base: Ratio
    extradata: str

    @classmethod
    def of(cls, stream: VideoStream, extradata: bytes | None = None) -> Self:
        """Header for packets of `stream`; `extradata` where newer than the container's."""
        context = stream.codec_context
        data = context.extradata if extradata is None else extradata
        assert stream.time_base is not None
        return cls(
            codec=context.codec.canonical_name,
            decoder=context.codec.name,
            width=context.width,
            height=context.height,
            pixel_format=context.pix_fmt,
            codec_tag=context.codec_tag,
            bits_per_coded_sample=context.bits_per_coded_sample,
            reorder_depth=context.reorder_depth,
            field_order=context.field_order,
            time_base=(stream.time_base.numerator, stream.time_base.denominator),
            extradata=b64encode(data or b"").decode(),
        )

    def apply(self, context: VideoCodecContext) -> None:
        """Prepare a decoder that is not open yet."""
        context.width, context.height = self.width, self.height
        if self.pixel_format:
            context.pix_fmt = self.pixel_format
        if self.codec_tag.isascii() and len(self.codec_tag) == 4:
            context.codec_tag = self.codec_tag
        context.bits_per_coded_sample = self.bits_per_coded_sample
        # Without it a decoder that learns of B-frames late shows frames too early, out of order.
        context.reorder_depth = self.reorder_depth
        context.field_order = self.field_order
        if self.extradata:
            context.extradata = b64decode(self.extradata)


@dataclass(frozen=True, slots=True)
class PacketEntry:
    """One packet without its payload; times in ticks of the stream's time base."""

    pts: int | None
    dts: int | None
    duration: int
    flags: PacketFlag
    size: int
    offset: int
    """Where its side data and payload begin in the file."""
    side_data: int

    @property
    def shown(self) -> bool:
        """False for a packet that yields no frame of its own."""
        return not self.flags & PacketFlag.HIDDEN


class PacketWriter:
    """Writes one segment object; nothing but the operating system's buffers is kept in memory."""

    def __init__(self, path: Path, header: StreamHeader) -> None:
        self.path = path
        self.packets = 0
        self._file = path.open("wb", buffering=1 << 20)
        data = header.model_dump_json().encode()
        self._file.write(_MAGIC + _LENGTH.pack(len(data)) + data)

    def write(self, packet: AnyPacket, flags: PacketFlag) -> None:
        """Append `packet`; `flags` replace its own."""
        side = [(n, packet.get_sidedata(t)) for t, n in _KEPT_SIDE_DATA.items()]
        kept = [(number, bytes(data)) for number, data in side if data]
        self._file.write(
            _RECORD.pack(
                _NO_TIME if packet.pts is None else packet.pts,
                _NO_TIME if packet.dts is None else packet.dts,
                packet.duration or 0,
                packet.size,
                flags,
                len(kept),
            )
        )
        for number, data in kept:
            self._file.write(_SIDE.pack(number, len(data)) + data)
        if packet.size:
            self._file.write(memoryview(packet))
        self.packets += 1

    def mark(self) -> tuple[int, int]:
        """Where the file stands now, for `rewind`."""
        return self._file.tell(), self.packets

    def rewind(self, mark: tuple[int, int]) -> None:
        """Forget the packets written since `mark`."""
        self._file.seek(mark[0])
        self._file.truncate()
        self.packets = mark[1]

    def close(self) -> int:
        """Write the end mark; returns the size of the file in bytes."""
        self._file.write(_RECORD.pack(self.packets, _NO_TIME, 0, 0, PacketFlag.END, 0))
        size = self._file.tell()
        self._file.close()
        return size

    def abandon(self) -> None:
        """Close without the end mark and remove the file."""
        self._file.close()
        self.path.unlink(missing_ok=True)


class PacketFile:
    """Reads a segment object: header and table at once, payloads one at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO = path.open("rb")
        try:
            self.header = self._read_header()
            self.entries = tuple(self._read_table())
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def packet(self, index: int) -> AnyPacket:
        """Packet `index` with payload, side data and flags, its times unset.

        The payload is followed by the zeros that decoders read beyond a packet's end.
        """
        entry = self.entries[index]
        packet = Packet(entry.size)
        self._file.seek(entry.offset)
        for _ in range(entry.side_data):
            number, size = _SIDE.unpack(self._file.read(_SIDE.size))
            # The stubs leave the constructor out; it takes type and size.
            side = PacketSideData(number, size)  # type: ignore[call-arg]
            side.update(self._file.read(size))
            side.to_packet(packet, move=True)
        if entry.size and self._file.readinto(memoryview(packet)) != entry.size:  # type: ignore[attr-defined]
            raise self._damaged()
        packet.is_keyframe = bool(entry.flags & PacketFlag.KEY)
        packet.is_corrupt = bool(entry.flags & PacketFlag.CORRUPT)
        return packet

    def _read_header(self) -> StreamHeader:
        prefix = self._file.read(len(_MAGIC) + _LENGTH.size)
        if len(prefix) != len(_MAGIC) + _LENGTH.size or not prefix.startswith(_MAGIC):
            raise self._damaged()
        (length,) = _LENGTH.unpack(prefix[len(_MAGIC) :])
        if length > _MOST_HEADER_BYTES:
            raise self._damaged()
        try:
            return StreamHeader.model_validate_json(self._file.read(length))
        except ValueError as error:
            raise self._damaged() from error

    def _read_table(self) -> Iterator[PacketEntry]:
        count = 0
        while True:
            record = self._file.read(_RECORD.size)
            if len(record) != _RECORD.size:
                raise self._damaged()
            pts, dts, duration, size, flags, side_data = _RECORD.unpack(record)
            if flags & PacketFlag.END:
                if pts != count:
                    raise self._damaged()
                return
            offset = self._file.tell()
            for _ in range(side_data):
                side = self._file.read(_SIDE.size)
                if len(side) != _SIDE.size:
                    raise self._damaged()
                self._file.seek(_SIDE.unpack(side)[1], 1)
            self._file.seek(size, 1)
            count += 1
            yield PacketEntry(
                None if pts == _NO_TIME else pts,
                None if dts == _NO_TIME else dts,
                duration,
                PacketFlag(flags),
                size,
                offset,
                side_data,
            )

    def _damaged(self) -> PermanentError:
        return PermanentError(
            ErrorCode.INTERNAL,
            f"Segment {self._path.name} is damaged or incomplete: split the source again.",
        )
