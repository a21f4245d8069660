"""Who is shown where: the plan of a batch as the ledger keeps it, and the lines made of plans.

`jobs/ID/tracks.jsonl.gz` has one `TrackLine` (JSON) for each frame of the result, in order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple

from pydantic import Field

from shared.jobs import Model


class View(NamedTuple):
    """Left, top, width and height in px of the upright source frame, wholly inside it."""

    x: float
    y: float
    w: float
    h: float


Pair = tuple[View, View]
"""Of the first (left, top) and the second tile."""


class FaceBox(NamedTuple):
    """Left, top, width and height of a face in px of the upright source frame; may leave it."""

    x: float
    y: float
    w: float
    h: float


class BatchPlan(Model):
    """The views of every frame of a batch, and what a report wants to know of it.

    `views[i]` are frame i's views for the first (left, top) and the second tile. `persons[j]` are
    the identities in the two places at the j-th frame that detection looked at (`frames[j]`), 0 for
    nobody; `seen[j]` is how many of them were seen there.
    """

    views: tuple[Pair, ...]
    frames: tuple[int, ...]
    persons: tuple[tuple[int, int], ...]
    seen: tuple[int, ...]
    cuts: tuple[int, ...] = Field(default=(), description="frames that begin with a hard cut")
    boxes: tuple[tuple[FaceBox | None, FaceBox | None], ...] = Field(
        default=(), description="at each of `frames`, where the two faces were seen; whole px"
    )


class TrackLine(Model):
    """One frame. `pts` in ticks of the source's time base, `time_s` the same in seconds.

    `views`: which part of the upright source frame the first and the second tile show, px.
    `persons`: who is in the two places, 0 for nobody; it changes at frames that detection looked at
    (`detected`). Both None where the frame was not made (`replaced`: it shows the one before).
    """

    pts: int
    time_s: float
    views: Pair | None = None
    persons: tuple[int, int] | None = None
    detected: bool = False
    cut: bool = Field(default=False, description="the views jump here")
    replaced: bool = False


def track_lines(
    plan: BatchPlan | None, pts: Sequence[int], tick_s: Fraction, *, replaced: bool = False
) -> Iterator[TrackLine]:
    """The lines of a batch whose frames are at `pts`; without a plan there are no views."""
    if plan is None:
        for at in pts:
            yield TrackLine(pts=at, time_s=_seconds(at, tick_s), replaced=replaced)
        return
    known = dict(zip(plan.frames, plan.persons, strict=True))
    cuts, persons = set(plan.cuts), None
    for index, (at, views) in enumerate(zip(pts, plan.views, strict=True)):
        persons = known.get(index, persons)
        yield TrackLine(
            pts=at,
            time_s=_seconds(at, tick_s),
            views=views,
            persons=persons,
            detected=index in known,
            cut=index in cuts,
            replaced=replaced,
        )


def _seconds(pts: int, tick_s: Fraction) -> float:
    return round(float(pts * tick_s), 6)
