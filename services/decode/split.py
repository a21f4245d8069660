"""Cuts a source into segments at keyframes, without re-encoding, in one pass over the file.

With open GOPs the keyframe that ends a segment, and the packets behind it up to its last leading
picture, are written to both neighbours: the leading pictures need both GOPs to be decoded. The
earlier segment owns them by their pts; the later one can't decode them and does not show them.
"""

from __future__ import annotations

from collections.abc import Iterator
from errno import EDQUOT, ENOSPC
from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Discard
from av.video.stream import VideoStream

from services.decode.access import random_access, shows_nothing
from services.decode.packets import AnyPacket, PacketFlag, PacketWriter, StreamHeader
from services.decode.plan import Keyframe, long_enough, may_cut
from shared.errors import ErrorCode, PermanentError, TemporaryError
from shared.jobs import Segment, SourceInfo
from shared.media.bounds import LONGEST_GAP, memory_at_most, plain_time, too_large
from shared.media.probe import (
    large_packet,
    long_video,
    many_frames,
    open_source,
    slow_reading,
)
from shared.settings import SourceLimits

# A demuxer that fails this often in a row has nothing more to give.
_MOST_READ_ERRORS = 32
# Without dts the end of a keyframe's leading pictures can't be known: none reorders further.
_MOST_LEADING = 64


def split(
    path: Path,
    source: SourceInfo,
    folder: Path,
    target_s: float,
    limits: SourceLimits | None = None,
) -> Iterator[tuple[Segment, Path]]:
    """Cut the source into segments of about `target_s` seconds, at least one GOP each.

    Yields each segment as soon as its file in `folder` is complete; the caller may remove the file.
    Memory does not grow with the length of a GOP. `Segment.key` is the file's name. Raises
    PermanentError when there is nothing to decode, the file is not the one `source` describes or
    holds more than `limits` (default: the environment's), whatever its header said;
    TemporaryError when the disk is full.
    """
    limits = limits or SourceLimits.load()
    with open_source(path, limits) as container, memory_at_most(limits.memory_mib):
        stream = _chosen(container, source)
        splitter = _Splitter(stream, source, folder, target_s, limits)
        meter = _Meter(source, path.stat().st_size, limits)
        try:
            for packet in _packets(container, stream, limits):
                meter.count(packet)
                yield from splitter.take(packet)
            yield from splitter.finish()
        except OSError as error:
            if error.errno in (ENOSPC, EDQUOT):
                raise TemporaryError(
                    ErrorCode.NO_SPACE, f"No space left in {folder} for segments: free some.", 30.0
                ) from error
            raise
        finally:
            splitter.abandon()


class _Meter:
    """Counts what a header may lie about, packet by packet."""

    def __init__(self, source: SourceInfo, size_bytes: int, limits: SourceLimits) -> None:
        self._source = source
        self._limits = limits
        # The constant is for tiny files, whose packets may be mostly what the container leaves out.
        self._most_bytes = size_bytes * limits.expansion + (1 << 20)
        self._most_ticks = limits.duration_s / source.tick_s
        self._packets = self._bytes = 0
        self._earliest: int | None = None
        self._latest = 0

    def count(self, packet: AnyPacket) -> None:
        """Count `packet` in; takes a time away from it that can't be one. Raises TOO_LARGE."""
        limits = self._limits
        if packet.size > limits.packet_bytes:
            raise large_packet(packet.size, limits)
        self._packets += 1
        if self._packets > limits.frames:
            raise many_frames(self._packets, limits)
        self._bytes += packet.size
        if self._bytes > self._most_bytes:
            raise too_large(
                f"The file unpacks to over {limits.expansion} times its size, more than",
                "expansion",
                "its index names the same data again and again, so get or make it anew",
            )
        packet.pts, packet.dts = plain_time(packet.pts), plain_time(packet.dts)
        if packet.pts is not None and not self._source.generated_times:
            self._check_span(packet.pts)

    def _check_span(self, pts: int) -> None:
        if self._earliest is None:
            self._earliest = self._latest = pts
        if pts - self._latest > LONGEST_GAP:
            gap_s = float((pts - self._latest) * self._source.tick_s)
            raise PermanentError(
                ErrorCode.TOO_LARGE,
                f"A frame is shown {gap_s:.0f} s after the one before, longer than a result with "
                "its time base can hold: cut the gap out, or repair the times.",
            )
        self._earliest, self._latest = min(self._earliest, pts), max(self._latest, pts)
        length = self._latest - self._earliest
        if length > self._most_ticks:
            raise long_video(float(length * self._source.tick_s), self._limits)


def _chosen(container: InputContainer, source: SourceInfo) -> VideoStream:
    for stream in container.streams:
        if stream.index != source.stream:
            stream.discard = Discard.all
    chosen = [s for s in container.streams.video if s.index == source.stream]
    base = chosen[0].time_base if chosen else None
    if base is None or (base.numerator, base.denominator) != source.time_base:
        raise PermanentError(
            ErrorCode.SOURCE_CHANGED,
            "The source is no longer the file that was measured: submit the job again.",
        )
    return chosen[0]


def _packets(
    container: InputContainer, stream: VideoStream, limits: SourceLimits
) -> Iterator[AnyPacket]:
    """Packets of `stream` in file order; reading goes on behind damaged places."""
    errors = 0
    while errors < _MOST_READ_ERRORS:
        try:
            packet: AnyPacket
            for packet in container.demux([stream]):
                # The demuxer's flush marker has neither payload nor times.
                if packet.size or packet.pts is not None:
                    errors = 0
                    yield packet
        except IndexError:
            # PyAV at the end of a file in which streams appeared that it doesn't know.
            return
        except MemoryError:
            raise
        except av.error.ExitError as error:
            raise slow_reading(limits) from error
        except av.error.FFmpegError:
            errors += 1
        else:
            return


def _later(pts: int, other: int | None) -> int:
    return pts if other is None else max(pts, other)


class _Open:
    """A segment being written, and what is known of it so far."""

    def __init__(self, index: int, first_pts: int | None, writer: PacketWriter) -> None:
        self.index = index
        self.first_pts = first_pts
        self.begins: int | None = first_pts
        self.end_pts: int | None = None
        self.frames = 0
        self.latest_owned: int | None = None
        self.waiting = 0
        self.writer = writer
        self.needed = writer.mark()

    def owns(self, pts: int | None) -> bool:
        """By the half-open interval; a packet without pts belongs where it lies."""
        if pts is None:
            return self.end_pts is None
        after_start = self.first_pts is None or pts >= self.first_pts
        return after_start and (self.end_pts is None or pts < self.end_pts)

    def add(self, packet: AnyPacket, flags: PacketFlag) -> None:
        self.writer.write(packet, flags)
        if packet.pts is not None and self.begins is None:
            self.begins = packet.pts
        if not self.owns(packet.pts):
            return
        self.needed = self.writer.mark()
        if flags & PacketFlag.HIDDEN:
            return
        self.frames += 1
        if packet.pts is not None:
            self.latest_owned = _later(packet.pts, self.latest_owned)


class _Splitter:
    """Holds at most two open segments: the current one, and its predecessor while the keyframe
    between them may still have leading pictures."""

    def __init__(
        self,
        stream: VideoStream,
        source: SourceInfo,
        folder: Path,
        target_s: float,
        limits: SourceLimits,
    ) -> None:
        self._most_segments = limits.segments
        self._stream = stream
        self._source = source
        self._folder = folder
        self._target_s = target_s
        self._clean = random_access(stream.codec_context)
        self._extradata: bytes | None = None
        self._latest_pts: int | None = None
        self._shown_pts: int | None = None
        self._ending: _Open | None = None
        self._current: _Open | None = self._begin(0, None)

    def take(self, packet: AnyPacket) -> Iterator[tuple[Segment, Path]]:
        """Write one packet where it belongs; yields the segment that became complete by it."""
        assert self._current is not None
        if packet.has_sidedata("new_extradata"):
            self._extradata = bytes(packet.get_sidedata("new_extradata"))
        flags = self._flags(packet)
        if self._ending is not None and self._leading_over(packet, self._ending):
            complete, self._ending = self._ending, None
            yield self._close(complete)
        if self._ending is None and self._cuts(packet, self._current):
            self._ending, self._ending.end_pts = self._current, packet.pts
            self._current = self._begin(self._ending.index + 1, packet.pts)
        if self._ending is not None:
            self._ending.add(packet, flags)
        self._current.add(packet, flags)
        if packet.pts is not None:
            self._latest_pts = _later(packet.pts, self._latest_pts)

    def finish(self) -> Iterator[tuple[Segment, Path]]:
        """Close what is open at the end of the file."""
        assert self._current is not None
        if self._ending is not None:
            complete, self._ending = self._ending, None
            yield self._close(complete)
        if self._current.index == 0 and self._current.frames == 0:
            raise PermanentError(
                ErrorCode.TOO_DAMAGED,
                "The video stream holds no frames: the file is damaged or was cut off.",
            )
        last, self._current = self._current, None
        yield self._close(last)

    def abandon(self) -> None:
        """Remove unfinished files, after an error or when the consumer stopped early."""
        for part in (self._ending, self._current):
            if part is not None:
                part.writer.abandon()
        self._ending = self._current = None

    def _begin(self, index: int, first_pts: int | None) -> _Open:
        path = self._folder / f"segment-{index:06d}.packets"
        header = StreamHeader.of(self._stream, self._extradata)
        return _Open(index, first_pts, PacketWriter(path, header))

    def _flags(self, packet: AnyPacket) -> PacketFlag:
        flags = PacketFlag(0)
        if packet.is_keyframe:
            flags |= PacketFlag.KEY
        if packet.is_corrupt:
            flags |= PacketFlag.CORRUPT
        codec = self._source.codec
        if packet.is_discard or shows_nothing(codec, bytes(memoryview(packet)[:1])):
            flags |= PacketFlag.HIDDEN
        return flags

    def _cuts(self, packet: AnyPacket, current: _Open) -> bool:
        """Cheap conditions first: the payload is copied only for keyframes that matter."""
        if not packet.is_keyframe or packet.is_corrupt or packet.is_discard:
            return False
        if self._source.generated_times or packet.pts is None or current.begins is None:
            return False
        if current.index + 1 >= self._most_segments:
            return False
        tick_s = self._source.tick_s
        if current.frames == 0 or not long_enough(
            current.begins, packet.pts, tick_s, self._target_s
        ):
            return False
        return may_cut(Keyframe(packet.pts, self._clean(bytes(packet)), self._latest_pts))

    def _leading_over(self, packet: AnyPacket, ending: _Open) -> bool:
        """True when no packet from here on can be shown before the keyframe that ended `ending`.

        No packet is shown before it is decoded, and dts ascend: past the keyframe's pts all are.
        """
        assert ending.end_pts is not None
        ending.waiting += 1
        if packet.dts is None:
            return ending.waiting > _MOST_LEADING
        return packet.dts >= ending.end_pts

    def _close(self, part: _Open) -> tuple[Segment, Path]:
        if part.end_pts is not None:
            # What follows its last leading picture was written in vain.
            part.writer.rewind(part.needed)
        size = part.writer.close()
        segment = Segment(
            index=part.index,
            key=part.writer.path.name,
            first_pts=part.first_pts,
            end_pts=part.end_pts,
            frames=part.frames,
            previous_pts=self._shown_pts,
            size_bytes=size,
        )
        if part.latest_owned is not None:
            self._shown_pts = part.latest_owned
        return segment, part.writer.path
