"""Pure decisions of detection: which frames to look at, and how large."""

from __future__ import annotations

BEGINNING_EVERY = 2
"""Frames per detection in a job's first batch, of which compose knows nothing from before."""


def interval(every: int, beginning: bool) -> int:
    """Frames per detection: `every`, but a job's beginning is looked at more closely."""
    return min(every, BEGINNING_EVERY) if beginning else every


def frames_to_detect(count: int, every: int) -> tuple[int, ...]:
    """Indices (0-based, ascending) of the frames of a batch of `count` frames to look at.

    The first and the last are always among them, so that what lies between can be interpolated
    within the batch; gaps are as even as whole numbers allow and at most `every`.
    Raises ValueError unless both are positive.
    """
    if count < 1 or every < 1:
        raise ValueError(f"count {count} and every {every} must be positive")
    if count == 1:
        return (0,)
    gaps = -(-(count - 1) // every)
    return tuple(i * (count - 1) // gaps for i in range(gaps + 1))


def fitted_size(width: int, height: int, into: tuple[int, int]) -> tuple[int, int]:
    """Size (w, h) in px of a frame scaled to fit just inside `into` (w, h); sides >= 1."""
    scale = min(into[0] / width, into[1] / height)
    w, h = max(1, round(width * scale)), max(1, round(height * scale))
    return min(w, into[0]), min(h, into[1])


def picture_size(width: int, height: int, long_side: int) -> tuple[int, int]:
    """Size (w, h) in px of a frame scaled so that its longer side is `long_side`; sides >= 1."""
    scale = long_side / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def input_size(width: int, height: int, long_side: int, multiple: int) -> tuple[int, int]:
    """Size (w, h) in px of a model's input for a frame: `picture_size` padded to the multiple."""
    w, h = picture_size(width, height, long_side)
    return -(-w // multiple) * multiple, -(-h // multiple) * multiple
