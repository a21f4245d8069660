"""YuNet: class, objectness, box and landmarks (in that order) on grids of stride 8, 16, 32."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from services.infer.families.candidates import LANDMARKS, Array, Candidates, shapes_of

YUNET_STRIDES = (8, 16, 32)

_VALUES = (1, 1, 4, 2 * LANDMARKS)
"""Of a cell, by kind: class, objectness, box, landmarks."""


def decode_yunet(outputs: Sequence[Array], index: int, width: int, threshold: float) -> Candidates:
    """Formulas as in OpenCV's FaceDetectorYN: score is sqrt(class * objectness), centre is
    (cell + delta) * stride, size is exp(.) * stride, landmarks are (cell + delta) * stride.
    """
    _check(outputs, width)
    levels = []
    for level, stride in enumerate(YUNET_STRIDES):
        classes, objects, boxes, marks = (
            outputs[kind * len(YUNET_STRIDES) + level][index] for kind in range(4)
        )
        chances = classes[:, 0].clip(0, 1) * objects[:, 0].clip(0, 1)
        cells = np.flatnonzero(chances > threshold * threshold)
        corner = np.stack((cells % (width // stride), cells // (width // stride)), axis=1)
        size = np.exp(boxes[cells, 2:]) * stride
        start = (corner + boxes[cells, :2]) * stride - size / 2
        points = (marks[cells].reshape(-1, 5, 2) + corner[:, np.newaxis]) * stride
        levels.append((np.concatenate((start, size), axis=1), np.sqrt(chances[cells]), points))
    boxes_, scores, points_ = (np.concatenate(part) for part in zip(*levels, strict=True))
    return Candidates(
        boxes_.astype(np.float32), scores.astype(np.float32), points_.astype(np.float32)
    )


def _check(outputs: Sequence[Array], width: int) -> None:
    """Raises ValueError for outputs of another family, or of pictures of another width."""
    cells = [output.shape[1] if output.ndim == 3 else 0 for output in outputs[: len(YUNET_STRIDES)]]
    wanted = [(count, values) for values in _VALUES for count in cells]
    whole = all(
        count > 0 and count % max(1, width // stride) == 0
        for count, stride in zip(cells, YUNET_STRIDES, strict=False)
    )
    if not cells or not whole or [output.shape[1:] for output in outputs] != wanted:
        raise ValueError(
            "yunet has twelve outputs (batch, cells, values): 1, 1, 4 and 10 values for strides 8, "
            f"16, 32 each; these are {shapes_of(outputs)}"
        )
