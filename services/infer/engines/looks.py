"""How often frames are looked at: all of them once, those with too few faces again, larger.

Two orders of the same. `one_by_one` is for a CPU, where a larger look costs three to four times the
first one: it stops taking them while they find nothing. `at_once` is for a GPU, where pictures are
cheap and starting work is not: every frame that `one_by_one` might look at again is looked at, in
one go. So both give the same faces for each frame that `one_by_one` had patience for (and for all
that need no second look), and where it had none left, `at_once` may find more, never fewer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from services.infer.plan import fitted_size, input_size, picture_size
from shared.faces import Face
from shared.media.layout import FrameLayout, Planes
from shared.models import ModelEntry

Faces = tuple[Face, ...]

PEOPLE = 2
"""A frame with fewer faces than this at the first look gets the second, larger one."""

PATIENCE = 2
MOST_PATIENCE = 3
"""Larger looks in vain that a batch begins with, and the most it can earn by looks that helped."""


@dataclass(frozen=True)
class Look:
    """One size of picture: `w`, `h` of the picture, `padded` (w, h) of the model's input, in px."""

    w: int
    h: int
    padded: tuple[int, int]


def look_of(entry: ModelEntry, layout: FrameLayout, side: int) -> Look:
    """`side` is the picture's longer one, in px, where the model does not fix its input."""
    if entry.fixed_input is not None:
        w, h = fitted_size(layout.width, layout.height, entry.fixed_input)
        return Look(w, h, entry.fixed_input)
    w, h = picture_size(layout.width, layout.height, side)
    return Look(w, h, input_size(layout.width, layout.height, side, entry.side_multiple))


def one_by_one(
    frames: Sequence[Planes],
    first: Callable[[Planes], Faces],
    closer: Callable[[Planes], Faces] | None,
) -> list[Faces]:
    """Faces of each frame. `closer` is the larger look, None where there is none.

    A look in vain makes more of them in this batch unlikely to help, one that finds more makes it
    likely (a face too small, or turned away now and then): each kind of frame, by the number of
    faces found at first, has its own patience.
    """
    found = []
    patience = [PATIENCE] * PEOPLE
    for planes in frames:
        faces = first(planes)
        seen = len(faces)
        if closer is not None and seen < PEOPLE and patience[seen] > 0:
            more = closer(planes)
            helped = len(more) > seen
            patience[seen] = min(MOST_PATIENCE, patience[seen] + (1 if helped else -1))
            faces = more if helped else faces
        found.append(faces)
    return found


def at_once(
    frames: Sequence[Planes],
    first: Callable[[Sequence[Planes]], list[Faces]],
    closer: Callable[[Sequence[Planes]], list[Faces]] | None,
) -> list[Faces]:
    """As `one_by_one`, for looks at many frames at a time, and with endless patience."""
    found = first(frames)
    if closer is None:
        return found
    few = [index for index, faces in enumerate(found) if len(faces) < PEOPLE]
    if few:
        larger = closer([frames[index] for index in few])
        for index, faces in zip(few, larger, strict=True):
            if len(faces) > len(found[index]):
                found[index] = faces
    return found
