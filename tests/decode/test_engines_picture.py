"""A frame written as NV12 is the frame written as I420, interleaved."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest

from services.decode.engines.picture import PictureWriter
from services.decode.engines.pyav import PyAvDecoder
from services.decode.split import split
from shared.errors import PermanentError
from shared.jobs import ColorTags, SourceInfo
from shared.media.layout import FrameLayout, PixelFormat, Plane, Planes
from shared.media.probe import probe

FORMATS = ("yuv420p", "yuvj420p", "nv12", "p010le", "yuv420p10le", "yuv422p", "yuv444p", "gray")


def facts(width: int, height: int, rotation: int, full_range: bool) -> SourceInfo:
    return SourceInfo.model_validate(
        {
            "format": "mp4",
            "codec": "h264",
            "stream": 0,
            "width": width,
            "height": height,
            "rotation": rotation,
            "time_base": (1, 1000),
            "frame_rate": (25, 1),
            "color": ColorTags(matrix=6, full_range=full_range),
        }
    )


def blank(source: SourceInfo, pixel_format: PixelFormat) -> Planes:
    layout = FrameLayout(width=source.width, height=source.height, format=pixel_format)
    return layout.planes(np.full(layout.frame_bytes, 7, np.uint8))


def same(planar: Planes, interleaved: Planes) -> bool:
    chroma: Plane = interleaved[1].reshape(interleaved[1].shape[0], -1, 2)
    pairs = ((planar[0], interleaved[0]), (planar[1], chroma[..., 0]), (planar[2], chroma[..., 1]))
    return all(np.array_equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("pixel_format", [*FORMATS, "rgb24", "yuva420p"])
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_every_format_becomes_the_same_samples_in_both_layouts(
    pixel_format: str, rotation: int
) -> None:
    rng = np.random.default_rng(5)
    for size in ((128, 64), (51, 33), (130, 77)):
        frame = av.VideoFrame(*size, pixel_format)
        for plane in frame.planes:
            samples = np.frombuffer(memoryview(plane), np.uint8)
            samples[:] = rng.integers(0, 255, samples.size)
        width, height = size if rotation % 180 == 0 else (size[1], size[0])
        for scale, full_range in ((1, False), (1, True), (2, False)):
            source = facts(scale * width, scale * height, rotation, full_range)
            planar, pairs = blank(source, PixelFormat.I420), blank(source, PixelFormat.NV12)
            PictureWriter(source).write(frame, planar)
            PictureWriter(source).write(frame, pairs)
            assert same(planar, pairs), (size, scale, full_range)


@pytest.mark.footage
def test_clips_of_all_sorts_become_the_same_samples_in_both_layouts(
    footage: Path, tmp_path: Path
) -> None:
    count = 0
    for path in sorted((footage / "odd").iterdir()):
        for source, planar, pairs in _both(path, tmp_path):
            assert same(planar, pairs), (path.name, source.pixel_format)
            count += 1
    assert count > 40


def _both(path: Path, folder: Path) -> Iterator[tuple[SourceInfo, Planes, Planes]]:
    """The first frames of a clip in both layouts; none of one that can't be read."""
    try:
        source = probe(path)
    except PermanentError:
        return
    segment, file = next(iter(split(path, source, folder, 0.0)))
    planar, pairs = blank(source, PixelFormat.I420), blank(source, PixelFormat.NV12)
    for frame in islice(PyAvDecoder(threads=1).decode(file, segment, source), 3):
        frame.write_to(planar)
        frame.write_to(pairs)
        yield source, planar, pairs
