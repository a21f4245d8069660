"""The source's sound streams as packets of the result: copied, or made AAC where they must be."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TypeAlias

import av
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.bitstream import BitStreamFilterContext
from av.container import InputContainer, OutputContainer
from av.filter import Graph
from av.packet import Packet
from av.stream import Discard

from services.encode.times import SoundClock
from shared.jobs import Model, SoundInfo, SourceInfo
from shared.media.probe import open_source

SoundPacket: TypeAlias = "Packet[AudioStream]"

AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)
"""Sampling frequencies of ISO/IEC 14496-3, table 1.18, Hz (7350 left out)."""

AAC_BITS_PER_CHANNEL = 96_000
"""Bits per second; FFmpeg's own encoder is transparent for most ears there."""


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
    before time 0 included).
    """

    def __init__(self, info: SoundInfo, source: InputContainer, stream: AudioStream) -> None:
        self.info = info
        self.template = stream
        self.rate = stream.codec_context.sample_rate
        self.warning = ""
        self.tags = {key: stream.metadata[key] for key in TAGS if key in stream.metadata}
        self.disposition = stream.disposition
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
        try:
            for packet in source.demux(self.template):
                if not packet.size:
                    continue
                if self.info.codec == "aac" and adts is None and _is_adts(packet):
                    adts = BitStreamFilterContext("aac_adtstoasc", self.template)
                yield from [packet] if adts is None else adts.filter(packet)
        except av.FFmpegError as error:
            self.warning = f"Sound stream {self.info.stream} is damaged; it ends early ({error})."

    def _stated(self, packet: SoundPacket) -> Fraction | None:
        ticks = packet.dts if packet.pts is None else packet.pts
        return None if ticks is None else ticks * self._tick

    def packets(self, out: AudioStream, shift: Fraction) -> Iterator[SoundPacket]:
        """Packets for the stream `out`, in samples, all times moved by `shift` seconds."""
        samples = self.template.codec_context.frame_size
        clock = SoundClock(self.rate, self._tick, samples)
        for packet in self._packets:
            stated = self._stated(packet)
            place = clock.place(None if stated is None else stated + shift)
            lasts = samples or round((packet.duration or 0) * self._tick * self.rate)
            packet.time_base = Fraction(1, self.rate)
            packet.pts = packet.dts = place
            packet.duration = lasts
            packet.stream = out
            self.digest.add(place, memoryview(packet))
            yield packet


def _is_adts(packet: SoundPacket) -> bool:
    """ADTS frames begin with twelve 1 bits; mp4 wants them without that header."""
    head = bytes(memoryview(packet)[:2])
    return len(head) == 2 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0


def open_sounds(stack: ExitStack, path: Path, source: SourceInfo, part: Path) -> list[SoundTrack]:
    """All sound tracks of the source at `path` that have packets, in its order.

    Sound to be re-encoded is first made AAC in files beside `part`; they and the open containers
    are gone when `stack` closes.
    """
    tracks = []
    for info in source.sounds:
        opened = stack.enter_context(open_source(path))
        stream = _stream_of(opened, info)
        if stream is not None and not info.copied:
            aac = part.with_name(f"{part.name}.{info.stream}.m4a")
            stack.callback(aac.unlink, missing_ok=True)
            opened = _as_aac(opened, stream, aac)
            stack.enter_context(opened)
            stream = opened.streams.audio[0]
        if stream is not None:
            tracks.append(SoundTrack(info, opened, stream))
    return tracks


def _stream_of(opened: InputContainer, info: SoundInfo) -> AudioStream | None:
    return next((s for s in opened.streams.audio if s.index == info.stream), None)


def _as_aac(opened: InputContainer, stream: AudioStream, path: Path) -> InputContainer:
    """Decode `stream` and encode it to an .m4a file at `path`, which is opened and returned."""
    rate = stream.codec_context.sample_rate
    rate = rate if rate in AAC_RATES else 48000
    # exact starts: edit lists count in samples
    options = {"movie_timescale": str(rate)}
    with av.open(f"file:{path}", "w", format="mp4", container_options=options) as out:
        made = out.add_stream("aac", rate=rate)
        made.codec_context.layout = stream.codec_context.layout
        made.codec_context.time_base = Fraction(1, rate)
        made.bit_rate = AAC_BITS_PER_CHANNEL * stream.codec_context.channels
        _encode_all(opened, stream, out, made)
    return open_source(path)


def _encode_all(
    opened: InputContainer, stream: AudioStream, out: OutputContainer, made: AudioStream
) -> None:
    graph = _resampler(stream, made)
    for packet in opened.demux(stream):
        try:
            frames = packet.decode()
        except av.FFmpegError:
            continue  # a damaged packet; the resampler fills its place with silence
        for frame in frames:
            graph.push(frame)
            _drain(graph, out, made)
    graph.push(None)
    _drain(graph, out, made)
    out.mux(made.encode(None))


def _resampler(stream: AudioStream, made: AudioStream) -> Graph:
    """Samples as AAC takes them; async=1 turns gaps and overlaps in time into silence and cuts."""
    graph = Graph()
    context = made.codec_context
    form = f"sample_fmts=fltp:sample_rates={context.sample_rate}"
    graph.link_nodes(
        graph.add_abuffer(template=stream),
        graph.add("aresample", "async=1"),
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
