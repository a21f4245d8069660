"""Identities on real clips, judged by reference tracks that were looked over by a person."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.compose.plan import ComposeSettings, ComposeState, plan_batch
from services.compose.tracker import Box, grown_iou
from shared.faces import BatchFaces, Face
from tests.compose.scenes import side_by_side, source

Reference = dict[int, list[tuple[int, Face]]]
"""Frame (0-based) -> (identity, face)."""

CLIPS = {
    "intel-head-pose-face-detection-female-and-male": (480, 270, 56, 12.5),
    "intel-face-demographics-walking": (480, 270, 35, 12.5),
    "openh264-CiscoVT2people_320x192_12fps": (320, 192, 9, 12.0),
    "sam2-bedroom": (960, 540, 200, 30.0),
}
"""Width, height, frames, frames per second."""


def reference(footage: Path, clip: str) -> Reference:
    """MOT rows: frame from 1, id, x, y, w, h, score."""
    found: Reference = {}
    for line in (footage / "ref" / f"{clip}.facetracks.txt").read_text().splitlines():
        frame, who, x, y, w, h, score = (float(v) for v in line.split(",")[:7])
        face = Face(x=x, y=y, w=w, h=h, score=score)
        found.setdefault(int(frame) - 1, []).append((int(who), face))
    return found


def box(face: Face) -> Box:
    return Box(face.x + face.w / 2, face.y + face.h / 2, face.w, face.h)


def identities(truth: Reference, clip: str, every: int) -> dict[int, list[int]]:
    """Reference identity -> the persons it was taken for, one per change.

    Every frame that is looked at is a batch of its own, so that each step can be judged.
    """
    width, height, frames, fps = CLIPS[clip]
    state, taken = ComposeState(), dict[int, list[int]]()
    for frame in range(0, frames, every):
        there = truth.get(frame, [])
        state, _ = plan_batch(
            state,
            BatchFaces(frames=(0,), faces=(tuple(f for _, f in there),)),
            [round(frame * 600 / fps)],
            source(width, height),
            side_by_side(width, height),
            ComposeSettings(),
        )
        judge(state, there, taken)
    return taken


def judge(state: ComposeState, truth: list[tuple[int, Face]], taken: dict[int, list[int]]) -> None:
    for who, face in truth:
        for person in state.persons.places:
            if person is None or person.seen_s != state.persons.time_s:
                continue
            if grown_iou(person.box, box(face), 0.0) > 0.4 and taken.get(who, [0])[-1] != person.id:
                taken.setdefault(who, []).append(person.id)


@pytest.mark.footage
@pytest.mark.parametrize("every", [1, 2, 3, 5])
@pytest.mark.parametrize("clip", CLIPS)
def test_nobody_is_taken_for_somebody_else(footage: Path, clip: str, every: int) -> None:
    taken = identities(reference(footage, clip), clip, every)
    assert len(taken) == 2
    assert all(len(persons) == 1 for persons in taken.values())
    assert len({persons[0] for persons in taken.values()}) == 2


@pytest.mark.footage
@pytest.mark.parametrize("clip", [c for c in CLIPS if c != "sam2-bedroom"])
def test_two_people_who_stay_are_shown_without_a_cut(footage: Path, clip: str) -> None:
    width, height, frames, fps = CLIPS[clip]
    truth, state = reference(footage, clip), ComposeState()
    for start in range(0, frames, 32):
        count = min(32, frames - start)
        index = sorted({*range(0, count, 5), count - 1})
        faces = tuple(tuple(f for _, f in truth.get(start + i, [])) for i in index)
        state, plan = plan_batch(
            state,
            BatchFaces(frames=tuple(index), faces=faces),
            [round((start + i) * 600 / fps) for i in range(count)],
            source(width, height),
            side_by_side(width, height),
            ComposeSettings(),
        )
        assert plan.cuts == ()
        assert set(plan.persons) == {(1, 2)}
