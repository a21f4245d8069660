"""What every renderer in host memory does with its canvas."""

from __future__ import annotations

from shared.jobs import OutputPlan, Rect
from shared.media.layout import FrameLayout, PixelFormat, Plane, Planes
from shared.tracks import View


def part_of(plane: Plane, rect: Rect) -> Plane:
    """The rectangle of the plane, as a view."""
    return plane[rect.y : rect.y + rect.h, rect.x : rect.x + rect.w]


def blacken(canvas: Planes, full_range: bool) -> None:
    """Black all over, in the range of the output."""
    canvas[0][:] = 0 if full_range else 16
    for plane in canvas[1:]:
        plane[:] = 128


def check(
    source: Planes,
    layout: FrameLayout,
    views: tuple[View, View],
    output: OutputPlan,
    canvas: Planes,
) -> None:
    """Raise ValueError as `Renderer.render` says: wrong shapes would be resized or broadcast
    without a word, so they are refused here."""
    across = layout.chroma_width
    chroma = [(layout.chroma_height, across)] * 2
    if layout.format is PixelFormat.NV12:
        chroma = [(layout.chroma_height, 2 * across)]
    if [p.shape for p in source] != [(layout.height, layout.width), *chroma]:
        raise ValueError(f"source planes do not fit {layout.width}x{layout.height} {layout.format}")
    half = (output.height // 2, output.width // 2)
    if [p.shape for p in canvas] != [(output.height, output.width), half, half]:
        raise ValueError(f"the canvas is not I420 of {output.width}x{output.height}")
    for v in views:
        inside = v.x >= 0 and v.y >= 0 and v.w > 0 and v.h > 0
        if not inside or v.x + v.w > layout.width or v.y + v.h > layout.height:
            raise ValueError(f"the view {tuple(v)} leaves the frame")
