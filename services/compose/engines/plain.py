"""Tiles with nothing but NumPy's indexing: plain to look at, and nothing in it can crash."""

from __future__ import annotations

import numpy as np

from services.compose.camera import View
from shared.jobs import OutputPlan, Rect
from shared.media.layout import FrameLayout, PixelFormat, Plane, Planes


class PlainRenderer:
    """A `Renderer` that takes the nearest sample; I420 and NV12 sources."""

    name = "plain"

    def render(
        self,
        source: Planes,
        source_layout: FrameLayout,
        views: tuple[View, View],
        output: OutputPlan,
        canvas: Planes,
    ) -> None:
        """See `Renderer.render`."""
        canvas[0][:] = 0 if output.color.full_range else 16
        for plane in canvas[1:]:
            plane[:] = 128
        chroma = source[1:]
        if source_layout.format is PixelFormat.NV12:
            pairs = source[1].reshape(source_layout.chroma_height, source_layout.chroma_width, 2)
            chroma = (pairs[..., 0], pairs[..., 1])
        for view, tile in zip(views, output.tiles, strict=True):
            _check(view, source_layout)
            _draw(source[0], canvas[0], view, tile, 1)
            for given, made in zip(chroma, canvas[1:], strict=True):
                _draw(given, made, view, tile, 2)


def _check(view: View, layout: FrameLayout) -> None:
    inside = view.x >= 0 and view.y >= 0 and view.w > 0 and view.h > 0
    if not inside or view.x + view.w > layout.width or view.y + view.h > layout.height:
        raise ValueError(f"{view} leaves the frame of {layout.width}x{layout.height}")


def _draw(given: Plane, made: Plane, view: View, tile: Rect, step: int) -> None:
    """One plane of one tile; `step` is 2 for chroma, which has half the samples each way."""
    rows = _nearest(view.y / step, view.h / step, tile.h // step, given.shape[0])
    columns = _nearest(view.x / step, view.w / step, tile.w // step, given.shape[1])
    top, left = tile.y // step, tile.x // step
    made[top : top + len(rows), left : left + len(columns)] = given[np.ix_(rows, columns)]


def _nearest(start: float, length: float, count: int, limit: int) -> np.ndarray:
    """The sample under the middle of each of `count` output samples."""
    middles = start + (np.arange(count) + 0.5) * (length / count)
    return np.clip(middles.astype(np.intp), 0, limit - 1)
