"""The families whose models people bring: what arrays of known numbers mean."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.infer.families import (
    CANDIDATES_MAX,
    DECODERS,
    Array,
    Decode,
    decode_centerface,
    decode_rt_detr,
    decode_scrfd,
    decode_yolov8_face,
    decode_yunet,
    suppress,
    to_faces,
)
from services.infer.families.candidates import strongest
from shared.faces import BatchFaces
from shared.models.catalogue import FAMILIES
from tests.models.graphs import scrfd_outputs, yolo_output

POINTS = (90.0, 40.0, 110.0, 41.0, 100.0, 52.0, 92.0, 60.0, 108.0, 61.0)
PAIRS = [list(pair) for pair in zip(POINTS[::2], POINTS[1::2], strict=True)]
FACE = (100.0, 50.0, 40.0, 60.0, 0.75, *POINTS)


def turned(output: Array) -> Array:
    return np.ascontiguousarray(output.transpose(0, 2, 1))


def test_every_family_of_the_list_has_a_decoder_and_defaults() -> None:
    assert set(DECODERS) == set(FAMILIES)


# --- yolov8-face ----------------------------------------------------------------------------------


@pytest.mark.parametrize("turn", [np.asarray, turned])
@pytest.mark.parametrize(("values", "points"), [(20, PAIRS), (15, PAIRS), (5, [])])
def test_yolo_boxes_are_px_around_a_centre_in_every_layout_of_its_exports(
    turn: Callable[[Array], Array], values: int, points: list[list[float]]
) -> None:
    found = decode_yolov8_face([turn(yolo_output([FACE], values=values))], 0, 640, 0.5)
    assert found.boxes.tolist() == [[80, 20, 40, 60]]
    assert found.scores.tolist() == [0.75]
    assert found.points.tolist() == [points]
    (face,) = to_faces(found, 2.0, 3.0)
    assert (face.x, face.y, face.w, face.h) == (160, 60, 80, 180)
    assert [list(point) for point in face.landmarks] == [[2 * x, 3 * y] for x, y in points]


def test_yolo_scores_at_the_threshold_or_below_are_no_face() -> None:
    output = yolo_output([(*FACE[:4], 0.5)], values=5)
    assert decode_yolov8_face([output], 0, 640, 0.5).scores.size == 0
    assert decode_yolov8_face([output], 0, 640, 0.499).scores.size == 1


def test_yolo_gives_the_faces_of_the_picture_that_was_asked_for() -> None:
    other = (20.0, 30.0, 10.0, 10.0, 0.9)
    batch = np.concatenate([yolo_output(faces, values=5) for faces in ([], [other], [FACE[:5]])])
    assert [len(decode_yolov8_face([batch], i, 640, 0.5).scores) for i in range(3)] == [0, 1, 1]
    assert decode_yolov8_face([batch], 1, 640, 0.5).boxes.tolist() == [[15, 25, 10, 10]]


def test_boxes_of_the_other_kind_are_told_from_px_and_from_shares() -> None:
    shares = np.zeros((1, 300, 5), np.float32)
    shares[0, 7] = (0.5, 0.5, 0.2, 0.3, 0.9)
    assert decode_rt_detr([shares], 0, 640, 0.5).scores.size == 1
    with pytest.raises(ValueError, match="no px"):
        decode_yolov8_face([shares], 0, 640, 0.5)
    with pytest.raises(ValueError, match="no shares"):
        decode_rt_detr([turned(yolo_output([FACE]))], 0, 640, 0.5)


# --- scrfd ----------------------------------------------------------------------------------------

STRIDES = st.sampled_from([8, 16, 32])
SIDES = st.integers(1, 6).map(lambda cells: 32 * cells)
REACH = st.floats(0.125, 16, width=32)


@settings(max_examples=60)
@given(st.data(), STRIDES, SIDES, SIDES, st.booleans())
def test_scrfd_boxes_reach_so_many_strides_from_the_corner_of_their_cell(
    data: st.DataObject, stride: int, width: int, height: int, batch: bool
) -> None:
    row = data.draw(st.integers(0, height // stride - 1))
    column = data.draw(st.integers(0, width // stride - 1))
    anchor = 2 * (row * (width // stride) + column) + data.draw(st.integers(0, 1))
    left, top, right, bottom = data.draw(st.tuples(REACH, REACH, REACH, REACH))
    outputs = scrfd_outputs(width, height, batch=batch)
    at = (0, anchor) if batch else (anchor,)
    outputs["score", stride][at] = 0.75
    outputs["box", stride][at] = (left, top, right, bottom)
    outputs["points", stride][at] = (-1, 0, 1, 0, 0, 0.5, -1, 1, 1, 1)
    found = decode_scrfd(list(outputs.values()), 0, width, 0.5)
    x, y = column * stride, row * stride
    box = (x - left * stride, y - top * stride, (left + right) * stride, (top + bottom) * stride)
    assert found.boxes[0] == pytest.approx(box, abs=1e-3)
    assert found.scores.tolist() == [0.75]
    half = stride / 2
    assert found.points[0].tolist() == [
        [x - stride, y],
        [x + stride, y],
        [x, y + half],
        [x - stride, y + stride],
        [x + stride, y + stride],
    ]


@settings(max_examples=30)
@given(st.randoms(use_true_random=False), st.booleans())
def test_scrfd_outputs_may_come_in_any_order(order: random.Random, points: bool) -> None:
    outputs = scrfd_outputs(64, 96, points=points)
    for number, stride in enumerate((8, 16, 32)):
        outputs["score", stride][0, 3] = 0.6 + number / 10
        outputs["box", stride][0, 3] = 0.5
    shuffled = list(outputs.values())
    order.shuffle(shuffled)
    found = decode_scrfd(shuffled, 0, 64, 0.5)
    assert found.scores == pytest.approx([0.6, 0.7, 0.8])
    assert found.boxes.tolist() == [[4, -4, 8, 8], [8, -8, 16, 16], [16, -16, 32, 32]]
    assert found.points.shape == (3, 5 if points else 0, 2)


def test_scrfd_without_a_batch_has_one_picture_only() -> None:
    outputs = list(scrfd_outputs(64, 64, batch=False).values())
    assert decode_scrfd(outputs, 0, 64, 0.5).scores.size == 0
    with pytest.raises(IndexError, match="one picture"):
        decode_scrfd(outputs, 1, 64, 0.5)


# --- rt-detr --------------------------------------------------------------------------------------


def queries(count: int, classes: int) -> tuple[Array, Array]:
    """Boxes in the middle, a face in query 2 alone."""
    boxes = np.full((1, count, 4), 0.5, np.float32)
    boxes[0, 2] = (0.25, 0.5, 0.125, 0.25)
    logits = np.full((1, count, classes), -5.0, np.float32)
    logits[0, 2, 0] = np.log(3)  # sigmoid: 0.75
    return boxes, logits


@pytest.mark.parametrize("classes", [1, 2, 4, 80])
def test_rt_detr_boxes_are_shares_of_a_square_in_every_form_of_its_exports(classes: int) -> None:
    boxes, logits = queries(300, classes)
    chances = 1 / (1 + np.exp(-logits))
    for outputs in ([boxes, logits], [logits, boxes], [np.concatenate((boxes, chances), axis=2)]):
        found = decode_rt_detr(outputs, 0, 640, 0.5)
        assert found.boxes.tolist() == [[120, 240, 80, 160]]
        assert found.scores == pytest.approx([0.75])
        assert to_faces(found, 1.0, 1.0)[0].landmarks == ()


def test_rt_detr_counts_its_first_class_only() -> None:
    boxes, logits = queries(10, 3)
    logits[0, 4, 1] = 9.0
    assert decode_rt_detr([boxes, logits], 0, 640, 0.5).scores.size == 1


def test_rt_detr_gives_the_faces_of_the_picture_that_was_asked_for() -> None:
    boxes, logits = (np.concatenate((each, each)) for each in queries(10, 1))
    logits[0] = -5
    assert [decode_rt_detr([boxes, logits], i, 640, 0.5).scores.size for i in (0, 1)] == [0, 1]


def test_a_logit_of_any_size_becomes_a_score() -> None:
    boxes, logits = queries(10, 1)
    logits[0, :3, 0] = (-1e4, 1e4, np.inf)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode_rt_detr([boxes, logits], 0, 640, 0.5).scores.tolist() == [1, 1]


# --- all ------------------------------------------------------------------------------------------

LIKE_YOLO = "one output"
LIKE_SCRFD = "two anchors per cell"
LIKE_RT_DETR = "boxes .* logits"
LIKE_CENTERFACE = "four outputs"
LIKE_YUNET = "twelve outputs"
NINE = [*scrfd_outputs(64, 64).values()]


def zeros(*shapes: tuple[int, ...]) -> list[Array]:
    return [np.zeros(shape, np.float32) for shape in shapes]


@pytest.mark.parametrize(
    ("decode", "outputs", "said"),
    [
        (decode_yolov8_face, [], LIKE_YOLO),
        (decode_yolov8_face, zeros((1, 20, 84), (1, 20, 84)), LIKE_YOLO),
        (decode_yolov8_face, zeros((20, 84)), LIKE_YOLO),
        (decode_yolov8_face, zeros((1, 6, 84)), LIKE_YOLO),
        (decode_yolov8_face, zeros((1, 300, 6)), LIKE_YOLO),
        (decode_yolov8_face, zeros((1, 80, 8, 8)), LIKE_YOLO),
        (decode_scrfd, [], LIKE_SCRFD),
        (decode_scrfd, NINE[:3], LIKE_SCRFD),
        (decode_scrfd, NINE[:8], LIKE_SCRFD),
        (decode_scrfd, [*NINE, NINE[0]], LIKE_SCRFD),
        (decode_scrfd, [*NINE[:8], *zeros((1, 8, 9))], LIKE_SCRFD),
        (decode_scrfd, [*scrfd_outputs(96, 32).values()], LIKE_SCRFD),  # of another width
        (decode_scrfd, zeros((1, 0, 1), (1, 0, 1), (1, 0, 1)), LIKE_SCRFD),
        (decode_scrfd, zeros((1,)), LIKE_SCRFD),
        (decode_centerface, [], LIKE_CENTERFACE),
        (decode_centerface, zeros((1, 1, 4, 4)), LIKE_CENTERFACE),
        (decode_centerface, zeros(*((1, n, 4, 4) for n in (1, 2, 10, 2))), LIKE_CENTERFACE),
        (decode_centerface, zeros(*((1, n, n, 4) for n in (1, 2, 2, 10))), LIKE_CENTERFACE),
        (decode_centerface, zeros(*((1, n) for n in (1, 2, 2, 10))), LIKE_CENTERFACE),
        (decode_yunet, [], LIKE_YUNET),
        (decode_yunet, NINE, LIKE_YUNET),
        (decode_yunet, zeros(*[(1, 4, n) for n in (1, 1, 4, 10) for _ in range(3)]), LIKE_YUNET),
        (decode_yunet, zeros(*[(1, 0, n) for n in (1, 1, 4, 10) for _ in range(3)]), LIKE_YUNET),
        (decode_yunet, zeros(*[(1, 4)] * 12), LIKE_YUNET),
        (decode_rt_detr, [], LIKE_RT_DETR),
        (decode_rt_detr, zeros((1, 300, 4)), LIKE_RT_DETR),
        (decode_rt_detr, zeros((1, 300, 5), (1, 300, 1)), LIKE_RT_DETR),
        (decode_rt_detr, zeros((1, 300, 4), (1, 200, 1)), LIKE_RT_DETR),
        (decode_rt_detr, zeros((1, 300, 4), (1, 300, 0)), LIKE_RT_DETR),
        (decode_rt_detr, zeros((300, 4), (300, 1)), LIKE_RT_DETR),
        (decode_rt_detr, zeros((1, 5, 8400)), LIKE_RT_DETR),
    ],
)
def test_outputs_of_another_shape_are_refused_with_a_sentence(
    decode: Decode, outputs: Sequence[Array], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        decode(outputs, 0, 64, 0.5)


@settings(max_examples=30)
@given(st.lists(st.floats(0, 1, width=32), max_size=2 * CANDIDATES_MAX), st.floats(0, 1))
def test_the_strongest_are_those_above_the_threshold_and_no_more_than_are_looked_at(
    scores: list[float], threshold: float
) -> None:
    array = np.array(scores * 2, np.float32)
    kept = strongest(array, threshold)
    above = array[array > threshold]
    assert kept.size == min(above.size, CANDIDATES_MAX)
    assert np.all(np.diff(kept) > 0)
    assert sorted(array[kept]) == sorted(above)[above.size - kept.size :]


def test_a_model_that_sees_faces_everywhere_gives_no_more_candidates_than_are_looked_at() -> None:
    yolo = np.full((1, 20, 8400), 50.0, np.float32)
    nine = scrfd_outputs(640, 640)
    for (kind, _), output in nine.items():
        output[:] = 0.9 if kind == "score" else 1.0
    detr = [np.full((1, 2000, 4), 0.5, np.float32), np.full((1, 2000, 1), 3.0, np.float32)]
    for decode, outputs in (
        (decode_yolov8_face, [yolo]),
        (decode_scrfd, list(nine.values())),
        (decode_rt_detr, detr),
    ):
        found = decode(outputs, 0, 640, 0.5)
        assert len(found.boxes) == len(found.scores) == len(found.points) == CANDIDATES_MAX


NUMBERS = st.sampled_from([np.nan, np.inf, -np.inf, 3e38, -3e38, -1.0, 0.0, 0.25, 0.5, 0.9, 40.0])


@pytest.mark.filterwarnings("ignore:.*:RuntimeWarning")
@pytest.mark.parametrize("family", sorted(DECODERS))
@settings(max_examples=40)
@given(numbers=st.lists(NUMBERS, min_size=16, max_size=64))
def test_no_numbers_of_a_damaged_model_get_into_a_message_that_cannot_be_read(
    family: str, numbers: list[float]
) -> None:
    shapes: dict[str, list[tuple[int, ...]]] = {
        "centerface": [(1, count, 4, 4) for count in (1, 2, 2, 10)],
        "yunet": [(1, (32 // s) ** 2, n) for n in (1, 1, 4, 10) for s in (8, 16, 32)],
        "yolov8-face": [(1, 20, 21)],
        "scrfd": [each.shape for each in scrfd_outputs(32, 32).values()],
        "rt-detr": [(1, 10, 4), (1, 10, 1)],
    }
    outputs = [np.resize(np.array(numbers, np.float32), shape) for shape in shapes[family]]
    try:
        found = suppress(DECODERS[family](outputs, 0, 32, 0.2), 0.4)
    except ValueError:
        return  # told from the numbers; what becomes of that is tested with the engine
    batch = BatchFaces(frames=(0,), faces=(to_faces(found, 1.5, 1.5),))
    assert BatchFaces.model_validate_json(batch.model_dump_json()) == batch


def test_suppression_keeps_boxes_with_and_without_landmarks() -> None:
    faces = [FACE, (102.0, 50.0, 40.0, 60.0, 0.9, *POINTS), (300.0, 50.0, 40.0, 60.0, 0.8, *POINTS)]
    for values in (20, 5):
        found = suppress(decode_yolov8_face([yolo_output(faces, values=values)], 0, 640, 0.5), 0.4)
        assert found.scores == pytest.approx([0.9, 0.8])
        assert found.points.shape == (2, 5 if values == 20 else 0, 2)
