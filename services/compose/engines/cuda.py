"""Tiles on the GPU: NV12 to NV12, without a copy to the host."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from services.compose.engines.canvas import black, check, covered
from services.compose.engines.geometry import Window, drawing
from services.compose.marks import Mark
from shared.cuda.device import Device
from shared.cuda.memory import Memory
from shared.jobs import OutputPlan, Rect
from shared.media.layout import FrameLayout, Planes
from shared.tracks import View

_SOURCE = Path(__file__).with_name("tiles.cu")
_BLOCK = (32, 8, 1)
_ONE = 2**32


class CudaRenderer:
    """Draws with one launch per tile; not for two threads.

    The picture is OpenCvRenderer's to 2 of 255, so a batch may be drawn by either.
    """

    name = "cuda"
    memory: Memory = "device"

    def __init__(self, device: Device) -> None:
        """Compiles on first use on this machine. Raises EngineError where that fails."""
        self._draw = device.kernel(_SOURCE, "draw_tile")
        self._fill = device.kernel(_SOURCE, "fill")

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
        if len(source) != 2 or len(canvas) != 2:
            raise ValueError("source planes and canvas in device memory are NV12")
        check(source, source_layout, views, output, canvas)
        if not covered(output):
            whole = Rect(x=0, y=0, w=output.width, h=output.height)
            self._put(canvas, Mark(whole, black(output)))
        for view, tile in zip(views, output.tiles, strict=True):
            self._tile(source, source_layout, view, tile, canvas)
        for mark in marks:
            self._put(canvas, mark)

    def _tile(
        self, source: Planes, layout: FrameLayout, view: View, tile: Rect, canvas: Planes
    ) -> None:
        way = drawing(view, tile, layout)
        sizes = (layout.width, canvas[0].shape[1], tile.x, tile.y, tile.w, tile.h)
        self._draw(
            _grid(tile.w, tile.h, 2),
            _BLOCK,
            *source,
            *canvas,
            *(np.int32(number) for number in (*sizes, way.luma_method, way.chroma_method)),
            *_axes(way.luma),
            *_axes(way.chroma),
        )

    def _put(self, canvas: Planes, mark: Mark) -> None:
        """Fill a rectangle."""
        rect = mark.rect
        numbers = (canvas[0].shape[1], rect.x, rect.y, rect.w, rect.h)
        self._fill(
            _grid(rect.w // 2, rect.h // 2, 1),
            _BLOCK,
            *canvas,
            *(np.int32(number) for number in numbers),
            *(np.uint8(value) for value in mark.colour),
        )


def _axes(window: Window) -> Iterator[np.int32 | np.int64]:
    """Two parameter groups of `draw_tile`: each has start, length, offset, and source px per output
    px in Q32."""
    x, y = window.x, window.y
    # OpenCV copies what does not change its size, however the scale may differ from 1.
    copied = (x.scaled, y.scaled) == (x.length, y.length)
    for cut, scale in ((x, window.fx), (y, window.fy)):
        yield from (np.int32(cut.start), np.int32(cut.length), np.int32(cut.offset))
        yield np.int64(_ONE if copied else round(_ONE / scale))


def _grid(columns: int, rows: int, planes: int) -> tuple[int, int, int]:
    """Blocks that cover `columns` x `rows` threads, `planes` times."""
    return -(-columns // _BLOCK[0]), -(-rows // _BLOCK[1]), planes
