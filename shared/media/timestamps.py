"""Time as integers: ticks of a stream's time base, exact from demuxer to muxer."""

from __future__ import annotations

from fractions import Fraction

from shared.jobs import Ratio


def frame_ticks(frame_rate: Ratio, time_base: Ratio) -> int:
    """Length of one frame at `frame_rate` in ticks of `time_base`, rounded, at least 1."""
    return max(1, round(1 / (Fraction(*frame_rate) * Fraction(*time_base))))


def generated_pts(index: int, frame_rate: Ratio, time_base: Ratio) -> int:
    """pts in ticks of frame `index` (0-based, display order) of a source without timestamps.

    Rounded per frame from the exact product, so that no error adds up.
    """
    return round(index / (Fraction(*frame_rate) * Fraction(*time_base)))


def between(last: int, following: int | None, step: int) -> int | None:
    """A pts after `last` and before `following`, for a frame whose own pts can't be used.

    Halfway where the next pts is known, else `step` ticks on; None when there is no room.
    """
    if following is None:
        return last + step
    middle = (last + following) // 2
    return middle if last < middle < following else None
