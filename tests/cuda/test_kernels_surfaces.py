"""A decoder's surface becomes an upright frame: the same pixels as the CPU's way gives."""

from __future__ import annotations

from typing import Any

import av
import cv2
import numpy as np
import pytest
from av.video.frame import VideoFrame

from services.decode.engines.picture import PictureWriter
from services.decode.engines.surfaces import SurfaceWriter
from shared.cuda.device import Device
from shared.jobs import ColorTags, SourceInfo
from shared.media.layout import FrameLayout, PixelFormat, Planes
from tests.cuda.guarded import Array, Guarded, sent

TURNS = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}


def samples(width: int, height: int, bits: int) -> tuple[Array, Array, Array]:
    """Y, U, V of noise in the whole range of the bits, lowest and highest among them."""
    across, down = (width + 1) // 2, (height + 1) // 2
    dtype = np.uint8 if bits == 8 else np.uint16
    rng = np.random.default_rng(width * 1000 + height)
    planes = [rng.integers(0, 2**bits, shape, dtype) for shape in
              ((height, width), (down, across), (down, across))]  # fmt: skip
    planes[0].flat[:2] = 0, 2**bits - 1
    return planes[0], planes[1], planes[2]


def surface_of(planes: tuple[Array, Array, Array], bits: int, pitch: int, luma_rows: int) -> Array:
    """As NVDEC lays it out: pitched rows, Y padded to `luma_rows`, samples in the upper bits."""
    y, u, v = planes
    rows = luma_rows + (luma_rows + 1) // 2
    surface = np.random.default_rng(2).integers(0, 256, (rows, pitch), np.uint8).view(y.dtype)
    shift = 0 if bits == 8 else 16 - bits
    surface[: y.shape[0], : y.shape[1]] = y << shift
    pairs = np.dstack((u, v)).reshape(u.shape[0], -1)
    surface[luma_rows : luma_rows + u.shape[0], : pairs.shape[1]] = pairs << shift
    return surface


def by_the_cpu(planes: tuple[Array, Array, Array], bits: int, rotation: int) -> list[Array]:
    """What `PictureWriter` makes of the same samples."""
    height, width = planes[0].shape
    frame = VideoFrame(width, height, "yuv420p" if bits == 8 else "yuv420p10le")
    for plane, values in zip(frame.planes, planes, strict=True):
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, -1)
        rows = rows.view(values.dtype)
        writable = np.zeros_like(rows)
        writable[:, : plane.width] = values
        plane.update(writable.tobytes())
    frame.color_range = av.video.reformatter.ColorRange.MPEG
    turned = rotation in (90, 270)
    source = SourceInfo(
        format="mp4", codec="h264", stream=0, time_base=(1, 25), frame_rate=(25, 1),
        width=height if turned else width, height=width if turned else height,
        rotation=rotation, color=ColorTags(),
    )  # fmt: skip
    layout = FrameLayout(width=source.width, height=source.height)
    made = layout.planes(np.zeros(layout.frame_bytes, np.uint8))
    PictureWriter(source).write(frame, made)
    return list(made)


def apart(planes: Planes, expected: list[Array]) -> list[Array]:
    """Differences of Y, U, V."""
    luma, chroma = planes
    pairs = chroma.reshape(chroma.shape[0], -1, 2)
    given = (luma, pairs[..., 0], pairs[..., 1])
    return [np.abs(a.astype(int) - b) for a, b in zip(given, expected, strict=True)]


def written(
    device: Device, surface: Any, columns: int, rows: int, rotation: int, bits: int
) -> Planes:
    """The upright frame of `columns` x `rows`; nothing beyond it is touched."""
    layout = FrameLayout(width=columns, height=rows, format=PixelFormat.NV12)
    target = Guarded(device, layout)
    SurfaceWriter(device).write(surface, target.planes, rotation, bits)
    return target.fetch()


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize(("width", "height"), [(64, 36), (67, 37), (33, 50), (1, 1), (2, 1)])
def test_a_surface_gives_the_frame_that_the_cpu_makes_of_its_samples(
    device: Device, width: int, height: int, bits: int, rotation: int
) -> None:
    planes = samples(width, height, bits)
    luma_rows = (height + 1) // 2 * 2
    surface = sent(device, surface_of(planes, bits, 256, luma_rows))
    columns, rows = (height, width) if rotation % 180 else (width, height)
    made = written(device, surface, columns, rows, rotation, bits)
    assert [p.shape for p in made] == [(rows, columns), ((rows + 1) // 2, (columns + 1) // 2 * 2)]
    for difference in apart(made, by_the_cpu(planes, bits, rotation)):
        # swscale dithers 10 bits
        assert difference.max(initial=0) <= (0 if bits == 8 else 1)


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_ten_bits_are_rounded_to_the_nearest_eight(device: Device, rotation: int) -> None:
    ramp = np.arange(1024, dtype=np.uint16).reshape(32, 32)
    surface = sent(device, surface_of((ramp, ramp[:16, :16], ramp[:16, :16]), 10, 64, 32))
    luma, _ = written(device, surface, 32, 32, rotation, 10)
    expected = np.minimum((ramp.astype(int) + 2) // 4, 255).astype(np.uint8)
    turn = TURNS.get(rotation)
    assert np.array_equal(luma, expected if turn is None else cv2.rotate(expected, turn))


def test_a_surface_larger_than_the_picture_shows_its_top_left(device: Device) -> None:
    planes = samples(40, 20, 8)
    # coded as whole macroblocks
    surface = sent(device, surface_of(planes, 8, 512, 32))
    for rotation, size in ((0, (40, 20)), (180, (40, 20)), (90, (20, 40))):
        made = written(device, surface, *size, rotation, 8)
        assert all(d.max() == 0 for d in apart(made, by_the_cpu(planes, 8, rotation)))


def test_surfaces_and_planes_that_do_not_fit_are_refused(device: Device) -> None:
    writer, layout = (
        SurfaceWriter(device),
        FrameLayout(width=32, height=20, format=PixelFormat.NV12),
    )
    planes = Guarded(device, layout).planes
    small, words = device.empty((24, 64)), device.empty((30, 64), "uint16")
    with pytest.raises(ValueError, match="does not hold 32x20"):
        writer.write(small, planes)
    with pytest.raises(ValueError, match="of 8 bits"):
        writer.write(words, planes)
    with pytest.raises(ValueError, match="of 10 bits"):
        writer.write(device.empty((30, 64)), planes, 0, 10)
    with pytest.raises(ValueError, match="does not hold 20x32"):
        writer.write(device.empty((30, 64)), planes, 90)
    with pytest.raises(ValueError, match="45 degrees"):
        writer.write(device.empty((30, 64)), planes, 45)
    with pytest.raises(ValueError, match="not NV12"):
        writer.write(device.empty((30, 64)), (planes[0], planes[0]))
