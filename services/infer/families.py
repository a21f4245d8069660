"""What differs between model families: how raw outputs become faces.

All coordinates here are px of the model's input; arrays are float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import cv2
import numpy as np
import numpy.typing as npt

from shared.faces import SURE_SCORE, Face

Array = npt.NDArray[np.float32]

CANDIDATES_MAX = 512
"""Best-scored boxes of a frame that go into suppression; two people give about 50."""

YUNET_STRIDES = (8, 16, 32)

FACES_MAX = 32
"""Faces of a frame handed on, so that a crowd can't grow a message without bound."""


@dataclass(frozen=True)
class Candidates:
    """n boxes of one frame: `boxes` (n, 4) as x, y, w, h; `scores` (n,); `points` (n, 5, 2).

    `points` in the order of `shared.faces.Face.landmarks`.
    """

    boxes: Array
    scores: Array
    points: Array

    def take(self, keep: npt.NDArray[np.intp]) -> Candidates:
        """Those at the indices `keep`, in that order."""
        return Candidates(self.boxes[keep], self.scores[keep], self.points[keep])


Decode = Callable[[Sequence[Array], int, int, float], Candidates]
"""(outputs in the model's order, index in batch, input width in px, score threshold)."""


def decode_centerface(
    outputs: Sequence[Array], index: int, _width: int, threshold: float
) -> Candidates:
    """CenterFace: heat map, log size, offset, five landmarks, on one grid of stride 4.

    Formulas of the reference decoder (Star-Clouds/CenterFace, prj-python): size is exp(.) * 4 with
    height first, centre is (cell + offset + 0.5) * 4 with y first, landmarks are fractions of the
    box, y first.
    """
    stride = 4.0
    heat, size, offset, marks = (output[index] for output in outputs)
    rows, columns = np.nonzero(heat[0] > threshold)
    h, w = np.exp(size[:, rows, columns]) * stride
    y = (rows + offset[0, rows, columns] + 0.5) * stride - h / 2
    x = (columns + offset[1, rows, columns] + 0.5) * stride - w / 2
    marks_at = marks[:, rows, columns]
    points_x = marks_at[1::2] * w + x
    points_y = marks_at[0::2] * h + y
    return Candidates(
        np.stack((x, y, w, h), axis=1).astype(np.float32),
        heat[0, rows, columns],
        np.stack((points_x.T, points_y.T), axis=2).astype(np.float32),
    )


def decode_yunet(outputs: Sequence[Array], index: int, width: int, threshold: float) -> Candidates:
    """YuNet: class, objectness, box and landmarks (in that order) on grids of stride 8, 16, 32.

    Formulas as in OpenCV's FaceDetectorYN: score is sqrt(class * objectness), centre is
    (cell + delta) * stride, size is exp(.) * stride, landmarks are (cell + delta) * stride.
    """
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


DECODERS: Mapping[str, Decode] = MappingProxyType(
    {"centerface": decode_centerface, "yunet": decode_yunet}
)
"""By `ModelEntry.family`."""


def suppress(candidates: Candidates, nms_threshold: float) -> Candidates:
    """The best of each group of boxes that overlap by an IoU above the threshold.

    Sorted by score, best first; at most FACES_MAX.
    """
    sizes = candidates.boxes[:, 2:].min(axis=1)
    order = np.argsort(-candidates.scores, kind="stable")
    # exp() of a damaged model's output may be 0 or infinite
    usable = order[np.isfinite(candidates.boxes.sum(axis=1))[order] & (sizes > 0)[order]]
    best = candidates.take(usable[:CANDIDATES_MAX])
    if best.scores.size == 0:
        return best
    kept = cv2.dnn.NMSBoxes(best.boxes.tolist(), best.scores.tolist(), 0.0, nms_threshold)
    return best.take(np.asarray(kept, dtype=np.intp).reshape(-1)[:FACES_MAX])


def common_scores(scores: Array, sure: float) -> Array:
    """A model's scores on the scale of `Face.score`: two straight lines that meet at `sure`."""
    return np.interp(scores, (0.0, sure, 1.0), (0.0, SURE_SCORE, 1.0)).astype(np.float32)


def to_faces(
    candidates: Candidates, scale_x: float, scale_y: float, sure: float = SURE_SCORE
) -> tuple[Face, ...]:
    """Faces in px of the frame; a px of the model's input is `scale_x` by `scale_y` of these.

    `sure` is the model's `sure_score`.
    """
    scale = np.array((scale_x, scale_y))
    scores = common_scores(candidates.scores, sure)
    boxes = candidates.boxes * np.tile(scale, 2)
    points = candidates.points * scale
    return tuple(
        Face(
            x=x,
            y=y,
            w=w,
            h=h,
            score=min(1.0, score),
            landmarks=tuple((px, py) for px, py in marks),
        )
        for (x, y, w, h), score, marks in zip(
            boxes.tolist(), scores.tolist(), points.tolist(), strict=True
        )
    )
