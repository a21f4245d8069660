"""Pictures for frames that could not be made: the last good one, fading into the next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from services.encode.engines.base import Frame
from shared.cuda.device import Device
from shared.cuda.memory import Memory
from shared.media.layout import FrameLayout, Plane

ALL = 256
"""A weight: the other picture alone."""

_SOURCE = Path(__file__).with_name("fade.cu")
_THREADS = 256


class Mixer(Protocol):
    """Mixes pictures in one kind of memory; the same to the bit in each."""

    def put(self, picture: Plane) -> Plane:
        """A picture of the host, 1-D uint8, where the mixer works."""

    def blank(self, size: int) -> Plane:
        """There too: `size` bytes, 1-D, of any content."""

    def mix(self, first: Plane, second: Plane, weight: int, canvas: Plane) -> None:
        """Fill `canvas` with `first` and `second` (all 1-D uint8 of one size), the latter by
        `weight` of ALL, rounded to nearest."""


class HostMixer:
    """See Mixer."""

    def put(self, picture: Plane) -> Plane:
        """See Mixer."""
        return picture

    def blank(self, size: int) -> Plane:
        """See Mixer."""
        return np.empty(size, np.uint8)

    def mix(self, first: Plane, second: Plane, weight: int, canvas: Plane) -> None:
        """See Mixer."""
        mixed = first * np.uint16(ALL - weight)
        mixed += second * np.uint16(weight)
        mixed += ALL // 2
        np.right_shift(mixed, 8, out=mixed)
        canvas[:] = mixed


class DeviceMixer:
    """See Mixer."""

    def __init__(self, device: Device) -> None:
        """Compiles on first use on this machine. Raises EngineError where that fails."""
        self._device = device
        self._mix = device.kernel(_SOURCE, "mix")

    def put(self, picture: Plane) -> Plane:
        """See Mixer."""
        copy = self.blank(picture.size)
        self._device.upload(picture, copy)
        return copy

    def blank(self, size: int) -> Plane:
        """See Mixer."""
        made: Plane = self._device.empty((size,))
        return made

    def mix(self, first: Plane, second: Plane, weight: int, canvas: Plane) -> None:
        """See Mixer."""
        grid = (-(-canvas.size // _THREADS), 1, 1)
        sizes = (np.int32(weight), np.int64(canvas.size))
        self._mix(grid, (_THREADS, 1, 1), first, second, canvas, *sizes)


class Still(NamedTuple):
    """A picture that stands, and may fade into another; both on the host, 1-D uint8. `weights`: how
    much of ALL the second makes up of each frame."""

    first: Plane
    second: Plane
    weights: Sequence[int]


def faded(mixer: Mixer, still: Still, layout: FrameLayout, times: Sequence[int]) -> Iterator[Frame]:
    """A frame of `layout` at each of `times`, where `mixer` works; each is valid until the next is
    asked for."""
    near, far = mixer.put(still.first), mixer.put(still.second)
    canvas = mixer.blank(layout.frame_bytes)
    for pts, weight in zip(times, still.weights, strict=True):
        shown = near
        if weight:
            shown = canvas
            mixer.mix(near, far, weight, canvas)
        yield pts, layout.planes(shown)


def mixer_of(memory: Memory, device: Callable[[], Device]) -> Mixer:
    """The mixer of one kind of memory. Raises EngineError where there is none of a device."""
    return HostMixer() if memory == "host" else DeviceMixer(device())
