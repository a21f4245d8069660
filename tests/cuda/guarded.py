"""Device memory with a guard around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from shared.cuda.device import Device
from shared.media.layout import FrameLayout, Planes

GUARD = 64
"""Bytes on both sides; more than a row of a block's threads."""

CANARY = 0xA5

Array = npt.NDArray[Any]


class Guarded:
    """Planes of one frame in device memory, full of noise, with canaries before and after."""

    def __init__(self, device: Device, layout: FrameLayout) -> None:
        self._device = device
        self._size = layout.frame_bytes
        self._layout = layout
        self._buffer = device.empty((self._size + 2 * GUARD,))
        noise = np.random.default_rng(5).integers(0, 256, self._buffer.shape, np.uint8)
        noise[:GUARD] = noise[-GUARD:] = CANARY
        device.upload(noise, self._buffer)
        self.planes: Planes = layout.planes(self._buffer[GUARD : GUARD + self._size])

    def fetch(self) -> Planes:
        """Host copies, after a look at the canaries."""
        everything = fetched(self._device, self._buffer)
        guards = (everything[:GUARD], everything[-GUARD:])
        assert all((guard == CANARY).all() for guard in guards), "written beyond the frame"
        return self._layout.planes(everything[GUARD : GUARD + self._size].copy())


def sent(device: Device, array: Array) -> Any:
    """A copy in device memory."""
    there = device.empty(array.shape, str(array.dtype))
    device.upload(array, there)
    return there


def fetched(device: Device, array: Any) -> Array:
    """A copy in host memory, after all work of the device."""
    device.finish()
    here: Array = np.empty(array.shape, str(array.dtype))
    device.download(array, here)
    return here


def frame_on(device: Device, layout: FrameLayout, planes: Sequence[Array]) -> Planes:
    """The planes in device memory, back to back as in a slot."""
    together = np.concatenate([plane.ravel() for plane in planes])
    assert together.size == layout.frame_bytes
    return layout.planes(sent(device, together))
