from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from services.infer.families import (
    FACES_MAX,
    Array,
    Candidates,
    common_scores,
    decode_centerface,
    decode_yunet,
    suppress,
    to_faces,
)
from shared.faces import SURE_SCORE


def yunet_outputs(width: int, height: int) -> list[Array]:
    """All zero: no face anywhere."""
    cells = [(width // s) * (height // s) for s in (8, 16, 32)]
    return [np.zeros((1, n, last), np.float32) for last in (1, 1, 4, 10) for n in cells]


def test_yunet_box_and_landmarks_are_at_cell_plus_delta_times_stride() -> None:
    outputs = yunet_outputs(128, 64)
    cell = 1 * (128 // 16) + 3  # row 1, column 3 of the grid of stride 16
    outputs[1][0, cell] = 0.81
    outputs[4][0, cell] = 1.0
    outputs[7][0, cell] = (0.5, 0.25, np.log(2.0), np.log(3.0))
    outputs[10][0, cell] = (0, 0, 1, 0, 0.5, 0.5, 0, 1, 1, 1)
    found = decode_yunet(outputs, 0, 128, 0.6)
    assert found.scores == pytest.approx([0.9])
    # centre (3.5, 1.25) * 16, size 2 * 16 by 3 * 16
    assert found.boxes[0] == pytest.approx([56 - 16, 20 - 24, 32, 48], abs=1e-4)
    assert found.points[0].tolist() == [[48, 16], [64, 16], [56, 24], [48, 32], [64, 32]]


def test_yunet_score_at_the_threshold_or_below_is_no_face() -> None:
    outputs = yunet_outputs(64, 64)
    outputs[0][0, 0] = outputs[3][0, 0] = 0.5
    assert decode_yunet(outputs, 0, 64, 0.5).scores.size == 0
    assert decode_yunet(outputs, 0, 64, 0.49).scores.size == 1


def test_centerface_box_is_centred_on_cell_plus_offset_plus_a_half() -> None:
    heat = np.zeros((1, 1, 8, 8), np.float32)
    size, offset = np.zeros((1, 2, 8, 8), np.float32), np.zeros((1, 2, 8, 8), np.float32)
    marks = np.zeros((1, 10, 8, 8), np.float32)
    row, column = 2, 5
    heat[0, 0, row, column] = 0.75
    size[0, :, row, column] = (np.log(3.0), np.log(2.0))  # height first
    offset[0, :, row, column] = (0.25, -0.5)
    marks[0, :, row, column] = (0.25, 0.5, 0.25, 1.0, 0.5, 0.75, 1.0, 0.5, 1.0, 1.0)
    found = decode_centerface([heat, size, offset, marks], 0, 32, 0.5)
    assert found.scores == pytest.approx([0.75])
    # centre x (5 - 0.5 + 0.5) * 4 = 20, y (2 + 0.25 + 0.5) * 4 = 11; 8 wide, 12 high
    assert found.boxes[0] == pytest.approx([16, 5, 8, 12], abs=1e-4)
    expected = [[20, 8], [24, 8], [22, 11], [20, 17], [24, 17]]
    assert found.points[0] == pytest.approx(np.array(expected), abs=1e-4)


def candidates(boxes: Sequence[tuple[float, ...]], scores: list[float]) -> Candidates:
    return Candidates(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        np.zeros((len(scores), 5, 2), np.float32),
    )


def test_of_boxes_that_overlap_the_best_stays_and_order_is_by_score() -> None:
    found = suppress(
        candidates([(0, 0, 10, 10), (50, 0, 10, 10), (1, 0, 10, 10)], [0.7, 0.8, 0.9]), 0.4
    )
    assert found.scores == pytest.approx([0.9, 0.8])
    assert found.boxes[0].tolist() == [1, 0, 10, 10]


def test_boxes_without_size_or_beyond_all_numbers_are_dropped() -> None:
    found = suppress(
        candidates([(0, 0, 0, 10), (0, 0, np.inf, 10), (np.nan, 0, 5, 5), (0, 0, 4, 4)], [0.9] * 4),
        0.4,
    )
    assert found.boxes.tolist() == [[0, 0, 4, 4]]


def test_a_crowd_is_cut_to_the_best_scored_faces() -> None:
    count = 3 * FACES_MAX
    boxes = [(20.0 * i, 0.0, 10.0, 10.0) for i in range(count)]
    found = suppress(candidates(boxes, [(i + 1) / (count + 1) for i in range(count)]), 0.4)
    assert found.scores.size == FACES_MAX
    assert found.scores.min() > 0.6


def test_no_candidates_give_no_faces() -> None:
    assert to_faces(suppress(candidates([], []), 0.4), 2.0, 2.0) == ()


def test_faces_are_in_px_of_the_frame() -> None:
    (face,) = to_faces(candidates([(10, 20, 5, 6)], [0.5]), 6.0, 4.0)
    assert (face.x, face.y, face.w, face.h) == (60, 80, 30, 24)


def test_a_score_means_the_same_for_every_model() -> None:
    doubtful, sure, certain = common_scores(np.array([0.25, 0.5, 1.0], dtype=np.float32), 0.5)
    assert doubtful == pytest.approx(SURE_SCORE / 2)
    assert sure == pytest.approx(SURE_SCORE)
    assert certain == pytest.approx(1.0)
