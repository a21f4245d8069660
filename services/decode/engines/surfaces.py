"""From a decoder's surface on a GPU to an upright frame in a slot of the same GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from shared.cuda.device import Device
from shared.media.layout import Planes

_SOURCE = Path(__file__).with_name("surfaces.cu")
_BLOCK = (16, 16, 1)


class SurfaceWriter:
    """Writes surfaces of any size into planes; keeps nothing but its compiled kernels."""

    def __init__(self, device: Device) -> None:
        """Compiles on first use on this machine. Raises EngineError where that fails."""
        self._device = device
        self._bytes = device.kernel(_SOURCE, "upright_8")
        self._words = device.kernel(_SOURCE, "upright_16")

    def write(self, surface: Any, planes: Planes, rotation: int = 0, bits: int = 8) -> None:
        """Fill `planes` (NV12 of the upright size, tightly packed) with the picture of `surface`.

        `surface` is a 2-D device array of rows of Y, then rows of interleaved U and V: dtype uint8
        for 8 bits, uint16 with samples in the upper bits for more (P010). Its rows may be strided,
        and it may be larger than the picture, which lies at its top left. `rotation` is clockwise
        degrees: 0, 90, 180 or 270. Returns at once: in order on the device's stream, so the surface
        must stay as it is until that is done.

        Raises ValueError when the surface is too small for the planes or of another kind.
        """
        luma, chroma = planes
        rows, columns = luma.shape
        turns, rest = divmod(rotation, 90)
        if rest or not 0 <= turns <= 3:
            raise ValueError(f"a rotation of {rotation} degrees")
        if chroma.shape != ((rows + 1) // 2, (columns + 1) // 2 * 2):
            raise ValueError(f"the planes are not NV12 of {columns}x{rows}")
        width, height = (rows, columns) if turns % 2 else (columns, rows)
        luma_rows = _luma_rows(surface, width, height, bits)
        if turns == 0 and bits == 8:
            down, across = chroma.shape
            self._device.copy(surface[:height, :width], luma)
            self._device.copy(surface[luma_rows : luma_rows + down, :across], chroma)
            return
        down, across = chroma.shape[0], chroma.shape[1] // 2
        grid = (-(-across // _BLOCK[0]), -(-down // _BLOCK[1]), 1)
        kernel = self._bytes if bits == 8 else self._words
        sizes = (np.int32(luma_rows), np.int32(width), np.int32(height), np.int32(turns))
        kernel(grid, _BLOCK, surface, luma, chroma, np.int64(surface.strides[0]), *sizes)


def _luma_rows(surface: Any, width: int, height: int, bits: int) -> int:
    """Rows of Y in a surface: two thirds of all; a decoder may have rounded them up."""
    size = 1 if bits == 8 else 2
    if surface.ndim != 2 or surface.dtype.itemsize != size or surface.strides[1] != size:
        raise ValueError(f"the surface is not rows of samples of {bits} bits")
    rows, columns = surface.shape
    luma_rows: int = 2 * rows // 3
    fits = luma_rows >= height and rows - luma_rows >= (height + 1) // 2
    if not fits or columns < (width + 1) // 2 * 2:
        raise ValueError(f"a surface of {columns} x {rows} does not hold {width}x{height} px")
    return luma_rows
