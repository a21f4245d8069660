"""From Y, U, V samples to what a model takes: one set of factors per channel."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from shared.models import ModelEntry

# Rows R, G, B; columns Y, U, V: BT.601 limited range (ITU-R BT.601-7, 2.5). Which matrix and range
# a video really has changes colours by a few per cent, which a detector does not notice.
_YUV_TO_RGB = np.array(
    ((1.164383, 0.0, 1.596027), (1.164383, -0.391762, -0.812968), (1.164383, 2.017232, 0.0))
)
_YUV_ZERO = np.array((16.0, 128.0, 128.0))


class Channel(NamedTuple):
    """A channel of a model's input is `y * Y + u * U + v * V + offset`, for samples 0..255;
    `black` is what it is where there is no picture."""

    y: float
    u: float
    v: float
    offset: float
    black: float


def channels(entry: ModelEntry) -> tuple[Channel, ...]:
    """The three channels, in the model's order."""
    order = slice(None) if entry.channels == "RGB" else slice(None, None, -1)
    matrix = _YUV_TO_RGB[order]
    mean = np.array(entry.mean)
    offsets = -(matrix @ _YUV_ZERO) - mean
    rows = np.column_stack((matrix, offsets, -mean)) * entry.scale
    return tuple(Channel(*row) for row in rows.tolist())
