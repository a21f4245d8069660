"""A small picture of a frame, for people who want to see what became of a video."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from shared.jobs import ColorTags
from shared.media.layout import FrameLayout, PixelFormat, Plane, Planes

WIDTH_PX = 320
QUALITY = 80
"""Of JPEG: some 10 KB."""

_BT601, _BT709, _BT2020 = (0.299, 0.114), (0.2126, 0.0722), (0.2627, 0.0593)
_WEIGHTS = {
    1: _BT709,
    4: (0.30, 0.11),
    5: _BT601,
    6: _BT601,
    7: (0.212, 0.087),
    9: _BT2020,
    10: _BT2020,
}
"""Matrix (code points of ISO/IEC 23091-2) -> weights of red and blue in luma."""
SD_LINES = 576
"""Untagged pictures of more lines are BT.709 to players, others BT.601."""


def use_one_thread() -> None:
    """For the whole process: encoders have all cores busy already."""
    cv2.setNumThreads(1)


def thumbnail(planes: Planes, layout: FrameLayout, color: ColorTags) -> bytes:
    """The frame as a JPEG of at most WIDTH_PX columns, of the frame's shape and colours.

    Two milliseconds. Raises ValueError when it can't be made.
    """
    width = min(WIDTH_PX, layout.width)
    height = max(1, round(layout.height * width / layout.width))
    small = [_shrunk(plane, width, height) for plane in _separate(planes, layout)]
    weights = _WEIGHTS.get(color.matrix, _BT709 if layout.height > SD_LINES else _BT601)
    picture = _bgr(small, weights, full_range=color.full_range)
    made, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    if not made:
        raise ValueError("no JPEG came out")
    return bytes(data)


def _separate(planes: Planes, layout: FrameLayout) -> Planes:
    if layout.format is PixelFormat.I420:
        return planes
    luma, chroma = planes
    return luma, chroma[:, 0::2], chroma[:, 1::2]


def _shrunk(plane: Plane, width: int, height: int) -> npt.NDArray[np.float32]:
    grows = plane.shape[1] < width or plane.shape[0] < height
    way = cv2.INTER_LINEAR if grows else cv2.INTER_AREA
    return cv2.resize(plane, (width, height), interpolation=way).astype(np.float32)


def _bgr(
    planes: list[npt.NDArray[np.float32]], weights: tuple[float, float], *, full_range: bool
) -> Plane:
    """8-bit BGR of Y, Cb, Cr (ITU-R BT.709, items 3.2 to 3.5)."""
    luma, blue, red = planes
    low, luma_span, chroma_span = (0, 255, 255) if full_range else (16, 219, 224)
    y, cb, cr = (luma - low) / luma_span, (blue - 128) / chroma_span, (red - 128) / chroma_span
    kr, kb = weights
    r, b = y + 2 * (1 - kr) * cr, y + 2 * (1 - kb) * cb
    g = (y - kr * r - kb * b) / (1 - kr - kb)
    samples = np.rint(np.stack((b, g, r), axis=-1) * 255)
    return np.ascontiguousarray(np.clip(samples, 0, 255), dtype=np.uint8)
