"""Against cases worked out by hand."""

from __future__ import annotations

import pytest

from services.infer.lab.labels import LabelledFace
from services.infer.lab.metrics import Judged, Seen, average_precision, compare, iou, match
from shared.faces import Face
from shared.models.precision import Condition

N, P = Condition.NORMAL, Condition.PROFILE


def face(x: float, score: float, size: float = 10) -> Face:
    return Face(x=x, y=0, w=size, h=size, score=score)


def seen(
    score: float,
    label: int | None,
    condition: Condition = N,
    *,
    ignored: bool = False,
    overlap: float = 0.8,
) -> Seen:
    return Seen(face(0, score), label, ignored, overlap, condition)


def test_two_boxes_that_share_a_half_of_each_overlap_by_a_third() -> None:
    assert iou(face(0, 1), face(5, 1)) == pytest.approx(1 / 3)
    assert iou(face(0, 1), face(20, 1)) == 0


def test_each_face_is_found_once_by_the_best_scored_detection() -> None:
    labels = [LabelledFace(0, 0, 10, 10), LabelledFace(100, 0, 10, 10)]
    faces = [face(1, 0.9), face(0, 0.8), face(97, 0.7)]
    assert match(labels, faces) == [
        (0, False, pytest.approx(90 / 110)),
        (None, False, 0.0),
        (1, False, pytest.approx(70 / 130)),
    ]


def test_just_half_an_overlap_counts() -> None:
    labels = [LabelledFace(0, 0, 10, 10)]
    assert match(labels, [face(0, 0.9, 5)])[0][0] is None
    half = Face(x=0, y=0, w=10, h=5, score=0.9)
    assert match(labels, [half])[0] == (0, False, 0.5)


def test_what_lies_on_an_ignored_face_is_neither_right_nor_wrong() -> None:
    labels = [LabelledFace(0, 0, 10, 10, ignored=True)]
    assert match(labels, [face(1, 0.9), face(50, 0.8)]) == [(None, True, 0), (None, False, 0)]


def test_average_precision_of_right_wrong_right_on_two_faces_is_five_sixths() -> None:
    # recall 1/2 at precision 1, recall 1 at precision 2/3
    hits = [(0.9, True), (0.8, False), (0.7, True)]
    assert average_precision(hits, 2) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


def test_a_later_higher_precision_counts_for_earlier_recall() -> None:
    # wrong, right, right of 2: precision 0, 1/2, 2/3; the envelope is 2/3 everywhere
    assert average_precision([(0.9, False), (0.8, True), (0.7, True)], 2) == pytest.approx(2 / 3)


def test_average_precision_knows_no_order_among_equal_scores() -> None:
    for hits in ([(0.5, True), (0.5, False)], [(0.5, False), (0.5, True)]):
        assert average_precision(hits, 1) == pytest.approx(0.5)


def test_average_precision_of_nothing_found_is_zero_and_of_no_faces_none() -> None:
    assert average_precision([], 3) == 0
    assert average_precision([(0.9, False)], 0) is None


@pytest.fixture
def pictures() -> list[Judged]:
    """Five faces, one ignored. FP32: 4 right, 1 wrong. The copy: 3 right (one that FP32 has not), 2
    wrong, of which one is of a profile."""
    first = Judged(
        labels=(N, P, N, None),
        base=(seen(0.9, 0), seen(0.8, 1, P), seen(0.7, None), seen(0.2, 2)),
        variant=(seen(0.8, 0, overlap=0.6), seen(0.6, None, P), seen(0.6, None), seen(0.3, 1, P)),
    )
    second = Judged(
        labels=(N, N),
        base=(seen(0.9, 0), seen(0.9, 1), seen(0.8, None, ignored=True)),
        variant=(seen(0.9, 0),),
    )
    third = Judged(labels=(P,), base=(), variant=(seen(0.9, 0, P),))
    return [first, second, third]


def test_both_models_are_counted_at_their_threshold(pictures: list[Judged]) -> None:
    row = compare(pictures, 0.5, None)
    assert row.faces == 6
    assert (row.fp32.found, row.fp32.missed, row.fp32.extra) == (4, 2, 1)
    assert (row.variant.found, row.variant.missed, row.variant.extra) == (3, 3, 2)
    assert row.fp32.precision == pytest.approx(4 / 5)
    assert row.variant.precision == pytest.approx(3 / 5)
    assert row.fp32.miss_rate == pytest.approx(2 / 6)
    assert (row.lost, row.gained) == (2, 1)
    assert row.miss_rate_rise == pytest.approx(100 / 6)
    assert row.score_change == pytest.approx(-0.05)
    assert row.fp32_iou == pytest.approx(0.8)
    assert row.variant_iou == pytest.approx(0.7)


def test_the_loss_is_the_larger_one_of_precision_and_average_precision(
    pictures: list[Judged],
) -> None:
    row = compare(pictures, 0.5, None)
    assert row.fp32.average_precision is not None
    assert row.variant.average_precision is not None
    by_area = 100 * (row.fp32.average_precision - row.variant.average_precision)
    assert row.precision_loss == pytest.approx(max(20, by_area))


def test_faces_and_wrong_detections_belong_to_their_condition(pictures: list[Judged]) -> None:
    row = compare(pictures, 0.5, P)
    assert row.faces == 2
    assert (row.fp32.found, row.fp32.extra) == (1, 0)
    assert (row.variant.found, row.variant.extra) == (1, 1)
    assert (row.lost, row.gained) == (1, 1)


def test_a_condition_nobody_has_gives_no_rates(pictures: list[Judged]) -> None:
    row = compare(pictures, 0.5, Condition.BACKLIGHT)
    assert row.faces == 0
    assert row.precision_loss is None
    assert row.miss_rate_rise is None
    assert row.miss_rate_rise_95 is None


def test_a_copy_that_finds_nothing_loses_all_precision() -> None:
    row = compare([Judged((N,), (seen(0.9, 0),), ())], 0.5, None)
    assert row.precision_loss == pytest.approx(100)
    assert row.miss_rate_rise == pytest.approx(100)


def test_the_interval_narrows_with_faces_and_is_never_nothing() -> None:
    def width(count: int) -> float:
        alike = [Judged((N,), (seen(0.9, 0),), (seen(0.9, 0),))] * count
        found = compare(alike, 0.5, None).miss_rate_rise_95
        assert found is not None
        assert found[0] < 0 < found[1]
        return found[1] - found[0]

    assert width(1000) < width(100) < width(10)
