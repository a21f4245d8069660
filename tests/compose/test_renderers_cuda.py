"""What the GPU draws: the contract of all renderers, and OpenCV's picture."""

from __future__ import annotations

import math
import random

import pytest

from services.compose.camera import View
from services.compose.engines.cuda import CudaRenderer
from services.compose.engines.opencv import OpenCvRenderer
from shared.cuda.device import Device
from shared.jobs import OutputPlan, Rect
from shared.media.layout import FrameLayout
from tests.compose.drawing import Drawer, OnDevice, OnHost, Pair, apart, as_nv12, frame, packed
from tests.compose.renderer_contract import InterpolationContract, RendererContract
from tests.compose.scenes import output, side_by_side


@pytest.fixture
def drawer(device: Device) -> Drawer:
    """See `RendererContract`."""
    return OnDevice(CudaRenderer(device), device)


class TestCuda(RendererContract, InterpolationContract):
    """On NV12 planes in device memory."""


def scene(seed: int) -> tuple[FrameLayout, Pair, OutputPlan]:
    """Any frame, two tiles of any size, and views that enlarge, shrink or stretch."""
    rng = random.Random(seed)

    def even(low: int, high: int) -> int:
        return 2 * rng.randint(low // 2, high // 2)

    layout = FrameLayout(width=rng.randint(40, 400), height=rng.randint(40, 300))
    first, second, height = even(16, 160), even(16, 160), even(16, 160)
    tiles = Rect(x=0, y=0, w=first, h=height), Rect(x=first, y=0, w=second, h=height)
    plan = output(first + second + even(0, 20), height + even(0, 10), tiles)
    views = []
    for width in (first, second):
        h = rng.uniform(8, layout.height)
        w = h * width / height * rng.choice((1, 1, 1, rng.uniform(0.5, 2)))
        if rng.random() < 0.2:
            # exact factors, and the tile's own size
            factor = rng.choice((0.5, 1.0, 2.0, 3.0))
            w, h = width * factor, height * factor
        part = min(1.0, layout.width / w, layout.height / h)
        w, h = _grid(w * part), _grid(h * part)
        x, y = rng.uniform(0, layout.width - w), rng.uniform(0, layout.height - h)
        views.append(View(_grid(x), _grid(y), w, h))
    return layout, (views[0], views[1]), plan


def _grid(px: float) -> float:
    """A camera's views lie on a grid too, so that none leaves the frame by a rounding error."""
    return math.floor(px * 64) / 64


@pytest.mark.parametrize("seed", range(60))
def test_the_gpus_picture_is_opencvs_to_two_of_255(seed: int, drawer: Drawer) -> None:
    layout, views, plan = scene(seed)
    source = frame(layout, seed)
    expected = OnHost(OpenCvRenderer()).draw(source, layout, views, plan)
    assert apart(drawer.draw(source, layout, views, plan), expected) <= 2


def test_a_view_of_almost_the_tiles_size_is_copied_as_by_opencv(drawer: Drawer) -> None:
    layout, plan = FrameLayout(width=400, height=200), side_by_side(320, 90)
    views = View(10.25, 5.5, 160.125, 90.0703125), View(200.5, 50.25, 159.875, 89.9296875)
    source = frame(layout)
    expected = OnHost(OpenCvRenderer()).draw(source, layout, views, plan)
    assert apart(drawer.draw(source, layout, views, plan), expected) == 0


def test_a_frame_of_full_size_is_drawn_as_opencv_does(drawer: Drawer) -> None:
    layout, plan = FrameLayout(width=1920, height=1080), side_by_side(1920, 1080)
    views = View(100.3, 50.2, 540.5, 608.06), View(900.75, 3.125, 957.25, 1076.875)
    source = frame(layout)
    expected = OnHost(OpenCvRenderer()).draw(source, layout, views, plan)
    assert apart(drawer.draw(source, layout, views, plan), expected) <= 2


def test_planes_that_are_not_nv12_of_the_size_are_refused(device: Device) -> None:
    layout, plan, view = FrameLayout(width=64, height=64), side_by_side(64, 64), View(0, 0, 9, 9)
    renderer, views = CudaRenderer(device), (view, view)
    good, small = packed(frame(layout)), packed(frame(FrameLayout(width=62, height=64)))
    with pytest.raises(ValueError, match="are NV12"):
        renderer.render(frame(layout), layout, views, plan, frame(layout))
    with pytest.raises(ValueError, match="do not fit"):
        renderer.render(small, as_nv12(layout), views, plan, good)
    with pytest.raises(ValueError, match="canvas is not"):
        renderer.render(good, as_nv12(layout), views, plan, small)
