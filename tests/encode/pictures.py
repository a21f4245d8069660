"""Chunks and plans built to order for the tests of encode."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from services.encode.engines.base import ChunkInfo
from services.encode.engines.pyav import PyAvEncoder
from shared.jobs import Codec, ColorTags, OutputPlan, Ratio, Rect, SoundInfo, SourceInfo
from shared.media.layout import FrameLayout, PixelFormat, Plane
from tests.videos import pattern

SIZE = (128, 64)
LAYOUT = FrameLayout(width=SIZE[0], height=SIZE[1])
RATE = 48000


def output(
    time_base: Ratio = (1, 12800), codec: Codec = Codec.H264, color: ColorTags | None = None
) -> OutputPlan:
    """A plan of 128x64 px, fast to encode."""
    return OutputPlan(
        width=SIZE[0],
        height=SIZE[1],
        tiles=(Rect(x=0, y=0, w=64, h=64), Rect(x=64, y=0, w=64, h=64)),
        codec=codec,
        crf=30,
        preset="veryfast" if codec is Codec.H264 else "ultrafast",
        color=color or ColorTags(),
        time_base=time_base,
        frame_rate=(25, 1),
    )


def source(plan: OutputPlan, sounds: Sequence[SoundInfo] = ()) -> SourceInfo:
    """Facts of a source that fits `plan`."""
    return SourceInfo(
        format="mov",
        codec="h264",
        stream=0,
        width=SIZE[0],
        height=SIZE[1],
        time_base=plan.time_base,
        frame_rate=plan.frame_rate,
        sounds=tuple(sounds),
    )


def numbered(count: int, first: int = 0, layout: FrameLayout = LAYOUT) -> Plane:
    """A slot's memory with `count` frames that show their number."""
    slot = np.empty(count * layout.frame_bytes, np.uint8)
    for index in range(count):
        planes = layout.planes(slot, index)
        planes[0][:] = pattern(first + index, SIZE)
        for chroma in planes[1:]:
            chroma[:] = 110
    return slot


def encode(
    pts: Sequence[int],
    plan: OutputPlan,
    path: Path,
    *,
    first: int = 0,
    layout: FrameLayout = LAYOUT,
    threads: int = 1,
) -> ChunkInfo:
    """One chunk of numbered frames at `pts`."""
    slot = numbered(len(pts), first, layout)
    frames = ((at, layout.planes(slot, index)) for index, at in enumerate(pts))
    return PyAvEncoder(threads).encode(frames, layout, plan, path)


def encode_all(
    pts: Sequence[int], plan: OutputPlan, folder: Path, per_chunk: int = 8
) -> list[Path]:
    """All chunks of a job."""
    paths = []
    for start in range(0, len(pts), per_chunk):
        path = folder / f"{start:06d}.nut"
        encode(pts[start : start + per_chunk], plan, path, first=start)
        paths.append(path)
    return paths


def make_sound(
    path: Path,
    codec: str,
    *,
    first: int = 0,
    seconds: float = 1.0,
    rate: int = RATE,
    streams: int = 1,
) -> Path:
    """A file with sound only, whose first sample is at `first` / rate seconds."""
    options = {"movie_timescale": str(rate)} if path.suffix in (".mp4", ".mov") else {}
    with av.open(path, "w", container_options=options) as out:
        made = [out.add_stream(codec, rate=rate) for _ in range(streams)]
        wave = np.random.default_rng(1).integers(-9000, 9000, int(rate * seconds), dtype=np.int16)
        for start in range(0, len(wave), 1024):
            for stream in made:
                piece = np.repeat(wave[start : start + 1024], 2).reshape(1, -1)
                frame = av.AudioFrame.from_ndarray(piece, format="s16", layout="stereo")
                frame.sample_rate, frame.pts = rate, first + start
                frame.time_base = Fraction(1, rate)
                out.mux(stream.encode(frame))
        for stream in made:
            out.mux(stream.encode(None))
    return path


def sound_info(path: Path, *, copied: bool = True) -> tuple[SoundInfo, ...]:
    """What a probe would say of the sounds in `path`."""
    with av.open(path) as opened:
        return tuple(
            SoundInfo(
                stream=stream.index,
                codec=stream.codec_context.codec.canonical_name,
                sample_rate=stream.codec_context.sample_rate,
                channels=stream.codec_context.channels,
                copied=copied,
            )
            for stream in opened.streams.audio
        )


Seen = list[tuple[Fraction, bytes]]


def packets(path: Path, kind: str, number: int = 0) -> Seen:
    """Time in seconds and payload of each packet of the n-th stream of a kind, in file order."""
    with av.open(path) as opened:
        stream = [s for s in opened.streams if s.type == kind][number]
        return [
            (packet.pts * packet.time_base, bytes(packet))
            for packet in opened.demux(stream)
            if packet.size and packet.pts is not None
        ]


def shown(path: Path) -> list[Fraction]:
    """Times of all frames, as decoded."""
    with av.open(path) as opened:
        return [frame.pts * frame.time_base for frame in opened.decode(video=0)]


NV12 = FrameLayout(width=SIZE[0], height=SIZE[1], format=PixelFormat.NV12)
