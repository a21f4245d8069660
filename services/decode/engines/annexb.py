"""H.264 and HEVC packets as a hardware's parser wants them: NAL units after start codes (Annex B of
ITU-T H.264 and H.265), and the parameter sets before the first picture.

FFmpeg's bitstream filters would do it, but take parameter sets only from a container that is open.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator

from services.decode.engines.base import DecodeReport
from services.decode.packets import PacketEntry, PacketFile, PacketFlag, StreamHeader
from shared.errors import EngineError

START = b"\0\0\0\1"
_SEQUENCE_SET = {"h264": 7, "hevc": 33}
"""NAL unit type of the sequence parameter set, which says size and format of pictures."""
_SLICES = {"h264": range(1, 6), "hevc": range(32)}
_HVCC_ARRAYS, _AVCC_SETS = 22, 5
"""Where the lists of parameter sets begin (ISO/IEC 14496-15)."""


class AnnexB:
    """Converts the packets of one stream."""

    def __init__(self, header: StreamHeader) -> None:
        """Raises EngineError when the stream's parameter sets can't be read."""
        self._codec = header.codec
        extradata = b64decode(header.extradata)
        self._length = 0  # packets have start codes
        self.sets = b""
        if extradata.startswith((b"\0\0\1", START)):
            self.sets = extradata
        elif extradata:
            try:
                self._length, sets = _read(extradata, header.codec)
            except IndexError as error:
                raise EngineError("The stream's parameter sets are cut off.") from error
            self.sets = b"".join(START + each for each in sets)

    def convert(self, payload: bytes) -> tuple[bytes, bool]:
        """The packet, and whether all of it could be read; of a damaged one what could."""
        if not self._length:
            return payload, True
        parts, at = [], 0
        while at + self._length <= len(payload):
            size = int.from_bytes(payload[at : at + self._length])
            at += self._length
            parts.append(START + payload[at : at + size])
            at += size
        return b"".join(parts), at == len(payload)

    def sequence_sets(self, data: bytes) -> set[bytes]:
        """The sequence parameter sets before the first slice of a converted packet."""
        found = set()
        for unit in _units(data):
            kind = unit[0] & 31 if self._codec == "h264" else unit[0] >> 1 & 63
            if kind in _SLICES[self._codec]:
                break
            if kind == _SEQUENCE_SET[self._codec]:
                found.add(unit.rstrip(b"\0"))
        return found


def _read(extradata: bytes, codec: str) -> tuple[int, list[bytes]]:
    """Bytes of a NAL unit's length, and the parameter sets, of an avcC or hvcC record."""
    if codec == "h264":
        at, sets = _AVCC_SETS, list[bytes]()
        for mask in (31, 255):  # sequence, then picture parameter sets
            count, at = extradata[at] & mask, at + 1
            at = _take(extradata, at, count, sets)
        return (extradata[4] & 3) + 1, sets
    at, sets = _HVCC_ARRAYS + 1, []
    for _ in range(extradata[_HVCC_ARRAYS]):
        count = extradata[at + 1] << 8 | extradata[at + 2]
        at = _take(extradata, at + 3, count, sets)
    return (extradata[21] & 3) + 1, sets


def _take(data: bytes, at: int, count: int, sets: list[bytes]) -> int:
    """Add `count` units with lengths of two bytes; returns where they end."""
    for _ in range(count):
        size = data[at] << 8 | data[at + 1]
        sets.append(data[at + 2 : at + 2 + size])
        at += 2 + size
    if at > len(data):
        raise IndexError
    return at


def _units(data: bytes) -> Iterator[bytes]:
    """NAL units between start codes, without them."""
    at = data.find(b"\0\0\1")
    while at >= 0:
        begin = at + 3
        at = data.find(b"\0\0\1", begin)
        unit = data[begin : at if at >= 0 else len(data)]
        if unit:
            yield unit


class Feed:
    """The packets of one segment, converted where their codec needs it, by their numbers."""

    def __init__(self, packets: PacketFile, report: DecodeReport) -> None:
        """Counts packets of which not all could be read in `report`.

        Raises EngineError, `able` False, when the pictures' size or format may change within the
        segment: a hardware decoder would scale them to the size of the first, its own way.
        """
        self._packets = packets
        self._report = report
        self._bytes = AnnexB(packets.header) if packets.header.codec in _SEQUENCE_SET else None
        self.sequences = set[bytes]()
        """The sequence parameter sets of all pictures of the segment, as NAL units."""
        self._refuse_changes()

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """Numbers and data, in decoding order."""
        self._report.failed_packets = 0
        for number in range(len(self._packets.entries)):
            data = bytes(self._packets.packet(number))
            if self._bytes is not None:
                data, whole = self._bytes.convert(data)
                self._report.failed_packets += not whole
                data = data if number else self._bytes.sets + data
            if data:
                yield number, data

    def _refuse_changes(self) -> None:
        entries = self._packets.entries
        # A new palette is not for these codecs, so it is parameters or a size that change.
        changed = any(entry.side_data for entry in entries[1:])
        if not changed and self._bytes is not None:
            changed = self._has_other_sets(self._bytes, entries)
        if changed:
            raise EngineError("The segment's parameter sets change in mid-stream.")

    def _has_other_sets(self, converter: AnnexB, entries: tuple[PacketEntry, ...]) -> bool:
        """Whether a later keyframe brings a sequence set that the first does not have. Reads the
        keyframes a second time, which come from the system's cache then."""
        known = set[bytes]()
        for number, entry in enumerate(entries):
            if number and not entry.flags & PacketFlag.KEY:
                continue
            data, _ = converter.convert(bytes(self._packets.packet(number)))
            found = converter.sequence_sets(data)
            if not number:
                known = found or converter.sequence_sets(converter.sets)
                self.sequences = known
            elif known and not found <= known:
                return True
        return False
