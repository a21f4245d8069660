"""Tiles on the CPU: OpenCV straight on the YUV planes, no colour conversion."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from services.compose.engines.canvas import (
    blacken,
    check,
    chroma_of,
    covered,
    pairs_of,
    part_of,
    put_marks,
)
from services.compose.engines.geometry import Drawing, Method, Window, drawing
from services.compose.marks import Mark
from shared.cuda.memory import Memory
from shared.jobs import OutputPlan
from shared.media.layout import FrameLayout, Plane, Planes
from shared.tracks import View

_METHODS = {
    Method.LINEAR: cv2.INTER_LINEAR,
    Method.CUBIC: cv2.INTER_CUBIC,
    Method.AREA: cv2.INTER_AREA,
}


def use_one_thread() -> None:
    """Keep OpenCV to the calling thread, for this process: parallelism comes from processes."""
    cv2.setNumThreads(1)


class OpenCvRenderer:
    """Draws with OpenCV on planes in host memory. Not for two threads."""

    memory: Memory = "host"

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
        marks: Sequence[Mark] = (),
    ) -> None:
        """See `Renderer.render`."""
        check(source, source_layout, views, output, canvas)
        if not covered(output):
            blacken(canvas, output)
        for view, tile in zip(views, output.tiles, strict=True):
            way = drawing(view, tile, source_layout)
            self._draw(source[0], way.luma, part_of(canvas[0], tile), way.luma_method)
            self._chroma(source, way, canvas)
        put_marks(canvas, marks)

    def _chroma(self, source: Planes, way: Drawing, canvas: Planes) -> None:
        """Both colours, at once where they lie in pairs in the source."""
        if len(source) == 3:
            for given, made in zip(source[1:], chroma_of(canvas), strict=True):
                self._draw(given, way.chroma, part_of(made, way.half), way.chroma_method)
            return
        if len(canvas) == 2:
            made = part_of(pairs_of(canvas), way.half)
            self._draw(pairs_of(source), way.chroma, made, way.chroma_method)
            return
        drawn = np.empty((way.half.h, way.half.w, 2), np.uint8)
        self._draw(pairs_of(source), way.chroma, drawn, way.chroma_method)
        for k in (1, 2):
            part_of(canvas[k], way.half)[:] = drawn[:, :, k - 1]

    def _draw(self, plane: Plane, window: Window, tile: Plane, method: Method) -> None:
        """Fill `tile` with what `window` shows of `plane`."""
        x, y = window.x, window.y
        crop = plane[y.start : y.start + y.length, x.start : x.start + x.length]
        large = self._space((y.scaled, x.scaled, *crop.shape[2:]))
        drawn = cv2.resize(
            crop, None, dst=large, fx=window.fx, fy=window.fy, interpolation=_METHODS[method]
        )
        rows, columns = tile.shape[:2]
        tile[:] = drawn[y.offset : y.offset + rows, x.offset : x.offset + columns]

    def _space(self, shape: tuple[int, ...]) -> Plane:
        """Memory for an enlarged crop, kept from frame to frame: fresh pages cost more than the
        copy out of it."""
        size = math.prod(shape)
        if self._scratch.size < size:
            self._scratch = np.empty(size, np.uint8)
        return self._scratch[:size].reshape(shape)
