"""Helpers of the decode tests: decode a whole source, and the same source piece by piece."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest

from services.decode.engines.base import DecodeReport
from services.decode.engines.picture import PictureWriter
from services.decode.engines.pyav import PyAvDecoder
from services.decode.split import split
from shared.jobs import Segment, SourceInfo
from shared.media.layout import FrameLayout
from shared.media.probe import open_source, probe
from shared.media.timestamps import generated_pts
from tests.videos import frame_number

Shown = tuple[int, str]
"""pts and a hash of the upright luma."""


@dataclass
class Pieces:
    source: SourceInfo
    segments: list[Segment]
    shown: list[Shown]
    numbers: list[int]
    reports: list[DecodeReport]
    bounds: list[list[int]]
    """pts shown by each segment."""


def in_pieces(path: Path, folder: Path, target_s: float) -> Pieces:
    """Split and decode every segment with a decoder of its own."""
    source = probe(path)
    layout = FrameLayout(width=source.width, height=source.height)
    planes = layout.planes(np.zeros(layout.frame_bytes, np.uint8))
    result = Pieces(source, [], [], [], [], [])
    for segment, file in split(path, source, folder, target_s):
        decoder = PyAvDecoder(threads=2)
        result.segments.append(segment)
        result.bounds.append([])
        for frame in decoder.decode(file, segment, source):
            frame.write_to(planes)
            result.bounds[-1].append(frame.pts)
            result.shown.append((frame.pts, hashlib.md5(planes[0]).hexdigest()))
            result.numbers.append(frame_number(planes[0]))
        result.reports.append(decoder.report)
        file.unlink()
    return result


def as_a_whole(path: Path) -> list[Shown]:
    """The reference: FFmpeg's decoder over the whole file, timestamps as it gives them."""
    source = probe(path)
    layout = FrameLayout(width=source.width, height=source.height)
    planes = layout.planes(np.zeros(layout.frame_bytes, np.uint8))
    writer, shown = PictureWriter(source), []
    with open_source(path) as container:
        stream = next(s for s in container.streams.video if s.index == source.stream)
        # How damage is concealed depends on the kind and number of threads.
        stream.codec_context.thread_type, stream.codec_context.thread_count = "AUTO", 2
        stream.codec_context.flags |= av.codec.context.Flags.output_corrupt
        for packet in container.demux(stream):
            try:
                frames = stream.codec_context.decode(packet)
            except av.error.FFmpegError:
                continue
            for frame in frames:
                writer.write(frame, planes)
                pts = frame.pts
                if source.generated_times:
                    pts = generated_pts(len(shown), source.frame_rate, source.time_base)
                shown.append((pts, hashlib.md5(planes[0]).hexdigest()))
    return shown


@pytest.fixture
def pieces(tmp_path: Path) -> Callable[[Path, float], Pieces]:
    """`in_pieces` with a folder of its own."""

    def run(path: Path, target_s: float = 0.0) -> Pieces:
        folder = tmp_path / "segments"
        folder.mkdir(exist_ok=True)
        return in_pieces(path, folder, target_s)

    return run
