from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from services.decode.engines.picture import PictureWriter
from services.decode.engines.pyav import PyAvDecoder
from services.decode.split import split
from shared.jobs import ColorTags, SourceInfo
from shared.media.layout import FrameLayout, Planes
from shared.media.probe import probe
from tests.videos import CLOSED_GOP_X264, VideoSpec, frame_number, make_video, numbered_frame


def source(width: int, height: int, rotation: int = 0, full_range: bool = False) -> SourceInfo:
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


def written(frame: av.VideoFrame, info: SourceInfo) -> Planes:
    layout = FrameLayout(width=info.width, height=info.height)
    planes = layout.planes(np.full(layout.frame_bytes, 7, np.uint8))
    PictureWriter(info).write(frame, planes)
    return planes


@pytest.mark.parametrize("size", [(128, 64), (100, 50), (131, 77), (33, 31)])
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_the_written_picture_is_upright(size: tuple[int, int], rotation: int) -> None:
    upright = size if rotation % 180 == 0 else (size[1], size[0])
    frame = numbered_frame(0b1010_0111_0000_1101, size, rotation=rotation)
    y, u, v = written(frame, source(*upright, rotation=rotation))
    assert frame_number(y) == 0b1010_0111_0000_1101
    assert (u == 110).all()
    assert (v == 150).all()


@pytest.mark.parametrize("rotation", [0, 90])
def test_padding_at_the_end_of_rows_is_not_picture(rotation: int) -> None:
    frame = numbered_frame(5, (50, 40))
    for plane in frame.planes:
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
        assert plane.line_size > plane.width
        rows[:, plane.width :] = 255
    size = (50, 40) if rotation == 0 else (40, 50)
    assert all(plane.max() < 255 for plane in written(frame, source(*size, rotation=rotation)))


@pytest.mark.parametrize(
    "pixel_format", ["yuv422p", "yuv444p", "nv12", "yuv420p10le", "yuv422p10le", "yuva420p"]
)
def test_other_yuv_formats_keep_their_levels(pixel_format: str) -> None:
    frame = numbered_frame(1234, (128, 64), pixel_format)
    y, u, v = written(frame, source(128, 64))
    expected = written(numbered_frame(1234, (128, 64)), source(128, 64))
    assert np.abs(y.astype(int) - expected[0])[8:24, 4:12].max() <= 1
    assert frame_number(y) == 1234
    assert np.abs(u.astype(int) - 110).max() <= 1
    assert np.abs(v.astype(int) - 150).max() <= 1


@pytest.mark.parametrize("pixel_format", ["yuvj420p", "yuvj422p", "yuvj444p"])
def test_full_range_stays_full_range(pixel_format: str) -> None:
    frame = av.VideoFrame(64, 32, pixel_format)
    for plane, level in zip(frame.planes, (255, 10, 250), strict=True):
        np.frombuffer(plane, np.uint8)[:] = level
    y, u, v = written(frame, source(64, 32, full_range=True))
    assert (y.min(), u.max(), v.min()) == (255, 10, 250)


@pytest.mark.parametrize(("matrix", "red"), [(6, (81, 90, 240)), (1, (63, 102, 240))])
def test_rgb_becomes_the_tagged_matrix_in_limited_range(
    matrix: int, red: tuple[int, int, int]
) -> None:
    """Values of pure red by ITU-R BT.601 and BT.709."""
    frame = av.VideoFrame.from_ndarray(np.full((32, 64, 3), (255, 0, 0), np.uint8), format="rgb24")
    info = source(64, 32).model_copy(update={"color": ColorTags(matrix=matrix)})
    got = tuple(round(float(plane.mean())) for plane in written(frame, info))
    assert np.abs(np.subtract(got, red)).max() <= 1


def test_grey_keeps_its_levels() -> None:
    frame = av.VideoFrame(64, 32, "gray")
    np.frombuffer(frame.planes[0], np.uint8)[:] = 235
    frame.color_range = 1
    y, u, v = written(frame, source(64, 32))
    assert (int(y.max()), int(u.max()), int(v.max())) == (235, 128, 128)


def test_another_size_in_mid_stream_is_scaled_to_the_sources() -> None:
    y, _, _ = written(numbered_frame(777, (64, 32)), source(128, 64))
    assert frame_number(y) == 777


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_a_turned_phone_video_comes_out_upright(rotation: int, tmp_path: Path) -> None:
    path = make_video(tmp_path / "clip.mp4", replace(CLOSED_GOP_X264, rotation=rotation, frames=12))
    info = probe(path)
    assert info.rotation == rotation
    assert (info.width, info.height) == ((64, 128) if rotation != 180 else (128, 64))
    layout = FrameLayout(width=info.width, height=info.height)
    planes = layout.planes(np.zeros(layout.frame_bytes, np.uint8))
    ((segment, file),) = split(path, info, tmp_path, 9.0)
    numbers = []
    for frame in PyAvDecoder(threads=1).decode(file, segment, info):
        frame.write_to(planes)
        numbers.append(frame_number(planes[0]))
    assert numbers == list(range(12))


def test_ten_bits_become_eight(tmp_path: Path) -> None:
    spec = VideoSpec(
        codec="libx265",
        pixel_format="yuv420p10le",
        frames=5,
        bframes=0,
        rate=Fraction(25),
        options={"x265-params": "log-level=none"},
    )
    path = make_video(tmp_path / "clip.mp4", spec)
    info = probe(path)
    layout = FrameLayout(width=info.width, height=info.height)
    planes = layout.planes(np.zeros(layout.frame_bytes, np.uint8))
    ((segment, file),) = split(path, info, tmp_path, 9.0)
    for number, frame in enumerate(PyAvDecoder(threads=1).decode(file, segment, info)):
        frame.write_to(planes)
        assert frame_number(planes[0]) == number
