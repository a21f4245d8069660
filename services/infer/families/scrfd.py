"""SCRFD (2.5G with landmarks, and its siblings): two anchors per cell of stride 8, 16, 32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from services.infer.families.candidates import (
    CANDIDATES_MAX,
    LANDMARKS,
    Array,
    Candidates,
    no_points,
    shapes_of,
    strongest,
)

SCRFD_STRIDES = (8, 16, 32)
ANCHORS = 2
"""Per cell."""

_SCORE, _BOX, _POINTS = 1, 4, 2 * LANDMARKS
"""Values of an anchor in the three kinds of output."""


class _Level(NamedTuple):
    """One stride: scores (n,), distances (n, 4), offsets of landmarks (n, 10), or (n, 0)."""

    scores: Array
    distances: Array
    offsets: Array


def decode_scrfd(outputs: Sequence[Array], index: int, width: int, threshold: float) -> Candidates:
    """Formulas of insightface (python-package, scrfd.py): an anchor's centre is the upper left of
    its cell, (column, row) * stride; distances to left, top, right, bottom and offsets of landmarks
    are in strides; scores are after their sigmoid. Anchors are in the order of rows, columns, and
    the two of a cell.

    Nine outputs, or six without landmarks, each (batch, anchors, values) or, of a batch of one,
    (anchors, values). Exports differ in their order: shapes tell which is which.
    """
    levels = []
    for stride, level in zip(SCRFD_STRIDES, _by_stride(outputs, index, width), strict=True):
        kept = strongest(level.scores, threshold)
        cell = kept // ANCHORS
        columns = width // stride
        centre = np.stack((cell % columns, cell // columns), axis=1) * np.float32(stride)
        reach = level.distances[kept] * stride
        corner = centre - reach[:, :2]
        boxes = np.concatenate((corner, reach[:, :2] + reach[:, 2:]), axis=1)
        points = no_points(kept.size)
        if level.offsets.shape[1]:
            offsets = level.offsets[kept].reshape(-1, LANDMARKS, 2) * stride
            points = centre[:, np.newaxis] + offsets
        levels.append((boxes, level.scores[kept], points))
    boxes, scores, points = (
        np.concatenate(part).astype(np.float32, copy=False) for part in zip(*levels, strict=True)
    )
    found = Candidates(boxes, scores, points)
    return found if scores.size <= CANDIDATES_MAX else found.take(strongest(scores, threshold))


def _by_stride(outputs: Sequence[Array], index: int, width: int) -> list[_Level]:
    kinds: dict[int, list[Array]] = {_SCORE: [], _BOX: [], _POINTS: []}
    for output in outputs:
        if output.ndim not in (2, 3) or output.shape[-1] not in kinds:
            raise _unlike(outputs)
        if output.ndim == 2 and index != 0:
            raise IndexError(f"this export takes one picture at a time, there is no {index}")
        kinds[output.shape[-1]].append(output if output.ndim == 2 else output[index])
    for of_kind in kinds.values():
        of_kind.sort(key=len, reverse=True)  # the finest grid has most anchors
    counts = [len(scores) for scores in kinds[_SCORE]]
    # four cells of a stride make one of the next: else they are no grids of 8, 16, 32 of this width
    rows = counts[-1] // (ANCHORS * max(1, width // SCRFD_STRIDES[-1])) if counts else 0
    expected = [ANCHORS * (width // 32) * rows * each for each in (16, 4, 1)]
    boxes, points = ([len(output) for output in kinds[kind]] for kind in (_BOX, _POINTS))
    if counts != expected or rows == 0 or boxes != counts or points not in ([], counts):
        raise _unlike(outputs)
    offsets = kinds[_POINTS] or [np.zeros((count, 0), dtype=np.float32) for count in counts]
    return [
        _Level(scores[:, 0], distances, offset)
        for scores, distances, offset in zip(kinds[_SCORE], kinds[_BOX], offsets, strict=True)
    ]


def _unlike(outputs: Sequence[Array]) -> ValueError:
    return ValueError(
        "scrfd has scores (anchors, 1), distances (anchors, 4) and, or not, landmarks (anchors, "
        f"10) for strides 8, 16, 32 with two anchors per cell; these are {shapes_of(outputs)}"
    )
