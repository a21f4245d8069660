"""RT-DETR: a fixed number of queries, each with a box and a score; no anchors, no suppression."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from services.infer.families.candidates import (
    Array,
    Candidates,
    centred,
    no_points,
    shapes_of,
    sigmoid,
    strongest,
)

_BOX = 4

_SHARE_MAX = 1.5
"""Boxes are past a sigmoid too; what is beyond all doubt larger is px, of another family."""

_CLASSES_MAX = 1000
"""Beyond what any has: then the last dimension is something else."""


def decode_rt_detr(
    outputs: Sequence[Array], index: int, width: int, threshold: float
) -> Candidates:
    """Formulas of RT-DETR's post-processor (lyuwenyu/RT-DETR): boxes are centre x, centre y, w, h
    as shares of the input, the score is the sigmoid of the logit. The first class is the face.

    Either boxes (batch, queries, 4) and logits (batch, queries, classes), in any order, or, as
    Ultralytics exports it, one output (batch, queries, 4 + classes) whose scores are past their
    sigmoid. The input is a square: its width stands for both sides.
    """
    boxes, scores = _boxes_and_scores(outputs, index)
    if np.any(boxes > _SHARE_MAX):
        raise ValueError("its boxes are no shares of the input, as those of rt-detr")
    keep = strongest(scores, threshold)
    found = boxes[keep].astype(np.float32, copy=False) * np.float32(width)
    return Candidates(centred(found), scores[keep], no_points(keep.size))


def _boxes_and_scores(outputs: Sequence[Array], index: int) -> tuple[Array, Array]:
    """(queries, 4) and (queries,) of one frame."""
    if all(output.ndim == 3 for output in outputs):
        if len(outputs) == 1 and _BOX < outputs[0].shape[2] <= _BOX + _CLASSES_MAX:
            found = outputs[0][index]
            return found[:, :_BOX], found[:, _BOX].astype(np.float32, copy=False)
        if len(outputs) == 2 and outputs[0].shape[:2] == outputs[1].shape[:2]:
            boxes, logits = _told_apart(outputs)
            if boxes.shape[2] == _BOX and logits.shape[2] > 0:
                return boxes[index], sigmoid(logits[index, :, 0])
    raise ValueError(
        "rt-detr has boxes (batch, queries, 4) and logits (batch, queries, classes), or both in "
        f"one output; these are {shapes_of(outputs)}"
    )


def _told_apart(outputs: Sequence[Array]) -> tuple[Array, Array]:
    """Boxes and logits, by shape; with four classes, boxes are what has all values in 0..1."""
    first, second = outputs
    if first.shape[2] != second.shape[2]:
        return (first, second) if first.shape[2] == _BOX else (second, first)
    shares = bool(np.all((first >= 0) & (first <= 1)))
    return (first, second) if shares else (second, first)
