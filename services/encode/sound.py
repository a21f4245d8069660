"""The source's sound streams as packets of the result: copied, or made AAC where they must be."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import ExitStack
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TypeAlias, cast

import av
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.bitstream import BitStreamFilterContext
from av.container import InputContainer, OutputContainer
from av.filter import Graph
from av.packet import Packet
from av.stream import Discard

from services.encode.chunks import NO_SPACE
from services.encode.times import SoundClock
from shared.errors import PermanentError
from shared.jobs import Model, SoundInfo, SourceInfo
from shared.media.bounds import LONGEST_GAP, plain_time
from shared.media.probe import open_source
from shared.settings import SourceLimits

SoundPacket: TypeAlias = "Packet[AudioStream]"

AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)
"""Sampling frequencies of ISO/IEC 14496-3, table 1.18, Hz (7350 left out)."""

AAC_BITS_PER_CHANNEL = 96_000
"""Bits per second; FFmpeg's own encoder is transparent for most ears there."""


SILENCE_S = 1
"""Longest gap in time that is left to the resampler to fill: it fills all at once, in memory."""

AROUND_S = 60
"""How far from the picture a longer gap than that is still filled; else a wrong time in a second of
sound would make a day of silence."""

Span = tuple[Fraction, Fraction]
"""Start and end, seconds in the source's time."""

TAGS = ("language", "title")
"""What of a stream's metadata is kept."""


class SoundFacts(Model):
    """What went into one sound track; enough to know it again. Times in samples of `rate`."""

    stream: int
    codec: str
    rate: int
    packets: int
    size_bytes: int
    first: int
    last: int
    times_sha256: str
    payload_sha256: str


class SoundDigest:
    """Collects SoundFacts from packets as they pass."""

    def __init__(self, stream: int, codec: str, rate: int) -> None:
        self._stream, self._codec, self.rate = stream, codec, rate
        self._packets = self._bytes = self._first = self._last = 0
        self._times, self._payload = hashlib.sha256(), hashlib.sha256()

    def add(self, place: int, payload: memoryview) -> None:
        """Count a packet that begins at sample `place`."""
        if not self._packets:
            self._first = place
        self._last = place
        self._packets += 1
        self._bytes += payload.nbytes
        self._times.update(b"%d " % place)
        self._payload.update(payload)

    @property
    def size_bytes(self) -> int:
        """Of all packets so far."""
        return self._bytes

    def facts(self) -> SoundFacts:
        """What has passed so far."""
        return SoundFacts(
            stream=self._stream,
            codec=self._codec,
            rate=self.rate,
            packets=self._packets,
            size_bytes=self._bytes,
            first=self._first,
            last=self._last,
            times_sha256=self._times.hexdigest(),
            payload_sha256=self._payload.hexdigest(),
        )


class SoundTrack:
    """One sound stream, read from a container of its own.

    So the others' packets are skipped by the demuxer, and the memory used does not depend on how
    the source interleaves its streams. `start` in seconds, of the first packet (decoder priming
    before time 0 included). A stream that holds more than `limits` ends there, with a warning.
    """

    def __init__(
        self,
        info: SoundInfo,
        source: InputContainer,
        stream: AudioStream,
        limits: SourceLimits,
        warning: str = "",
    ) -> None:
        self.info = info
        self.template = stream
        self.rate = stream.codec_context.sample_rate
        self.warning = warning
        self.tags = {key: stream.metadata[key] for key in TAGS if key in stream.metadata}
        self.disposition = stream.disposition
        self._limits = limits
        self._most_bytes = source.size * limits.expansion + (1 << 20)
        self._tick = Fraction(stream.time_base or 1)
        for other in source.streams:
            other.discard = Discard.default if other is stream else Discard.all
        packets = self._read(source)
        first = next(packets, None)
        self.empty = first is None
        self.start = Fraction(0) if first is None else self._stated(first) or Fraction(0)
        self._packets = packets if first is None else chain([first], packets)
        self.digest = SoundDigest(info.stream, stream.codec_context.codec.canonical_name, self.rate)

    def _read(self, source: InputContainer) -> Iterator[SoundPacket]:
        adts: BitStreamFilterContext | None = None
        block = _pcm_block(self.template)
        try:
            for packet in source.demux(self.template):
                if packet.size < block:
                    continue
                if self.info.codec == "aac" and adts is None and _is_adts(packet):
                    adts = BitStreamFilterContext("aac_adtstoasc", self.template)
                whole = _whole_blocks(packet, block)
                yield from [whole] if adts is None else adts.filter(whole)
        except (av.FFmpegError, IndexError) as error:
            # IndexError: PyAV at the end of a file in which streams appeared that it doesn't know.
            self.warning = f"Sound stream {self.info.stream} is damaged; it ends early ({error})."

    def _stated(self, packet: SoundPacket) -> Fraction | None:
        ticks = plain_time(packet.dts if packet.pts is None else packet.pts)
        return None if ticks is None else ticks * self._tick

    def packets(self, out: AudioStream, shift: Fraction) -> Iterator[SoundPacket]:
        """Packets for the stream `out`, in samples, all times moved by `shift` seconds."""
        samples = self.template.codec_context.frame_size
        clock = SoundClock(self.rate, self._tick, samples)
        last: int | None = None
        for count, packet in enumerate(self._packets):
            stated = self._stated(packet)
            place = clock.place(None if stated is None else stated + shift)
            reason = self._beyond(count, place, last, shift)
            if reason:
                self.warning = (
                    f"Sound stream {self.info.stream} ends at "
                    f"{float(Fraction(last or place, self.rate)):.1f} s, since {reason}."
                )
                return
            last = place
            lasts = samples or round((packet.duration or 0) * self._tick * self.rate)
            packet.time_base = Fraction(1, self.rate)
            packet.pts = packet.dts = place
            packet.duration = min(max(0, lasts), LONGEST_GAP)
            packet.stream = out
            self.digest.add(place, memoryview(packet))
            yield packet

    def _beyond(self, count: int, place: int, last: int | None, shift: Fraction) -> str:
        """Why the packet at `place` can't be part of the result; empty as a rule."""
        limits = self._limits
        if count >= limits.sound_packets:
            return f"it has more than {limits.sound_packets} packets"
        if self.digest.size_bytes > self._most_bytes:
            return f"it unpacks to over {limits.expansion} times the file's size"
        if place > (self.start + shift + Fraction(limits.duration_s)) * self.rate:
            return f"it goes on beyond the {limits.duration_s:.0f} s allowed"
        if last is not None and place - last > LONGEST_GAP:
            return "it has a gap longer than a result can hold"
        return ""


def _pcm_block(stream: AudioStream) -> int:
    """Bytes of one sample of all channels of plain PCM; 1 for packets of other codecs."""
    context = stream.codec_context
    plain = re.fullmatch(r"pcm_[suf](\d+)(le|be)?", context.codec.canonical_name)
    return max(1, int(plain[1]) // 8 * context.channels) if plain else 1


def _whole_blocks(packet: SoundPacket, block: int) -> SoundPacket:
    """The packet without a sample that was cut off at its end: mp4 has no place for parts."""
    over = packet.size % block
    if not over:
        return packet
    whole = cast(SoundPacket, Packet(bytes(packet)[:-over]))
    whole.pts, whole.dts, whole.duration = packet.pts, packet.dts, packet.duration
    whole.time_base, whole.is_keyframe = packet.time_base, packet.is_keyframe
    return whole


def _is_adts(packet: SoundPacket) -> bool:
    """ADTS frames begin with twelve 1 bits; mp4 wants them without that header."""
    head = bytes(memoryview(packet)[:2])
    return len(head) == 2 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0


def open_sounds(
    stack: ExitStack,
    path: Path,
    source: SourceInfo,
    part: Path,
    picture: Span,
    limits: SourceLimits,
) -> tuple[list[SoundTrack], list[str]]:
    """All sound tracks of the source at `path`, in its order, and why others are left out.

    `picture` is when there is something to see. Sound to be re-encoded is first made AAC in files
    beside `part`; they and the open containers are gone when `stack` closes. Raises OSError or
    av.FFmpegError when the disk is full.
    """
    tracks, notes = [], []
    for info in source.sounds:
        opened = stack.enter_context(open_source(path, limits))
        stream, warning = _stream_of(opened, info), ""
        if stream is not None and not info.copied:
            aac = part.with_name(f"{part.name}.{info.stream}.m4a")
            stack.callback(aac.unlink, missing_ok=True)
            try:
                opened, warning = _as_aac(opened, stream, aac, picture, limits)
            except (av.FFmpegError, ValueError, OverflowError, PermanentError) as error:
                if getattr(error, "errno", None) in NO_SPACE:
                    raise
                notes.append(f"Sound stream {info.stream} can't be decoded and was left out.")
                continue
            stack.enter_context(opened)
            stream = next(iter(opened.streams.audio), None)
        if stream is not None:
            tracks.append(SoundTrack(info, opened, stream, limits, warning))
    return tracks, notes


def left_out(path: Path, source: SourceInfo, limits: SourceLimits) -> list[str]:
    """What to say about sound streams that were not even planned for."""
    with open_source(path, limits) as opened:
        missing = len(opened.streams.audio) - len(source.sounds)
    if missing <= 0:
        return []
    return [f"{missing} of the sound streams can't be decoded here, or are too many: left out."]


def _stream_of(opened: InputContainer, info: SoundInfo) -> AudioStream | None:
    return next((s for s in opened.streams.audio if s.index == info.stream), None)


def _as_aac(
    opened: InputContainer,
    stream: AudioStream,
    path: Path,
    picture: Span,
    limits: SourceLimits,
) -> tuple[InputContainer, str]:
    """Decode `stream` and encode it to an .m4a file at `path`, which is opened and returned, with
    a warning when it is not whole."""
    rate = stream.codec_context.sample_rate
    rate = rate if rate in AAC_RATES else 48000
    # exact starts: edit lists count in samples
    options = {"movie_timescale": str(rate)}
    with av.open(f"file:{path}", "w", format="mp4", container_options=options) as out:
        made = out.add_stream("aac", rate=rate)
        layout = stream.codec_context.layout
        # Where the source doesn't say which speaker a channel belongs to: the usual one.
        unnamed = layout.name.endswith(" channels")
        made.codec_context.layout = f"{layout.nb_channels}c" if unnamed else layout
        made.codec_context.time_base = Fraction(1, rate)
        made.bit_rate = AAC_BITS_PER_CHANNEL * stream.codec_context.channels
        whole = _encode_all(opened, stream, out, made, picture)
    warning = f"Sound stream {stream.index} jumps in time; it ends early." if not whole else ""
    return open_source(path, limits), warning


def _encode_all(
    opened: InputContainer,
    stream: AudioStream,
    out: OutputContainer,
    made: AudioStream,
    picture: Span,
) -> bool:
    """Encode until the end (True), or until a gap that leads away from the picture."""
    graph = _resampler(stream, made)
    whole = True
    due: Fraction | None = None
    for frame in _decoded(opened, stream):
        begins = _begins(frame)
        if begins is not None:
            if due is not None and not _fillable(due, begins, picture):
                whole = False
                break
            for silence in _silences(frame, due, begins):
                _push(graph, silence)
                _drain(graph, out, made)
        if _push(graph, frame) and begins is not None:
            due = begins + Fraction(frame.samples, frame.sample_rate)
        _drain(graph, out, made)
    graph.push(None)
    _drain(graph, out, made)
    out.mux(made.encode(None))
    return whole


def _decoded(opened: InputContainer, stream: AudioStream) -> Iterator[AudioFrame]:
    """All frames that can be read and decoded; the resampler fills other places with silence."""
    try:
        for packet in opened.demux(stream):
            try:
                yield from packet.decode()
            except (av.FFmpegError, ValueError):
                continue
    except (av.FFmpegError, IndexError):
        return  # damaged from here on, or streams appeared that PyAV does not know


def _begins(frame: AudioFrame) -> Fraction | None:
    """When the frame begins, seconds. A time that can't be one is taken away from it."""
    frame.pts = plain_time(frame.pts)
    if frame.pts is None or frame.time_base is None:
        return None
    return frame.pts * Fraction(frame.time_base)


def _fillable(due: Fraction, begins: Fraction, picture: Span) -> bool:
    """Whether the gap between the two is short, or lies where there is something to see."""
    near = picture[0] - AROUND_S <= due and begins <= picture[1] + AROUND_S
    return near or begins - due <= AROUND_S


def _silences(like: AudioFrame, due: Fraction | None, begins: Fraction) -> Iterator[AudioFrame]:
    """Silence from `due` to shortly before `begins`, in frames of a second."""
    if due is None or like.time_base is None:
        return
    while begins - due > SILENCE_S:
        frame = AudioFrame(like.format.name, like.layout.name, like.sample_rate * SILENCE_S)
        middle = b"\x80" if like.format.name.startswith("u8") else b"\0"
        for plane in frame.planes:
            plane.update(middle * plane.buffer_size)
        frame.sample_rate, frame.time_base = like.sample_rate, like.time_base
        frame.pts = round(due / Fraction(like.time_base))
        yield frame
        due += SILENCE_S


def _push(graph: Graph, frame: AudioFrame) -> bool:
    """False for a frame that the graph does not take: of another rate or layout than the first."""
    try:
        graph.push(frame)
    except (av.FFmpegError, ValueError):
        return False
    return True


def _resampler(stream: AudioStream, made: AudioStream) -> Graph:
    """Samples as AAC takes them; async=1 turns gaps and overlaps in time into silence and cuts.

    Integers on the way, so that no sample is beyond -1 to 1, or not a number: FFmpeg's encoder
    would look for a way to quantise those for ever.
    """
    graph = Graph()
    context = made.codec_context
    form = f"sample_fmts=fltp:sample_rates={context.sample_rate}"
    graph.link_nodes(
        graph.add_abuffer(template=stream),
        graph.add("aresample", "async=1"),
        graph.add("aformat", "sample_fmts=s32p"),
        graph.add("aformat", f"{form}:channel_layouts={context.layout.name}"),
        graph.add("asetnsamples", "n=1024:p=0"),
        graph.add("abuffersink"),
    ).configure()
    return graph


def _drain(graph: Graph, out: OutputContainer, made: AudioStream) -> None:
    while True:
        try:
            frame = graph.pull()
        except (av.BlockingIOError, av.EOFError):
            return
        if isinstance(frame, AudioFrame):
            out.mux(made.encode(frame))
