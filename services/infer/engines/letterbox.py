"""Pictures for a detection model, made on the GPU from frames that lie there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from services.infer.engines.colours import channels
from shared.cuda.device import Device
from shared.media.layout import FrameLayout, PixelFormat, Planes
from shared.models import ModelEntry

_SOURCE = Path(__file__).with_name("letterbox.cu")
_KERNELS = {"float32": "letterbox_float", "float16": "letterbox_half"}
_BLOCK = (32, 8, 1)


class Letterbox:
    """Fills batches of one model; the same picture as `onnx_cpu` makes, to 2 of 255."""

    def __init__(self, device: Device, entry: ModelEntry) -> None:
        """Compiles on first use on this machine. Raises EngineError where that fails."""
        self._kernels = {kind: device.kernel(_SOURCE, name) for kind, name in _KERNELS.items()}
        factors = [factor for channel in channels(entry) for factor in channel]
        self._factors = tuple(np.float32(factor) for factor in factors)

    def fill(
        self,
        planes: Planes,
        layout: FrameLayout,
        look_w: int,
        look_h: int,
        batch: Any,
        index: int,
    ) -> None:
        """Write all of `batch[index]`: the frame, `look_w` x `look_h` px at the top left, and black
        right and below of it.

        `planes` are NV12 in device memory, tightly packed; `batch` is a device array (n, 3, H, W),
        C-contiguous, float32 or float16. Returns at once: in order on the device's stream.

        Raises ValueError when planes, layout and batch do not fit together.
        """
        kernel = self._kernels.get(str(batch.dtype))
        if kernel is None:
            raise ValueError(f"a batch of {batch.dtype}, not of {' or '.join(_KERNELS)}")
        _check(planes, layout, batch, look_w, look_h, index)
        high, wide = batch.shape[2:]
        sizes = (layout.width, layout.height, look_w, look_h, wide, high)
        levels = (
            _halvings(layout.width, layout.height, look_w, look_h),
            _halvings(layout.chroma_width, layout.chroma_height, look_w, look_h),
        )
        grid = (-(-wide // _BLOCK[0]), -(-high // _BLOCK[1]), 1)
        whole = (np.int32(number) for number in (*sizes, *levels))
        kernel(grid, _BLOCK, *planes, batch[index], *whole, *self._factors)


def _check(
    planes: Planes, layout: FrameLayout, batch: Any, look_w: int, look_h: int, index: int
) -> None:
    chroma = (layout.chroma_height, 2 * layout.chroma_width)
    if layout.format is not PixelFormat.NV12 or [p.shape for p in planes] != [
        (layout.height, layout.width),
        chroma,
    ]:
        raise ValueError(f"the planes are not NV12 of {layout.width}x{layout.height}")
    if batch.ndim != 4 or batch.shape[1] != 3 or not 0 <= index < batch.shape[0]:
        raise ValueError(f"a batch of {batch.shape} has no picture {index}")
    if not (0 < look_w <= batch.shape[3] and 0 < look_h <= batch.shape[2]):
        raise ValueError(f"{look_w}x{look_h} px do not fit a batch of {batch.shape}")


def _halvings(columns: int, rows: int, look_w: int, look_h: int) -> int:
    """How often a plane is halved before it is interpolated; a last odd row or column is left."""
    times = 0
    while rows >> times >= 2 * look_h and columns >> times >= 2 * look_w:
        times += 1
    return times
