"""What every family's decoder gives, and how faces of the frame are made of it.

All coordinates here are px of the model's input; arrays are float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from shared.faces import SURE_SCORE, Face

Array = npt.NDArray[np.float32]
Indices = npt.NDArray[np.intp]

CANDIDATES_MAX = 512
"""Best-scored boxes of a frame that go into suppression; two people give about 50."""

FACES_MAX = 32
"""Faces of a frame handed on, so that a crowd can't grow a message without bound."""

LANDMARKS = 5


@dataclass(frozen=True)
class Candidates:
    """n boxes of one frame: `boxes` (n, 4) as x, y, w, h; `scores` (n,); `points` (n, 5, 2).

    `points` in the order of `shared.faces.Face.landmarks`. From a model without landmarks it is
    (n, 0, 2), and `Face.landmarks` is empty: no points rather than made-up ones. Who is whom and
    what the cameras show follows from boxes alone, so such a model loses nothing by it.
    """

    boxes: Array
    scores: Array
    points: Array

    def take(self, keep: Indices) -> Candidates:
        """Those at the indices `keep`, in that order."""
        return Candidates(self.boxes[keep], self.scores[keep], self.points[keep])


Decode = Callable[[Sequence[Array], int, int, float], Candidates]
"""(outputs in the model's order, index in batch, input width in px, score threshold).

Pure, and of arrays alone, so that engines on other devices use it as well. Raises ValueError or
IndexError, with a sentence where the family can tell, for outputs of another shape.
"""


def strongest(scores: Array, threshold: float) -> Indices:
    """Indices of scores above the threshold, ascending; of more than CANDIDATES_MAX the highest."""
    found = np.flatnonzero(scores > threshold)
    if found.size > CANDIDATES_MAX:
        found = np.sort(found[np.argpartition(-scores[found], CANDIDATES_MAX)[:CANDIDATES_MAX]])
    return found


def sigmoid(logits: Array) -> Array:
    """1 / (1 + exp(-x)), without its overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits)), dtype=np.float32)


def centred(boxes: Array) -> Array:
    """x, y, w, h (n, 4) of centre x, centre y, w, h."""
    return np.concatenate((boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, 2:]), axis=1)


def no_points(count: int) -> Array:
    """`Candidates.points` of a model without landmarks."""
    return np.zeros((count, 0, 2), dtype=np.float32)


def shapes_of(outputs: Sequence[Array]) -> str:
    """For messages: "(1, 20, 8400), (1, 5)"."""
    return ", ".join(str(tuple(output.shape)) for output in outputs)


def suppress(candidates: Candidates, nms_threshold: float) -> Candidates:
    """The best of each group of boxes that overlap by an IoU above the threshold.

    Sorted by score, best first; at most FACES_MAX.
    """
    sizes = candidates.boxes[:, 2:].min(axis=1)
    order = np.argsort(-candidates.scores, kind="stable")
    # what a damaged model gives may be 0 or infinite, which no message can hold
    finite = np.isfinite(candidates.boxes.sum(axis=1) + candidates.points.sum(axis=(1, 2)))
    usable = order[finite[order] & (sizes > 0)[order]]
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
