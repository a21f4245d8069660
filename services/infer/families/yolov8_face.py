"""YOLOv8-face (variants n, s, x, and what else has their head): one output, boxes already in px."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from services.infer.families.candidates import (
    LANDMARKS,
    Array,
    Candidates,
    centred,
    no_points,
    shapes_of,
    strongest,
)

_BOX_AND_SCORE = 5

_PX_MIN = 1.5
"""A face that ends within so many px of the corner is a share of the input, of another family."""

_LANDMARK_VALUES: Mapping[int, int] = MappingProxyType({5: 0, 15: 2, 20: 3})
"""By values of a candidate, those of one landmark: none; x, y; x, y, visibility."""


def decode_yolov8_face(
    outputs: Sequence[Array], index: int, _width: int, threshold: float
) -> Candidates:
    """Formulas of the heads Detect and Pose as Ultralytics exports them: centre x, centre y, w, h
    in px of the input, the score after its sigmoid, then the landmarks in px, each with a
    visibility that is not looked at. Nothing is left to compute but the corner.

    Either (batch, values, candidates) or (batch, candidates, values). There are 21 candidates for
    every 32x32 px of the input, so the two can't be mixed up.
    """
    values = _by_value(outputs, index)
    keep = strongest(values[4], threshold)
    picked = values[:, keep].T.astype(np.float32, copy=False)
    if keep.size and np.all(picked[:, :4] < _PX_MIN):
        raise ValueError("its boxes are no px of the input, as those of yolov8-face")
    per_point = _LANDMARK_VALUES[picked.shape[1]]
    points = no_points(keep.size)
    if per_point:
        points = picked[:, _BOX_AND_SCORE:].reshape(-1, LANDMARKS, per_point)[..., :2]
    return Candidates(centred(picked[:, :4]), picked[:, 4], points)


def _by_value(outputs: Sequence[Array], index: int) -> Array:
    """(values, candidates) of one frame."""
    if len(outputs) == 1 and outputs[0].ndim == 3:
        found: Array = outputs[0][index]
        turned: Array = found.T
        if found.shape[0] in _LANDMARK_VALUES:
            return found
        if found.shape[1] in _LANDMARK_VALUES:
            return turned
    raise ValueError(
        "yolov8-face has one output (batch, 20, candidates), or with 5 or 15 instead of 20, before "
        f"any suppression; these are {shapes_of(outputs)}"
    )
