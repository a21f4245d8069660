"""CenterFace: heat map, log size, offset, five landmarks, on one grid of stride 4."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from services.infer.families.candidates import Array, Candidates, shapes_of

STRIDE = 4.0

_CHANNELS = (1, 2, 2, 10)
"""Of the four outputs."""


def decode_centerface(
    outputs: Sequence[Array], index: int, _width: int, threshold: float
) -> Candidates:
    """Formulas of the reference decoder (Star-Clouds/CenterFace, prj-python): size is exp(.) * 4
    with height first, centre is (cell + offset + 0.5) * 4 with y first, landmarks are fractions of
    the box, y first.
    """
    grids = [(*output.shape[:1], *output.shape[2:]) for output in outputs]
    if [output.shape[1:2] for output in outputs] != [(count,) for count in _CHANNELS] or (
        outputs[0].ndim != 4 or len(set(grids)) != 1
    ):
        raise ValueError(
            "centerface has four outputs (batch, channels, rows, columns) with 1, 2, 2, 10 "
            f"channels; these are {shapes_of(outputs)}"
        )
    heat, size, offset, marks = (output[index] for output in outputs)
    rows, columns = np.nonzero(heat[0] > threshold)
    h, w = np.exp(size[:, rows, columns]) * STRIDE
    y = (rows + offset[0, rows, columns] + 0.5) * STRIDE - h / 2
    x = (columns + offset[1, rows, columns] + 0.5) * STRIDE - w / 2
    marks_at = marks[:, rows, columns]
    points_x = marks_at[1::2] * w + x
    points_y = marks_at[0::2] * h + y
    return Candidates(
        np.stack((x, y, w, h), axis=1).astype(np.float32),
        heat[0, rows, columns],
        np.stack((points_x.T, points_y.T), axis=2).astype(np.float32),
    )
