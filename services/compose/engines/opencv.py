"""Tiles on the CPU: OpenCV straight on the YUV planes, no colour conversion.

A view begins at a fraction of a pixel, but `cv2.resize` takes whole ones, and rounding would show
as a jitter of up to 1.7 output pixels in a slow pan. `cv2.warpAffine` takes fractions and costs
five to nine times as much. So each axis works like a vernier: a crop of whole pixels that begins a
little before the view is enlarged by the exact scale, and the tile is cut out of the result at a
whole *output* pixel. With `s` source px per output px, crop starts `x0` and offsets `o` reach the
positions `x0 + o * s`; among `REACH` crop starts the nearest to the wanted one is taken. At
s = 0.6 the error is at most 0.1 source px; only for s = 1, 1/2, ... it stays half an output px.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np

from services.compose.engines.canvas import blacken, check, part_of
from shared.jobs import OutputPlan, Rect
from shared.media.layout import FrameLayout, PixelFormat, Plane, Planes
from shared.tracks import View

REACH = 6
"""Crop starts tried per axis: 6 px more to enlarge, 2 % of the work at 1080p."""

MARGIN = 2
"""Source px around the view that bicubic interpolation reads."""

AREA_FROM = 1.3
"""Source px per output px from which averaging (INTER_AREA) replaces bilinear: below, bilinear
skips no source px, and averaging would blur unevenly."""

EXACT = 1e-3
"""Px of error at which the search for a better crop start ends."""


class Cut(NamedTuple):
    """One axis of a tile: crop `start` and `length` in source px, `scaled` length of the enlarged
    crop and `offset` of the tile in it, output px."""

    start: int
    length: int
    scaled: int
    offset: int


class Window(NamedTuple):
    """Both axes of a tile, and output px per px of the plane along them."""

    x: Cut
    y: Cut
    fx: float
    fy: float

    def shown(self, view: View) -> View:
        """The view that comes out where `view` was asked for."""
        x = self.x.start + self.x.offset / self.fx
        y = self.y.start + self.y.offset / self.fy
        return View(x, y, view.w, view.h)


def use_one_thread() -> None:
    """Keep OpenCV to the calling thread, for this process: parallelism comes from processes."""
    cv2.setNumThreads(1)


class OpenCvRenderer:
    """Draws with OpenCV on planes in host memory; NV12 and I420 sources. Not for two threads."""

    def __init__(self) -> None:
        self._scratch = np.empty(0, np.uint8)

    @property
    def name(self) -> str:
        """See `Renderer.name`."""
        return "opencv"

    def render(
        self,
        source: Planes,
        source_layout: FrameLayout,
        views: tuple[View, View],
        output: OutputPlan,
        canvas: Planes,
    ) -> None:
        """See `Renderer.render`."""
        check(source, source_layout, views, output, canvas)
        if not _covered(output):
            blacken(canvas, output.color.full_range)
        for view, tile in zip(views, output.tiles, strict=True):
            self._tile(source, source_layout, view, tile, canvas)

    def _tile(
        self, source: Planes, layout: FrameLayout, view: View, tile: Rect, canvas: Planes
    ) -> None:
        step = max(view.w / tile.w, view.h / tile.h)
        luma = _window(view, tile.w, tile.h, layout.width, layout.height)
        self._draw(source[0], luma, part_of(canvas[0], tile), _method(step, luma=True))
        half = Rect(x=tile.x // 2, y=tile.y // 2, w=tile.w // 2, h=tile.h // 2)
        # Colour goes where brightness really is, not where it should be: both are off by a little.
        seen = _chroma_view(luma.shown(view), tile, layout)
        chroma = _window(seen, half.w, half.h, layout.chroma_width, layout.chroma_height)
        method = _method(step, luma=False)
        if layout.format is PixelFormat.I420:
            for k in (1, 2):
                self._draw(source[k], chroma, part_of(canvas[k], half), method)
            return
        drawn = np.empty((half.h, half.w, 2), np.uint8)
        self._draw(source[1].reshape(layout.chroma_height, -1, 2), chroma, drawn, method)
        for k in (1, 2):
            part_of(canvas[k], half)[:] = drawn[:, :, k - 1]

    def _draw(self, plane: Plane, window: Window, tile: Plane, method: int) -> None:
        """Fill `tile` with what `window` shows of `plane`."""
        x, y = window.x, window.y
        crop = plane[y.start : y.start + y.length, x.start : x.start + x.length]
        large = self._space((y.scaled, x.scaled, *tile.shape[2:]))
        drawn = cv2.resize(crop, None, dst=large, fx=window.fx, fy=window.fy, interpolation=method)
        rows, columns = tile.shape[:2]
        tile[:] = drawn[y.offset : y.offset + rows, x.offset : x.offset + columns]

    def _space(self, shape: tuple[int, ...]) -> Plane:
        """Memory for an enlarged crop, kept from frame to frame: fresh pages cost more than the
        copy out of it."""
        size = math.prod(shape)
        if self._scratch.size < size:
            self._scratch = np.empty(size, np.uint8)
        return self._scratch[:size].reshape(shape)


def _method(step: float, luma: bool) -> int:
    """Bicubic enlarges luma, where sharpness shows; bilinear does for chroma at a third of it."""
    if step >= AREA_FROM:
        return cv2.INTER_AREA
    return cv2.INTER_CUBIC if luma and step < 1 else cv2.INTER_LINEAR


def _window(view: View, columns: int, rows: int, width: int, height: int) -> Window:
    """How to draw `view` of a plane of `width` x `height` px into `columns` x `rows` px."""
    fx, fy = columns / view.w, rows / view.h
    return Window(cut(view.x, fx, columns, width), cut(view.y, fy, rows, height), fx, fy)


def cut(position: float, scale: float, size: int, limit: int) -> Cut:
    """Where to crop and where the tile lies in the enlarged crop, so that its left edge shows
    `position` (source px) as exactly as whole numbers allow.

    `scale` is output px per source px, `size` the tile's length in output px, `limit` the plane's
    length in source px; `position + size / scale` does not exceed it.
    """
    best, best_error = Cut(0, limit, round(limit * scale), 0), math.inf
    first = max(0, math.floor(position) - MARGIN)
    for start in range(first, max(-1, first - REACH), -1):
        offset = round((position - start) * scale)
        length = min(limit - start, math.ceil((offset + size) / scale) + MARGIN)
        scaled = round(length * scale)
        offset = min(offset, scaled - size)
        error = abs(start + offset / scale - position)
        if offset >= 0 and error < best_error - EXACT:
            best, best_error = Cut(start, length, scaled, offset), error
        if best_error <= EXACT:
            break
    return best


def _chroma_view(view: View, tile: Rect, layout: FrameLayout) -> View:
    """The view in px of a chroma plane.

    4:2:0 of MPEG-2 and later has its chroma samples on every second luma column, and between two
    rows. Across, the samples are thus a quarter chroma px off the middle of their two columns, in
    the source as in the output: that makes a quarter of (1 - source px per output px).
    """
    w, h = view.w / 2, view.h / 2
    x = view.x / 2 + 0.25 * (1 - view.w / tile.w)
    y = min(view.y / 2, layout.chroma_height - h)
    return View(min(max(x, 0.0), layout.chroma_width - w), max(y, 0.0), w, h)


def _covered(output: OutputPlan) -> bool:
    """Whether the two tiles, which never overlap, leave nothing of the canvas."""
    return sum(t.w * t.h for t in output.tiles) == output.width * output.height
