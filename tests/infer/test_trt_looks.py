"""Looking at many frames at once, against looking at them one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.infer.engines.looks import PATIENCE, PEOPLE, Faces, at_once, one_by_one
from shared.faces import Face
from shared.media.layout import FrameLayout, Planes

LAYOUT = FrameLayout(width=8, height=8)

Seen = tuple[int, int]
"""How many faces a frame shows at the first look, and at the second."""


@dataclass
class Looks:
    """Counts the looks at frames whose faces are known by their first sample."""

    shown: Sequence[Seen]
    calls: list[tuple[int, list[int]]] = field(default_factory=list)

    @property
    def frames(self) -> list[Planes]:
        made = [LAYOUT.planes(np.zeros(LAYOUT.frame_bytes, np.uint8)) for _ in self.shown]
        for number, planes in enumerate(made):
            planes[0][:] = number
        return made

    def many(self, look: int, frames: Sequence[Planes]) -> list[Faces]:
        numbers = [int(planes[0][0, 0]) for planes in frames]
        self.calls.append((look, numbers))
        return [
            tuple(Face(x=n, y=look, w=1, h=1, score=1) for _ in range(self.shown[n][look]))
            for n in numbers
        ]

    def one(self, look: int, planes: Planes) -> Faces:
        return self.many(look, [planes])[0]

    def sequential(self) -> list[Faces]:
        return one_by_one(self.frames, lambda p: self.one(0, p), lambda p: self.one(1, p))

    def batched(self) -> list[Faces]:
        return at_once(self.frames, lambda f: self.many(0, f), lambda f: self.many(1, f))


frames_seen = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=20)


@given(frames_seen)
def test_each_frame_that_was_looked_at_as_often_has_the_same_faces_and_no_other_fewer(
    shown: list[Seen],
) -> None:
    slow, quick = Looks(shown), Looks(shown)
    patient, eager = slow.sequential(), quick.batched()
    again = {number for look, numbers in slow.calls if look == 1 for number in numbers}
    for number, (one, two) in enumerate(zip(patient, eager, strict=True)):
        if number in again or shown[number][0] >= PEOPLE:
            assert one == two
        else:
            assert len(two) >= len(one)


@given(frames_seen)
def test_at_once_takes_one_call_for_each_look_at_most(shown: list[Seen]) -> None:
    looks = Looks(shown)
    looks.batched()
    few = [number for number, (first, _) in enumerate(shown) if first < PEOPLE]
    expected = [(0, list(range(len(shown)))), *([(1, few)] if few else [])]
    assert looks.calls == expected


def test_at_once_finds_what_patience_would_have_missed() -> None:
    shown = [(0, 0)] * PATIENCE + [(0, 1)]
    assert [len(faces) for faces in Looks(shown).sequential()] == [0] * (PATIENCE + 1)
    assert [len(faces) for faces in Looks(shown).batched()] == [0] * PATIENCE + [1]


def test_where_looks_help_both_are_the_same() -> None:
    shown = [(1, 2)] * 9
    assert Looks(shown).sequential() == Looks(shown).batched()


@pytest.mark.parametrize("order", [one_by_one, at_once])
def test_without_a_second_look_there_is_none(order: object) -> None:
    looks = Looks([(0, 2), (1, 2)])
    if order is one_by_one:
        found = one_by_one(looks.frames, lambda p: looks.one(0, p), None)
    else:
        found = at_once(looks.frames, lambda f: looks.many(0, f), None)
    assert [len(faces) for faces in found] == [0, 1]
