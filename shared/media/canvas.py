"""The picture to make of a source: canvas, tiles, size. Pure; the client plans with it, too."""

from __future__ import annotations

from fractions import Fraction

from shared.jobs import (
    SMALLEST_PX,
    JobSpec,
    Layout,
    OutputPlan,
    Ratio,
    Rect,
    SourceInfo,
    check_choices,
)

LONGEST_PX = 1920
SHORTEST_PX = 1080
"""A derived canvas is at most 1920x1080 (or upright): a crop around one face of a 4K source is
about its native resolution in half of that, so more pixels would cost time and show nothing."""


def plan_output(spec: JobSpec, source: SourceInfo) -> OutputPlan:
    """The picture to make of `source`.

    Raises PermanentError BAD_OPTION for a size, preset or combination that can't be made.
    """
    check_choices(spec)
    if spec.size is None:
        width, height = _derived_size(spec.layout, source)
    else:
        width, height = spec.size
    width, height = _halvable(spec.layout, width, height)
    return OutputPlan(
        width=width,
        height=height,
        tiles=_tiles(spec.layout, width, height),
        codec=spec.codec,
        crf=spec.crf,
        preset=spec.preset,
        color=source.color,
        time_base=source.time_base,
        frame_rate=_frame_rate(source.frame_rate, spec.fps_limit),
    )


def _derived_size(layout: Layout, source: SourceInfo) -> tuple[int, int]:
    """Source's displayed size turned the layout's way, scaled down into the largest canvas."""
    aspect = Fraction(*source.sample_aspect) if source.sample_aspect[0] > 0 else Fraction(1)
    sides = (round(source.width * aspect), source.height)
    long, short = max(sides), min(sides)
    scale = min(Fraction(1), Fraction(LONGEST_PX, long), Fraction(SHORTEST_PX, short))
    long, short = (max(SMALLEST_PX, int(side * scale) // 2 * 2) for side in (long, short))
    return (long, short) if layout is Layout.SIDE_BY_SIDE else (short, long)


def _halvable(layout: Layout, width: int, height: int) -> tuple[int, int]:
    """The canvas shrunk so that each half has even sides: the halved side is a multiple of 4."""
    if layout is Layout.SIDE_BY_SIDE:
        return width // 4 * 4, height
    return width, height // 4 * 4


def _tiles(layout: Layout, width: int, height: int) -> tuple[Rect, Rect]:
    if layout is Layout.SIDE_BY_SIDE:
        half = width // 2
        return Rect(x=0, y=0, w=half, h=height), Rect(x=half, y=0, w=half, h=height)
    half = height // 2
    return Rect(x=0, y=0, w=width, h=half), Rect(x=0, y=half, w=width, h=half)


def _frame_rate(rate: Ratio, limit: float | None) -> Ratio:
    """Average frames per second after the limit; the times themselves stay the source's."""
    if limit is None or Fraction(*rate) <= limit:
        return rate
    kept = Fraction(limit).limit_denominator(1001)
    return kept.numerator, kept.denominator
