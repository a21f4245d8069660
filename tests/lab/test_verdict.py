from __future__ import annotations

import pytest

from services.infer.lab.verdict import judge, measured_verdict
from shared.models.precision import Rates, Row, Verdict

E, A, N = Verdict.EXCELLENT, Verdict.ACCEPTABLE, Verdict.NOT_RECOMMENDED


@pytest.mark.parametrize(
    ("loss", "rise", "verdict"),
    [
        (0.0, 0.0, E),
        (-3.0, -1.0, E),
        (0.8, 0.2, E),
        (0.81, 0.2, A),
        (0.8, 0.21, A),
        (1.5, 0.5, A),
        (1.51, 0.5, N),
        (1.5, 0.51, N),
        (0.0, 0.51, N),
        (1.51, 0.0, N),
        (-9.0, 9.0, N),
        (None, 0.0, N),
        (0.0, None, N),
    ],
)
def test_limits_are_included(loss: float | None, rise: float | None, verdict: Verdict) -> None:
    assert measured_verdict(loss, rise) is verdict


def test_a_rise_of_one_face_of_two_hundred_is_just_the_limit() -> None:
    assert measured_verdict(0.0, 100 * (11 / 200 - 10 / 200)) is A


def row(faces: int, loss: float = 0.0, rise: float = 0.0, found: int = 1) -> Row:
    rates = Rates(
        found=found, missed=0, extra=0, precision=1.0, miss_rate=0.0, average_precision=1.0
    )
    return Row(
        condition="all",
        faces=faces,
        fp32=rates,
        variant=rates,
        lost=0,
        gained=0,
        precision_loss=loss,
        miss_rate_rise=rise,
        miss_rate_rise_95=None,
        score_change=None,
        box_iou=None,
        fp32_iou=None,
        variant_iou=None,
    )


@pytest.mark.parametrize(
    ("faces", "verdict", "enough"),
    [(199, N, False), (200, A, True), (499, A, True), (500, E, True)],
)
def test_a_verdict_takes_faces_enough_that_one_is_within_its_limit(
    faces: int, verdict: Verdict, enough: bool
) -> None:
    found = judge(row(faces))
    assert found.measured is E
    assert found.verdict is verdict
    assert found.enough_faces is enough


def test_too_few_faces_are_said_with_what_one_weighs() -> None:
    found = judge(row(18))
    assert any("18 labelled faces are too few" in reason for reason in found.reasons)
    assert any("one face is 5.6 points" in reason for reason in found.reasons)


def test_what_so_many_faces_cannot_rule_out_is_said() -> None:
    interval = row(464).model_copy(update={"miss_rate_rise_95": (-0.4, 0.8)})
    assert any("a rise of up to 0.8 points" in reason for reason in judge(interval).reasons)
    narrow = row(9000).model_copy(update={"miss_rate_rise_95": (-0.1, 0.1)})
    assert len(judge(narrow).reasons) == 1


def test_many_faces_do_not_make_a_bad_copy_good() -> None:
    assert judge(row(10_000, loss=1.6)).verdict is N


def test_labels_that_fp32_finds_none_of_say_nothing() -> None:
    judged = judge(row(1000, found=0))
    assert judged.verdict is N
    assert judged.reasons == (
        "FP32 itself finds none of the faces: these labels say nothing about it.",
    )


def test_one_face_is_spoken_of_as_one() -> None:
    assert any("1 labelled face is too few" in reason for reason in judge(row(1)).reasons)
