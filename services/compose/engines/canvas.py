"""What every renderer does with its canvas: check it, blacken it, put marks on it."""

from __future__ import annotations

from collections.abc import Sequence

from services.compose.engines.geometry import halved
from services.compose.marks import Colour, Mark
from shared.jobs import OutputPlan, Rect
from shared.media.layout import FrameLayout, PixelFormat, Plane, Planes
from shared.tracks import View

NEUTRAL = 128
"""Chroma without colour, in both ranges."""


def part_of(plane: Plane, rect: Rect) -> Plane:
    """The rectangle of the plane, as a view."""
    return plane[rect.y : rect.y + rect.h, rect.x : rect.x + rect.w]


def chroma_of(planes: Planes) -> tuple[Plane, Plane]:
    """U and V in host memory, each 2-D; views in NV12, where they are two bytes apart."""
    if len(planes) == 3:
        return planes[1], planes[2]
    pairs = pairs_of(planes)
    return pairs[..., 0], pairs[..., 1]


def pairs_of(planes: Planes) -> Plane:
    """U and V of NV12 as one array (rows, columns, 2)."""
    return planes[1].reshape(planes[1].shape[0], -1, 2)


def black(output: OutputPlan) -> Colour:
    """In the range of the output."""
    return Colour(0 if output.color.full_range else 16, NEUTRAL, NEUTRAL)


def covered(output: OutputPlan) -> bool:
    """Whether the two tiles, which never overlap, leave nothing of the canvas."""
    return sum(t.w * t.h for t in output.tiles) == output.width * output.height


def blacken(canvas: Planes, output: OutputPlan) -> None:
    """Black all over."""
    canvas[0][:] = black(output).y
    for plane in canvas[1:]:
        plane[:] = NEUTRAL


def put_marks(canvas: Planes, marks: Sequence[Mark]) -> None:
    """Fill the marks' rectangles, in order."""
    for mark in marks:
        for plane, rect, value in zip(
            (canvas[0], *chroma_of(canvas)),
            (mark.rect, halved(mark.rect), halved(mark.rect)),
            mark.colour,
            strict=True,
        ):
            part_of(plane, rect)[:] = value


def check(
    source: Planes,
    layout: FrameLayout,
    views: tuple[View, View],
    output: OutputPlan,
    canvas: Planes,
) -> None:
    """Raise ValueError as `Renderer.render` says: wrong shapes would be resized or broadcast
    without a word, so they are refused here."""
    if not _fit(source, layout):
        raise ValueError(f"source planes do not fit {layout.width}x{layout.height} {layout.format}")
    packed = PixelFormat.NV12 if len(canvas) == 2 else PixelFormat.I420
    if not _fit(canvas, FrameLayout(width=output.width, height=output.height, format=packed)):
        raise ValueError(f"the canvas is not I420 or NV12 of {output.width}x{output.height}")
    for v in views:
        inside = v.x >= 0 and v.y >= 0 and v.w > 0 and v.h > 0
        if not inside or v.x + v.w > layout.width or v.y + v.h > layout.height:
            raise ValueError(f"the view {tuple(v)} leaves the frame")


def _fit(planes: Planes, layout: FrameLayout) -> bool:
    down, across = layout.chroma_height, layout.chroma_width
    packed = layout.format is PixelFormat.NV12
    chroma = [(down, 2 * across)] if packed else [(down, across)] * 2
    return [p.shape for p in planes] == [(layout.height, layout.width), *chroma]
