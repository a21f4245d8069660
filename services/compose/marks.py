"""Boxes around the faces of the two persons, for results that are to show what the system saw.

Pure: a batch's plan holds where the faces were seen; between two detections they are interpolated.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from shared.jobs import OutputPlan, Rect
from shared.tracks import BatchPlan, FaceBox, View


class Colour(NamedTuple):
    """Samples of 8-bit YUV."""

    y: int
    u: int
    v: int


class Mark(NamedTuple):
    """A filled rectangle of the output picture, in px; its four numbers are even."""

    rect: Rect
    colour: Colour


# BT.709 in limited range: orange for the first (left, top) person, sky blue for the second. Other
# matrices and ranges give shades of the same.
COLOURS = (Colour(161, 49, 176), Colour(151, 175, 74))

BOLD_FROM_PX = 480
"""Shorter side of a tile from which lines are 4 px instead of 2."""


def marks_of(plan: BatchPlan, output: OutputPlan) -> list[tuple[Mark, ...]]:
    """What to draw over each frame of the batch: in each tile the face of its own person, lines of
    2 or 4 px around it. Nothing where nobody was seen, or what lies beyond the tile.

    A plan of an older release knows no faces: then there are no marks.
    """
    marks: list[tuple[Mark, ...]] = [()] * len(plan.views)
    for frame, boxes in _shown(plan):
        found: list[Mark] = []
        for place, box in enumerate(boxes):
            if box is not None:
                view, tile = plan.views[frame][place], output.tiles[place]
                found += [Mark(bar, COLOURS[place]) for bar in _outline(box, view, tile)]
        marks[frame] = tuple(found)
    return marks


Boxes = tuple[FaceBox | None, FaceBox | None]


def _shown(plan: BatchPlan) -> Iterator[tuple[int, Boxes]]:
    """The faces in the two places at each frame.

    Between two detections both places are held by who was there at the first, and a face is where
    its person's was, on the way to where it is, in whichever place, at the second.
    """
    steps = list(zip(plan.frames, plan.persons, plan.boxes, strict=False))
    if steps:
        yield steps[0][0], steps[0][2]
    for (start, persons, before), (end, later, after) in pairwise(steps):
        arrivals = dict(zip(later, after, strict=True))
        for frame in range(start + 1, end):
            part = (frame - start) / (end - start)
            first, second = (
                _between(box, arrivals.get(person), part)
                for person, box in zip(persons, before, strict=True)
            )
            yield frame, (first, second)
        yield end, after


def _between(a: FaceBox | None, b: FaceBox | None, part: float) -> FaceBox | None:
    """None where the face was missing at one of the two."""
    if a is None or b is None:
        return None
    return FaceBox(*(x + part * (y - x) for x, y in zip(a, b, strict=True)))


def _outline(box: FaceBox, view: View, tile: Rect) -> Iterator[Rect]:
    """The four bars around the face as the tile shows it, each as far as it lies in the tile."""
    across, down = tile.w / view.w, tile.h / view.h
    left, top = _even((box.x - view.x) * across), _even((box.y - view.y) * down)
    right = _even((box.x + box.w - view.x) * across)
    bottom = _even((box.y + box.h - view.y) * down)
    line = 4 if min(tile.w, tile.h) >= BOLD_FROM_PX else 2
    for x, y, end_x, end_y in (
        (left - line, top - line, right + line, top),
        (left - line, bottom, right + line, bottom + line),
        (left - line, top, left, bottom),
        (right, top, right + line, bottom),
    ):
        x, y, end_x, end_y = max(x, 0), max(y, 0), min(end_x, tile.w), min(end_y, tile.h)
        if x < end_x and y < end_y:
            yield Rect(x=tile.x + x, y=tile.y + y, w=end_x - x, h=end_y - y)


def _even(px: float) -> int:
    """To the nearest even whole number: chroma has half the samples."""
    return 2 * round(px / 2)
