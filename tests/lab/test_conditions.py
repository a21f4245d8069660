"""Pictures with one property that is known."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from services.infer.lab.conditions import (
    Luma,
    asymmetry,
    condition_of,
    covered,
    measure,
    sharpness,
)
from shared.faces import Face, Point
from shared.models.precision import Condition

BOX = (160.0, 80.0, 80.0, 100.0)
FRONT: tuple[Point, ...] = ((180, 115), (220, 115), (200, 135), (185, 160), (215, 160))


def scene(face: float = 130, around: float = 120) -> Luma:
    """400 x 240 px, even light, a face with as much in it at each scale, as nature has."""
    picture = np.full((240, 400), around, np.float64)
    x, y, w, h = (round(each) for each in BOX)
    texture = np.zeros((h, w))
    for sigma in (1, 2, 4, 8, 16):
        noise = cv2.GaussianBlur(np.random.default_rng(1).normal(size=(h, w)), (0, 0), sigma)
        texture += 0.1 * (noise - noise.mean()) / noise.std()
    picture[y : y + h, x : x + w] = face * (1 + texture)
    return picture.clip(0, 255).astype(np.uint8)


def moved(luma: Luma, px: int) -> Luma:
    """As if the camera went `px` to the side while the picture was taken."""
    kernel: npt.NDArray[np.float64] = np.full((1, px), 1 / px)
    return np.asarray(cv2.filter2D(luma, -1, kernel), dtype=np.uint8)


def face(x: float = BOX[0], marks: tuple[Point, ...] = FRONT) -> Face:
    return Face(x=x, y=BOX[1], w=BOX[2], h=BOX[3], score=0.9, landmarks=marks)


def condition(luma: Luma, marks: tuple[Point, ...] = FRONT) -> Condition:
    return measure(luma, BOX, marks, ()).condition


def test_an_evenly_lit_sharp_face_that_looks_ahead_is_normal() -> None:
    assert condition(scene()) is Condition.NORMAL


def test_a_dark_face_in_a_dark_picture_is_low_light() -> None:
    assert condition(scene(face=40, around=35)) is Condition.LOW_LIGHT


def test_a_lit_face_in_a_dark_hall_is_not() -> None:
    assert condition(scene(face=130, around=20)) is Condition.NORMAL


def test_a_face_darker_than_the_bright_room_behind_it_is_backlight() -> None:
    assert condition(scene(face=70, around=200)) is Condition.BACKLIGHT
    assert condition(scene(face=150, around=200)) is Condition.NORMAL


def test_a_face_whose_nose_is_below_an_eye_is_a_profile() -> None:
    marks = ((180.0, 115.0), (220.0, 115.0), (216.0, 135.0), (185.0, 160.0), (200.0, 160.0))
    assert condition(scene(), marks) is Condition.PROFILE


def test_turning_the_head_in_the_picture_plane_is_no_profile() -> None:
    turn = np.deg2rad(40)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    marks = [tuple((matrix @ np.array(point)).tolist()) for point in FRONT]
    assert asymmetry(marks, BOX[2]) == pytest.approx(asymmetry(FRONT, BOX[2]))


def test_a_face_that_moves_while_it_is_taken_is_blurred() -> None:
    assert condition(moved(scene(), 12)) is Condition.MOTION_BLUR


def test_flat_light_is_no_blur() -> None:
    flat = (scene().astype(np.float64) * 0.3 + 90).astype(np.uint8)
    assert condition(flat) is Condition.NORMAL


def test_the_sharpness_of_a_small_face_cannot_be_told() -> None:
    assert sharpness(np.zeros((20, 20), np.uint8)) is None


def test_a_face_is_occluded_by_the_edge_and_by_a_larger_face_but_not_by_a_smaller_one() -> None:
    size = (400, 240)
    assert covered((-40, 80, 80, 100), (), size) == pytest.approx(0.5)
    assert covered(BOX, ((200, 80, 90, 110),), size) == pytest.approx(0.5)
    assert covered(BOX, ((200, 80, 40, 40),), size) == 0
    other = (200.0, 80.0, 90.0, 110.0)
    assert measure(scene(), BOX, FRONT, (other,)).condition is Condition.OCCLUSION


def test_a_frame_has_the_most_telling_condition_of_its_faces() -> None:
    side = ((180.0, 115.0), (220.0, 115.0), (216.0, 135.0), (185.0, 160.0), (200.0, 160.0))
    assert condition_of(scene(), [face(), face(x=20, marks=side)]) is Condition.PROFILE
    assert condition_of(scene(), [face()]) is Condition.NORMAL


def test_a_frame_without_faces_is_told_by_its_light() -> None:
    assert condition_of(scene(30, 30), []) is Condition.LOW_LIGHT
    assert condition_of(scene(), []) is Condition.NORMAL
