"""Where a view's pixels come from and go to: one answer for all renderers that interpolate.

A view begins at a fraction of a pixel, but `cv2.resize` takes whole ones, and rounding would show
as a jitter of up to 1.7 output pixels in a slow pan. `cv2.warpAffine` takes fractions and costs
five to nine times as much. So each axis works like a vernier: a crop of whole pixels that begins a
little before the view is enlarged by the exact scale, and the tile is cut out of the result at a
whole *output* pixel. With `s` source px per output px, crop starts `x0` and offsets `o` reach the
positions `x0 + o * s`; among `REACH` crop starts the nearest to the wanted one is taken. At
s = 0.6 the error is at most 0.1 source px; only for s = 1, 1/2, ... it stays half an output px.

A GPU could take fractions at no cost, and follows all the same: its pictures are then those of the
CPU, whichever draws the next batch of a job.
"""

from __future__ import annotations

import math
from enum import IntEnum
from typing import NamedTuple

from shared.jobs import Rect
from shared.media.layout import FrameLayout
from shared.tracks import View

REACH = 6
"""Crop starts tried per axis: 6 px more to enlarge, 2 % of the work at 1080p."""

MARGIN = 2
"""Source px around the view that bicubic interpolation reads."""

AREA_FROM = 1.3
"""Source px per output px from which averaging replaces bilinear: below, bilinear skips no source
px, and averaging would blur unevenly."""

EXACT = 1e-3
"""Px of error at which the search for a better crop start ends."""


class Method(IntEnum):
    """How samples are made of others; the numbers are those of tiles.cu."""

    LINEAR = 0
    CUBIC = 1
    AREA = 2


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


class Drawing(NamedTuple):
    """How one tile is drawn: of the luma plane into the tile, of the chroma planes into `half`."""

    luma: Window
    luma_method: Method
    chroma: Window
    chroma_method: Method
    half: Rect


def drawing(view: View, tile: Rect, layout: FrameLayout) -> Drawing:
    """How to draw `view` of a frame into `tile`."""
    steps = view.w / tile.w, view.h / tile.h
    luma = window(view, tile.w, tile.h, layout.width, layout.height)
    half = halved(tile)
    # Colour goes where brightness really is, not where it should be: both are off by a little.
    seen = chroma_view(luma.shown(view), tile, layout)
    chroma = window(seen, half.w, half.h, layout.chroma_width, layout.chroma_height)
    return Drawing(luma, _method(steps, luma=True), chroma, _method(steps, luma=False), half)


def halved(rect: Rect) -> Rect:
    """The same rectangle in px of a chroma plane; all four numbers of `rect` are even."""
    return Rect(x=rect.x // 2, y=rect.y // 2, w=rect.w // 2, h=rect.h // 2)


def _method(steps: tuple[float, float], luma: bool) -> Method:
    """Bicubic enlarges luma, where sharpness shows; bilinear does for chroma at a third of it. What
    is shrunk one way and enlarged the other (pixels that are not square) can't be averaged."""
    if max(steps) >= AREA_FROM and min(steps) >= 1:
        return Method.AREA
    return Method.CUBIC if luma and max(steps) < 1 else Method.LINEAR


def window(view: View, columns: int, rows: int, width: int, height: int) -> Window:
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


def chroma_view(view: View, tile: Rect, layout: FrameLayout) -> View:
    """The view in px of a chroma plane.

    4:2:0 of MPEG-2 and later has its chroma samples on every second luma column, and between two
    rows. Across, the samples are thus a quarter chroma px off the middle of their two columns, in
    the source as in the output: that makes a quarter of (1 - source px per output px).
    """
    w, h = view.w / 2, view.h / 2
    x = view.x / 2 + 0.25 * (1 - view.w / tile.w)
    y = min(view.y / 2, layout.chroma_height - h)
    return View(min(max(x, 0.0), layout.chroma_width - w), max(y, 0.0), w, h)
