"""Join the chunks of a job and the sound of its source into the result."""

from __future__ import annotations

import heapq
import math
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal, TypeAlias

import av
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from services.encode.check import check_result
from services.encode.chunks import (
    Chunk,
    open_template,
    peek_header,
    read_chunk,
    write_error,
)
from services.encode.descriptions import describe, in_band
from services.encode.ending import end_of_picture
from services.encode.sound import SoundTrack, Span, left_out, open_sounds
from services.encode.times import DecodeClock, display_durations, movie_timescale, start_shift
from shared.errors import ErrorCode, PermanentError
from shared.jobs import Codec, Model, OutputPlan, Ratio, SourceInfo
from shared.media.bounds import LONGEST_GAP, memory_at_most
from shared.media.sound import add_copied_sound
from shared.settings import SourceLimits

Container = Literal["mp4", "mov"]

LAST_FRAME_S = 3600
"""How long the last frame is shown at most; only a damaged duration says more."""

_MAY_BE_THE_SOUND = (ErrorCode.CHECK_FAILED, ErrorCode.OUTPUT_UNWRITABLE)
_TIMES_TOO_LARGE = (
    "The times of the source are larger than a result can hold; repair them and submit it again."
)
AnyPacket: TypeAlias = "Packet[VideoStream] | Packet[AudioStream]"


class MuxReport(Model):
    """What became of the job's pieces. `shift` in seconds, added to all times (0 as a rule).

    `warnings` are sentences for people.
    """

    frames: int
    size_bytes: int
    duration_s: float
    shift: Ratio = (0, 1)
    sounds_copied: int = 0
    sounds_encoded: int = 0
    warnings: tuple[str, ...] = ()


def mux(
    chunks: Sequence[Path],
    sound: Path | None,
    source: SourceInfo,
    output: OutputPlan,
    container: Container,
    destination: Path,
    expected_pts: Sequence[int] | None = None,
    limits: SourceLimits | None = None,
    on_step: Callable[[], None] = lambda: None,
) -> MuxReport:
    """Write the result to `destination`, checked, in one step; on any error nothing is left.

    `chunks` in display order; `sound` is the source itself, None for a silent result.
    `expected_pts` of all frames in display order, where somebody counted them independently of the
    chunks. Nothing is decoded or encoded, except sound that `source` says can't be copied. Memory
    does not depend on the length, but for the muxer's index (some 100 bytes per frame).

    Sound never fails a video: what can't be joined or checked as it is, is encoded anew, and left
    out where that fails, too; a warning says so. `limits` default to those of the environment.
    `on_step` is called for every packet; what it raises ends the work, and leaves nothing.

    Raises TemporaryError STAGE_FAILED naming a chunk that is missing or damaged, NO_SPACE;
    PermanentError OUTPUT_UNWRITABLE, CHECK_FAILED, TOO_LARGE.
    """
    if not chunks:
        raise PermanentError(ErrorCode.SOURCE_EMPTY, "There are no frames to join.")
    limits = limits or SourceLimits.load()
    notes = left_out(sound, source, limits) if sound is not None else []
    first: PermanentError | None = None
    for facts, note in _with_less_sound(source if sound is not None else _silent(source)):
        try:
            job = chunks, sound, facts, output
            report = _mux(job, container, destination, expected_pts, limits, on_step)
            warnings = (*notes, *note, *report.warnings)
            return report.model_copy(update={"warnings": warnings})
        except PermanentError as error:
            if error.code not in _MAY_BE_THE_SOUND:
                raise
            first = first or error
    assert first is not None
    raise first


def _with_less_sound(source: SourceInfo) -> Iterator[tuple[SourceInfo, list[str]]]:
    """What to try one after the other, and what to say about it."""
    yield source, []
    if any(info.copied for info in source.sounds):
        anew = tuple(info.model_copy(update={"copied": False}) for info in source.sounds)
        told = (
            "The sound can't be kept as it is, probably since it is damaged; it was encoded anew."
        )
        yield source.model_copy(update={"sounds": anew}), [told]
    if source.sounds:
        yield _silent(source), ["The sound is too damaged to be kept; it was left out."]


def _silent(source: SourceInfo) -> SourceInfo:
    return source.model_copy(update={"sounds": ()})


def _mux(
    job: tuple[Sequence[Path], Path | None, SourceInfo, OutputPlan],
    container: Container,
    destination: Path,
    expected_pts: Sequence[int] | None,
    limits: SourceLimits,
    on_step: Callable[[], None],
) -> MuxReport:
    """One try."""
    part = destination.with_name(f".{destination.name}.{os.getpid()}.part")
    with ExitStack() as stack:
        stack.callback(part.unlink, missing_ok=True)
        try:
            stack.enter_context(memory_at_most(limits.memory_mib))
            joined = _Join(stack, *job, part, limits)
            joined.write(container, on_step)
            report = joined.check(expected_pts)
            _settle(part, destination)
        except OverflowError as error:
            raise PermanentError(ErrorCode.CHECK_FAILED, _TIMES_TOO_LARGE) from error
        except (OSError, av.FFmpegError) as error:
            raise write_error(error, destination) from error
    return report


def _settle(part: Path, destination: Path) -> None:
    """Make `part` the destination, also after a power cut."""
    _sync(part)
    os.replace(part, destination)
    _sync(destination.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@dataclass(frozen=True)
class _Timing:
    """Pure outcome of all starts: see times.start_shift and times.movie_timescale."""

    track_timescale: int
    movie_timescale: int
    shift: Fraction

    @classmethod
    def plan(cls, output: OutputPlan, first_pts: int, tracks: Sequence[SoundTrack]) -> _Timing:
        video_start = first_pts * Fraction(*output.time_base)
        starts = [video_start, *(track.start for track in tracks)]
        track_timescale = output.time_base[1]
        rates = [track_timescale, *(track.rate for track in tracks)]
        shift = start_shift(starts, video_start, rates)
        # a start that is no whole sample is written as the nearest one
        placed = [
            Fraction(math.floor((start + shift) * rate + Fraction(1, 2)), rate)
            for start, rate in zip(starts, rates, strict=True)
        ]
        return cls(track_timescale, movie_timescale(rates, placed), shift)


class _Join:
    """The state of one mux: what is read, where to, and what has passed."""

    def __init__(
        self,
        stack: ExitStack,
        chunks: Sequence[Path],
        sound: Path | None,
        source: SourceInfo,
        output: OutputPlan,
        part: Path,
        limits: SourceLimits,
    ) -> None:
        self._chunks, self._source, self._output, self._part = chunks, source, output, part
        self._sound = sound
        self._limits = limits
        self._first = read_chunk(chunks[0], 0)
        self._template = open_template(stack, chunks[0])
        self._warnings: list[str] = []
        found: list[SoundTrack] = []
        if sound is not None:
            span = self._span()
            found, self._warnings = open_sounds(stack, sound, source, part, span, limits)
        self._tracks = [track for track in found if self._keeps(track)]
        self._timing = _Timing.plan(output, self._first.note.first_pts, self._tracks)
        self._pts = array("q")

    def _span(self) -> Span:
        """When the picture begins and ends (but for its last frame's length), seconds."""
        last = read_chunk(self._chunks[-1], len(self._chunks) - 1)
        tick_s = Fraction(*self._output.time_base)
        return self._first.note.first_pts * tick_s, last.note.last_pts * tick_s

    def _keeps(self, track: SoundTrack) -> bool:
        """True for sound that has packets, and those near the picture; else a warning is noted."""
        apart = track.start - self._first.note.first_pts * Fraction(*self._output.time_base)
        if not track.empty and abs(apart) <= self._limits.duration_s:
            return True
        reason = "is empty" if track.empty else f"begins {float(apart):.0f} s from the picture"
        self._warnings.append(f"Sound stream {track.info.stream} {reason} and was left out.")
        return False

    def write(self, container: Container, on_step: Callable[[], None]) -> None:
        """Write the file: header, packets of all streams by decode time, index moved to front."""
        options = {
            # the index first, so that players can start before the whole file is there
            "movflags": "+faststart",
            "video_track_timescale": str(self._timing.track_timescale),
            "movie_timescale": str(self._timing.movie_timescale),
        }
        name = f"file:{self._part}"
        with av.open(name, "w", format=container, container_options=options) as out:
            video = self._add_video(out)
            streams: list[Iterator[AnyPacket]] = [self._video_packets(video)]
            for track in self._tracks:
                added = _add_sound(out, track)
                streams.append(track.packets(added, self._timing.shift))
            for packet in _merged(streams):
                on_step()
                out.mux(packet)

    def _add_video(self, out: OutputContainer) -> VideoStream:
        stream = out.add_stream_from_template(self._template, opaque=True)
        stream.time_base = Fraction(1, self._timing.track_timescale)
        if self._output.codec is Codec.HEVC:
            # Apple's players take HEVC only with parameter sets in the header, called hvc1
            stream.codec_context.codec_tag = "hvc1"
        return stream

    def _video_packets(self, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
        depth, mixed = self._kinds()
        clock = DecodeClock(depth)
        num, den = self._output.time_base
        shift = int(self._timing.shift * den)
        described = self._first.note.header_sha256
        for chunk, end, last in self._with_ends():
            if mixed and self._output.codec is Codec.H264:
                chunk.packets[0] = in_band(chunk.packets[0], chunk.header)
            if chunk.note.header_sha256 != described:
                # Of another encoder: the track gets another description (sample entry), once.
                described = chunk.note.header_sha256
                describe(chunk.packets[0], chunk.header)
            times = clock.times(chunk.pts)
            lengths = display_durations(chunk.pts, end)
            if last:
                # A track lasts from its first to its last dts and that sample's length. Shown when
                # decoded, the last sample ends it where the picture ends, however frames reorder.
                times[-1], lengths[-1] = chunk.pts[-1], end - chunk.pts[-1]
            _check_gaps(chunk.pts, times, lengths, Fraction(num, den))
            self._pts.extend(sorted(chunk.pts))
            for packet, pts, dts, length in zip(
                chunk.packets, chunk.pts, times, lengths, strict=True
            ):
                packet.time_base = Fraction(1, den)
                packet.pts, packet.dts = pts * num + shift, dts * num + shift
                packet.duration = length * num
                packet.stream = stream
                yield packet

    def _kinds(self) -> tuple[int, bool]:
        """The largest reorder depth that any chunk's parameter sets say, and whether there are
        several of these; most jobs have chunks of one kind."""
        kinds = {peek_header(path): (i, path) for i, path in enumerate(self._chunks[1:], 1)}
        own = self._first.note.header_sha256
        others = [place for kind, place in kinds.items() if kind not in (own, "")]
        depths = [read_chunk(path, index).reorder_depth for index, path in others]
        return max([self._first.reorder_depth, *depths]), bool(others)

    def _with_ends(self) -> Iterator[tuple[Chunk, int, bool]]:
        """Each chunk, the time its last frame ends, and whether no other follows."""
        current = self._first
        for index, path in enumerate(self._chunks[1:], 1):
            following = read_chunk(path, index)
            self._check_joins(index, current, following)
            yield current, following.note.first_pts, False
            current = following
        shown = sorted(current.pts)
        before = shown[-2] if len(shown) > 1 else None
        try:
            end = end_of_picture(self._sound, self._source, self._output, shown[-1], before)
        except IndexError:
            # PyAV at the end of a file in which streams appeared that it doesn't know.
            end = end_of_picture(None, self._source, self._output, shown[-1], before)
        longest = max(1, int(LAST_FRAME_S / Fraction(*self._output.time_base)))
        yield current, min(end, shown[-1] + min(longest, LONGEST_GAP)), True

    def _check_joins(self, index: int, current: Chunk, following: Chunk) -> None:
        reason = ""
        first = self._first
        if (following.codec, following.size) != (first.codec, first.size):
            reason = "was encoded with other settings than the first"
        elif following.note.time_base != self._output.time_base:
            reason = "counts in another time base"
        elif following.note.first_pts <= current.note.last_pts:
            reason = "begins before the one before it ends"
        if reason:
            raise PermanentError(
                ErrorCode.STAGE_FAILED, f"Chunk {index} {reason}; encode the job again."
            )

    def check(self, expected_pts: Sequence[int] | None) -> MuxReport:
        """Check what was written and say what it is."""
        facts = [track.digest.facts() for track in self._tracks]
        expected = self._pts if expected_pts is None else expected_pts
        checked = check_result(self._part, expected, self._output, facts, self._timing.shift)
        shift = self._timing.shift
        copied = sum(track.info.copied for track in self._tracks)
        return MuxReport(
            frames=checked.frames,
            size_bytes=self._part.stat().st_size,
            duration_s=checked.duration_s,
            shift=(shift.numerator, shift.denominator),
            sounds_copied=copied,
            sounds_encoded=len(self._tracks) - copied,
            warnings=(*self._warnings, *(t.warning for t in self._tracks if t.warning)),
        )


def _check_gaps(
    pts: Sequence[int], dts: Sequence[int], lengths: Sequence[int], tick_s: Fraction
) -> None:
    """Raise TOO_LARGE for what the 32 bits of a sample table can't hold."""
    leads = (shown - decoded for shown, decoded in zip(pts, dts, strict=True))
    longest = max(*lengths, *leads)
    if longest > LONGEST_GAP:
        raise PermanentError(
            ErrorCode.TOO_LARGE,
            f"A frame is shown for {float(longest * tick_s):.0f} s, longer than a result with the "
            "source's time base can hold: cut the gap out, or repair the times.",
        )


def _add_sound(out: OutputContainer, track: SoundTrack) -> AudioStream:
    stream = add_copied_sound(out, track.template)
    stream.time_base = Fraction(1, track.rate)
    stream.metadata.update(track.tags)
    stream.disposition = track.disposition
    return stream


def _merged(streams: Sequence[Iterable[AnyPacket]]) -> Iterator[AnyPacket]:
    """Packets of all streams by decode time; takes one at a time from each."""
    return heapq.merge(*streams, key=lambda packet: (packet.dts or 0) * packet.time_base)
