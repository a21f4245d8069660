"""Boxes around faces: where they are seen, on the way between, and in which tile."""

from __future__ import annotations

import json

import pytest

from services.compose.marks import COLOURS, Mark, marks_of
from services.compose.plan import plan_batch
from shared.faces import BatchFaces
from shared.jobs import OutputPlan, Rect
from shared.tracks import BatchPlan, FaceBox, View
from tests.compose.scenes import Run, output, side_by_side, stacked, still, walk

PLAN = side_by_side(640, 360)
WHOLE = View(0, 0, 320, 360)
Boxes = tuple[FaceBox | None, FaceBox | None]


def plan(
    frames: tuple[int, ...],
    persons: tuple[tuple[int, int], ...],
    boxes: tuple[Boxes, ...],
    view: View = WHOLE,
) -> BatchPlan:
    """A batch whose views never move."""
    views = ((view, view),) * (frames[-1] + 1)
    seen = (2,) * len(frames)
    return BatchPlan(views=views, frames=frames, persons=persons, seen=seen, boxes=boxes)


def outlined(marks: tuple[Mark, ...], place: int) -> tuple[int, int, int, int] | None:
    """Left, top, right and bottom of what the place's lines surround; None without lines."""
    bars = [mark.rect for mark in marks if mark.colour == COLOURS[place]]
    if not bars:
        return None
    assert len(bars) == 4
    top, bottom, left, right = bars
    assert left.h == right.h == bottom.y - (top.y + top.h)
    return left.x + left.w, top.y + top.h, right.x, bottom.y


def test_lines_surround_the_face_in_the_tile_of_its_person() -> None:
    boxes = (FaceBox(100, 80, 60, 90), FaceBox(20, 40, 50, 60))
    # the view begins at (50, 30) and is enlarged by two
    view = View(50, 30, 160, 180)
    marks = marks_of(plan((0,), ((1, 2),), (boxes,), view), PLAN)[0]
    assert outlined(marks, 0) == (100, 100, 220, 280)
    assert [m.rect for m in marks if m.colour == COLOURS[1]] == [
        # of the second face, left of its view, only what is inside of the tile
        Rect(x=320, y=18, w=42, h=2),
        Rect(x=320, y=140, w=42, h=2),
        Rect(x=360, y=20, w=2, h=120),
    ]


def test_a_face_between_two_detections_is_on_its_way() -> None:
    here, there = FaceBox(100, 100, 60, 80), FaceBox(140, 60, 100, 120)
    made = marks_of(plan((0, 4), ((1, 0), (1, 0)), ((here, None), (there, None))), PLAN)
    assert [outlined(marks, 0) for marks in made] == [
        (100, 100, 160, 180),
        (110, 90, 180, 180),
        (120, 80, 200, 180),
        (130, 70, 220, 180),
        (140, 60, 240, 180),
    ]
    assert all(outlined(marks, 1) is None for marks in made)


def test_a_face_that_is_missing_at_a_detection_has_no_lines_on_the_way_there() -> None:
    box = FaceBox(100, 100, 60, 80)
    made = marks_of(plan((0, 2, 4), ((1, 0),) * 3, ((box, None), (None, None), (box, None))), PLAN)
    assert [bool(marks) for marks in made] == [True, False, False, False, True]


def test_lines_follow_a_person_to_the_place_they_change_to() -> None:
    a, b = FaceBox(40, 40, 40, 40), FaceBox(200, 40, 40, 40)
    made = marks_of(plan((0, 2), ((1, 2), (2, 1)), ((a, b), (b, a))), PLAN)
    # nobody moves; the tiles change owners at the second detection
    assert [outlined(marks, 0) for marks in made] == [(40, 40, 80, 80)] * 2 + [(200, 40, 240, 80)]
    # somebody else in the same place is not who was there
    fresh = marks_of(plan((0, 2), ((1, 0), (3, 0)), ((a, None), (b, None))), PLAN)
    assert [bool(marks) for marks in fresh] == [True, False, True]


@pytest.mark.parametrize("out", [side_by_side(1920, 1080), stacked(), side_by_side(320, 180)])
@pytest.mark.parametrize("seed", range(5))
def test_marks_lie_in_their_tile_on_whole_chroma_samples(out: OutputPlan, seed: int) -> None:
    far = walk([(0, 100 + 37 * seed), (2, 1700)], y=80 + 30 * seed)
    run = Run([far, still(1500, 900, 333)], 2, out=out)
    made = [marks for each in run.plans for marks in marks_of(each, out)]
    assert sum(len(marks) for marks in made) > len(made)
    for mark in (mark for marks in made for mark in marks):
        tile, rect = out.tiles[COLOURS.index(mark.colour)], mark.rect
        assert not any(value % 2 for value in (rect.x, rect.y, rect.w, rect.h))
        assert min(rect.w, rect.h) in (2, 4)
        assert tile.x <= rect.x < rect.x + rect.w <= tile.x + tile.w
        assert tile.y <= rect.y < rect.y + rect.h <= tile.y + tile.h


def test_a_plan_says_where_the_faces_of_its_persons_were() -> None:
    run = Run([still(500), still(1400)], 3)
    for each in run.plans:
        assert len(each.boxes) == len(each.frames)
        for pair in each.boxes:
            for box, x in zip(pair, (500, 1400), strict=True):
                assert box is not None
                assert box == pytest.approx((x - 75, 400, 150, 200), abs=2)


def test_boxes_take_few_bytes_of_a_plan_and_older_plans_have_none() -> None:
    run = Run([walk([(0, 333), (1, 777)]), still(1400.123, 555.5, 123.4)], 1, every=1)
    text = run.plans[0].model_dump_json()
    bare = {name: value for name, value in json.loads(text).items() if name != "boxes"}
    assert len(text) - len(json.dumps(bare, separators=(",", ":"))) < 32 * 2 * 32
    old = BatchPlan.read_kept(json.dumps(bare))
    assert marks_of(old, side_by_side()) == [()] * len(old.views)
    assert any(marks_of(BatchPlan.read_kept(text), side_by_side()))


def test_an_empty_batch_has_no_marks() -> None:
    run = Run([still(500)], 1)
    _, empty = plan_batch(
        run.state, BatchFaces(frames=(), faces=()), (), run.source, run.output, run.settings
    )
    assert marks_of(empty, output(64, 64, (Rect(x=0, y=0, w=32, h=64),) * 2)) == []
