"""Renderers as tests use them: I420 planes of the host in, the same out, whatever lies between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from services.compose.engines.base import Renderer
from services.compose.marks import Mark
from shared.cuda.device import Device
from shared.jobs import OutputPlan
from shared.media.layout import FrameLayout, PixelFormat, Plane, Planes
from shared.tracks import View

Pair = tuple[View, View]
Floats = npt.NDArray[np.float64]


class Drawer(Protocol):
    """One renderer, and how planes get to it."""

    renderer: Renderer

    def draw(
        self,
        source: Planes,
        layout: FrameLayout,
        views: Pair,
        plan: OutputPlan,
        marks: Sequence[Mark] = (),
    ) -> Planes:
        """Y, U, V of the canvas, which was full of noise before. `source` is I420."""


class OnHost:
    """A renderer of the host, from and to planes of any of the two formats."""

    def __init__(
        self,
        renderer: Renderer,
        source: PixelFormat = PixelFormat.I420,
        canvas: PixelFormat = PixelFormat.I420,
    ) -> None:
        self.renderer = renderer
        self._source = source
        self._canvas = canvas

    def draw(
        self,
        source: Planes,
        layout: FrameLayout,
        views: Pair,
        plan: OutputPlan,
        marks: Sequence[Mark] = (),
    ) -> Planes:
        """See `Drawer.draw`."""
        if self._source is PixelFormat.NV12:
            source, layout = packed(source), as_nv12(layout)
        target = FrameLayout(width=plan.width, height=plan.height, format=self._canvas)
        canvas = target.planes(noise(target.frame_bytes, 9))
        self.renderer.render(source, layout, views, plan, canvas, marks)
        return unpacked(canvas)


class OnDevice:
    """A renderer of planes in device memory, which are NV12."""

    def __init__(self, renderer: Renderer, device: Device) -> None:
        self.renderer = renderer
        self._device = device

    def draw(
        self,
        source: Planes,
        layout: FrameLayout,
        views: Pair,
        plan: OutputPlan,
        marks: Sequence[Mark] = (),
    ) -> Planes:
        """See `Drawer.draw`. The canvas lies between canaries."""
        device, there = self._device, as_nv12(layout)
        given = there.planes(self._sent(np.concatenate([p.ravel() for p in packed(source)])))
        target = as_nv12(FrameLayout(width=plan.width, height=plan.height))
        size, guard = target.frame_bytes, 64
        buffer = self._sent(noise(size + 2 * guard, 9))
        canvas = target.planes(buffer[guard : guard + size])
        self.renderer.render(given, there, views, plan, canvas, marks)
        device.finish()
        made = np.empty(buffer.shape, np.uint8)
        device.download(buffer, made)
        around = noise(size + 2 * guard, 9)
        assert np.array_equal(made[:guard], around[:guard]), "written before the canvas"
        assert np.array_equal(made[-guard:], around[-guard:]), "written after the canvas"
        return unpacked(target.planes(made[guard : guard + size]))

    def _sent(self, array: Plane) -> Plane:
        there: Plane = self._device.empty(array.shape)
        self._device.upload(array, there)
        return there


def noise(size: int, seed: int) -> Plane:
    """Bytes of any value."""
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


def frame(layout: FrameLayout, seed: int = 1) -> Planes:
    """Read-only planes of noise."""
    bytes_ = noise(layout.frame_bytes, seed)
    bytes_.setflags(write=False)
    return layout.planes(bytes_)


def as_nv12(layout: FrameLayout) -> FrameLayout:
    """The same size."""
    return FrameLayout(width=layout.width, height=layout.height, format=PixelFormat.NV12)


def packed(planes: Planes) -> Planes:
    """I420 as NV12."""
    y, u, v = planes
    return y, np.dstack((u, v)).reshape(u.shape[0], -1)


def unpacked(planes: Planes) -> Planes:
    """Either format as I420."""
    if len(planes) == 3:
        return planes
    pairs = planes[1].reshape(planes[1].shape[0], -1, 2)
    return planes[0], pairs[..., 0], pairs[..., 1]


def apart(a: Planes, b: Planes) -> int:
    """The largest difference of two samples."""
    return max(int(np.abs(p.astype(int) - q).max()) for p, q in zip(a, b, strict=True))


def blob(shape: tuple[int, int], x: float, y: float, radius: float) -> Plane:
    """A soft spot around (x, y), in coordinates of pixel centres."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    soft = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * radius**2))
    return np.asarray(np.round(soft * 200), np.uint8)


def centre(plane: Plane) -> tuple[float, float]:
    """The spot's centre of mass."""
    weight: Floats = plane.astype(np.float64)
    rows, columns = np.mgrid[: plane.shape[0], : plane.shape[1]]
    return float((columns * weight).sum() / weight.sum()), float(
        (rows * weight).sum() / weight.sum()
    )
