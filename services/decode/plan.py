"""Pure decisions of this stage: where to cut, how many frames a slot holds, which to keep."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import floor

from shared.errors import ErrorCode, PermanentError
from shared.media.layout import FrameLayout


@dataclass(frozen=True, slots=True)
class Keyframe:
    """What decides whether a segment may begin at a keyframe; times in ticks."""

    pts: int
    clean: bool
    """Decoding may begin here: all frames from here on, in display order, come out right."""
    latest_pts: int | None
    """Greatest pts among the packets before it in decode order."""


def may_cut(key: Keyframe) -> bool:
    """True when every frame before `key` in display order, and only those, can be told by pts.

    A packet before it with a later pts would be owned by the new segment without being in it.
    """
    return key.clean and (key.latest_pts is None or key.latest_pts < key.pts)


def long_enough(first_pts: int, key_pts: int, tick_s: Fraction, target_s: float) -> bool:
    """True when the segment from `first_pts` to `key_pts` has reached its length."""
    return (key_pts - first_pts) * tick_s >= target_s


def batch_frames(slot_bytes: int, layout: FrameLayout, most: int) -> int:
    """Frames per batch: as many as fit into a slot, at most `most`.

    Raises PermanentError when not even one frame fits.
    """
    fitting = slot_bytes // layout.frame_bytes
    if fitting < 1:
        raise PermanentError(
            ErrorCode.TOO_LARGE,
            f"One {layout.width}x{layout.height} frame needs {layout.frame_bytes} bytes but an "
            f"arena slot has {slot_bytes}; set DUALFACE_ARENA_MIB to more or scale the video down.",
        )
    return max(1, min(fitting, most))


def batch_length(frames: int, most: int, index: int) -> int:
    """Frames of batch `index` of a segment that owns `frames`: at most `most`, all about as many.

    Full batches and a remainder would leave chunks of few frames, whose IDR is dear, and at one
    frame two IDR pictures in a row, which H.264 wants told apart (7.4.3, idr_pic_id) and encoders
    that know nothing of each other do not. Beyond the frames expected: `most`.
    """
    batches = -(-frames // most)
    if index >= batches:
        return most
    return frames * (index + 1) // batches - frames * index // batches


def keeps(pts: int, previous_pts: int | None, tick_s: Fraction, fps_limit: float | None) -> bool:
    """Whether the frame at `pts` is kept under a limit of `fps_limit` frames per second.

    Time is cut into buckets of 1 / limit and the first frame of each is kept; `previous_pts` is
    that of the frame shown before, kept or not. So any segment decides alone, alike on every
    repeat. A frame counts as one tick later than it is: times rounded to a coarse time base (1 ms
    in Matroska) would else fall on both sides of a boundary at exactly the limit's rate.
    """
    if fps_limit is None or previous_pts is None:
        return True
    limit = Fraction(fps_limit)
    return _bucket(pts, tick_s, limit) != _bucket(previous_pts, tick_s, limit)


def _bucket(pts: int, tick_s: Fraction, limit: Fraction) -> int:
    return floor((pts + 1) * tick_s * limit)
