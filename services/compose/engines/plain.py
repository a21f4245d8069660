"""Tiles with nothing but NumPy's indexing: plain to look at, and nothing in it can crash."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from services.compose.engines.canvas import blacken, check, chroma_of, part_of, put_marks
from services.compose.marks import Mark
from shared.cuda.memory import Memory
from shared.jobs import OutputPlan, Rect
from shared.media.layout import FrameLayout, Plane, Planes
from shared.tracks import View


class PlainRenderer:
    """A `Renderer` that takes the nearest sample, on planes in host memory."""

    name = "plain"
    memory: Memory = "host"

    def render(
        self,
        source: Planes,
        source_layout: FrameLayout,
        views: tuple[View, View],
        output: OutputPlan,
        canvas: Planes,
        marks: Sequence[Mark] = (),
    ) -> None:
        """See `Renderer.render`."""
        check(source, source_layout, views, output, canvas)
        blacken(canvas, output)
        for view, tile in zip(views, output.tiles, strict=True):
            _draw(source[0], canvas[0], view, tile, 1)
            for given, made in zip(chroma_of(source), chroma_of(canvas), strict=True):
                _draw(given, made, view, tile, 2)
        put_marks(canvas, marks)


def _draw(given: Plane, made: Plane, view: View, tile: Rect, step: int) -> None:
    """One plane of one tile; `step` is 2 for chroma, which has half the samples each way."""
    rows = _nearest(view.y / step, view.h / step, tile.h // step, given.shape[0])
    columns = _nearest(view.x / step, view.w / step, tile.w // step, given.shape[1])
    place = Rect(x=tile.x // step, y=tile.y // step, w=len(columns), h=len(rows))
    part_of(made, place)[:] = given[np.ix_(rows, columns)]


def _nearest(start: float, length: float, count: int, limit: int) -> np.ndarray:
    """The sample under the middle of each of `count` output samples."""
    middles = start + (np.arange(count) + 0.5) * (length / count)
    return np.clip(middles.astype(np.intp), 0, limit - 1)
