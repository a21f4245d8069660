"""Telling device memory from host memory, and moving planes between the two. Imports no CUDA."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from shared.media.layout import Plane, Planes

Memory = Literal["host", "device"]
"""Where an engine works on planes."""

Direction = Literal["host_to_device", "device_to_host"]


class Mover(Protocol):
    """What copies between host and device; `shared.cuda.device.Device` is one."""

    def upload(self, source: Plane, target: Plane) -> None:
        """Host to device."""

    def download(self, source: Plane, target: Plane) -> None:
        """Device to host; complete when it returns."""

    def pinned(self, size: int) -> Plane:
        """`size` bytes of page-locked host memory, 1-D uint8."""


def where(plane: Plane) -> Memory:
    """What kind of memory a plane or slot lies in."""
    return "device" if on_device((plane,)) else "host"


def on_device(planes: Sequence[Plane]) -> bool:
    """True for planes in device memory (they speak the CUDA array interface)."""
    # Of the type: the attribute itself asks CUDA for the stream.
    return hasattr(type(planes[0]), "__cuda_array_interface__")


class Staging:
    """Host copies of planes in device memory, for engines that work on the host.

    Keeps one page-locked buffer for each direction, as large as the largest frame seen. Planes it
    hands out are valid until its next call of the same method.
    """

    def __init__(self, mover: Mover) -> None:
        self._mover = mover
        self._down: Plane | None = None
        self._up: Plane | None = None

    def down(self, planes: Planes) -> Planes:
        """Host copies of `planes`."""
        total = sum(plane.size for plane in planes)
        if self._down is None or self._down.size < total:
            self._down = self._mover.pinned(total)
        copies = _parts(self._down, planes)
        for plane, copy in zip(planes, copies, strict=True):
            self._mover.download(plane, copy)
        return copies

    def blank(self, planes: Planes) -> Planes:
        """Host planes of the same shapes, of any content, to be filled and given to `up`."""
        total = sum(plane.size for plane in planes)
        if self._up is None or self._up.size < total:
            self._up = self._mover.pinned(total)
        return _parts(self._up, planes)

    def up(self, filled: Planes, planes: Planes) -> None:
        """Copy host planes into `planes`; `filled` may be written again when it returns."""
        for source, target in zip(filled, planes, strict=True):
            self._mover.upload(source, target)


def _parts(buffer: Plane, planes: Planes) -> Planes:
    """Consecutive views of `buffer`, of the shapes of `planes`."""
    parts, start = [], 0
    for plane in planes:
        part = buffer[start : start + plane.size].reshape(plane.shape)
        parts.append(part)
        start += plane.size
    return tuple(parts)
