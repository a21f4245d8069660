"""What the CPU engines draw. Tests that take a `renderer` are the contract of all of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.compose.camera import View
from services.compose.engines.base import Renderer
from services.compose.engines.opencv import OpenCvRenderer, cut
from services.compose.engines.plain import PlainRenderer
from shared.jobs import OutputPlan, Rect
from shared.media.layout import FrameLayout, PixelFormat, Plane, Planes
from tests.compose.scenes import output, side_by_side

Floats = npt.NDArray[np.float64]


def frame(layout: FrameLayout, seed: int = 1) -> Planes:
    """Read-only planes of noise."""
    noise = np.random.default_rng(seed).integers(0, 256, layout.frame_bytes, np.uint8)
    noise.setflags(write=False)
    return layout.planes(noise)


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


@pytest.fixture(params=[OpenCvRenderer, PlainRenderer])
def renderer(request: pytest.FixtureRequest) -> Renderer:
    """Each engine in turn."""
    made: Renderer = request.param()
    return made


def draw(
    source: Planes,
    layout: FrameLayout,
    views: tuple[View, View],
    plan: OutputPlan,
    renderer: Renderer | None = None,
) -> Planes:
    """A canvas that was full of noise before."""
    target = FrameLayout(width=plan.width, height=plan.height)
    canvas = target.planes(np.random.default_rng(9).integers(0, 256, target.frame_bytes, np.uint8))
    (renderer or OpenCvRenderer()).render(source, layout, views, plan, canvas)
    return canvas


def test_a_view_of_the_tiles_own_size_is_copied_exactly(renderer: Renderer) -> None:
    layout, plan = FrameLayout(width=640, height=360), side_by_side(320, 180)
    source = frame(layout)
    y, u, v = draw(
        source, layout, (View(100, 50, 160, 180), View(302, 120, 160, 180)), plan, renderer
    )
    assert np.array_equal(y[:, :160], source[0][50:230, 100:260])
    assert np.array_equal(y[:, 160:], source[0][120:300, 302:462])
    assert np.array_equal(u[:, :80], source[1][25:115, 50:130])
    assert np.array_equal(v[:, 80:], source[2][60:150, 151:231])


def test_equal_views_are_drawn_bit_for_bit_the_same(renderer: Renderer) -> None:
    layout, plan = FrameLayout(width=640, height=360), side_by_side(640, 360)
    views = (View(10.3, 5.7, 200.4, 225.45), View(301.9, 50.1, 231.1, 259.98))
    a, b = (draw(frame(layout), layout, views, plan, renderer) for _ in range(2))
    assert all(np.array_equal(p, q) for p, q in zip(a, b, strict=True))


def test_a_slow_pan_moves_the_picture_evenly() -> None:
    layout, plan = FrameLayout(width=640, height=360), side_by_side(640, 360)
    source = (blob((360, 640), 300.0, 180.0, 6), *frame(layout)[1:])
    scale = 320 / 203.7
    for i in range(40):
        x, y = 190 + 0.1 * i, 60 + 0.07 * i
        view = View(x, y, 203.7, 203.7 * 360 / 320)
        canvas = draw(source, layout, (view, view), plan)
        at = centre(canvas[0][:, :320])
        assert at[0] == pytest.approx((300.5 - x) * scale - 0.5, abs=0.25)
        assert at[1] == pytest.approx((180.5 - y) * scale - 0.5, abs=0.25)


@pytest.mark.parametrize("size", [120.0, 203.7, 320.0, 400.3])
@pytest.mark.parametrize("wide", [640, 320])
def test_colour_lies_on_the_brightness_it_belongs_to(size: float, wide: int) -> None:
    layout, plan = FrameLayout(width=640, height=480), side_by_side(wide, wide * 9 // 16)
    # the spot's place in a chroma plane whose samples are on every second column, between rows
    spot = blob((240, 320), 300.0 / 2, (240.0 - 0.5) / 2, 5)
    source = (blob((480, 640), 300.0, 240.0, 10), spot, spot)
    y0 = 236 - size * 180 / 320
    for i in range(10):
        view = View(300 - size / 2 + 0.37 * i, y0 + 0.23 * i, size, size * 360 / 320)
        y, u, v = draw(source, layout, (view, view), plan)
        luma = centre(y[:, : wide // 2])
        for plane in (u, v):
            chroma = centre(plane[:, : wide // 4])
            assert 2 * chroma[0] == pytest.approx(luma[0], abs=1.0)
            assert 2 * chroma[1] + 0.5 == pytest.approx(luma[1], abs=1.0)


def test_nv12_gives_the_picture_of_i420(renderer: Renderer) -> None:
    planar = FrameLayout(width=641, height=361)
    packed = FrameLayout(width=641, height=361, format=PixelFormat.NV12)
    y, u, v = frame(planar)
    mixed = np.dstack((u, v)).reshape(u.shape[0], -1)
    views = (View(10.3, 5.7, 200.4, 225.45), View(301.9, 50.1, 231.1, 259.98))
    plan = side_by_side(640, 360)
    a = draw((y, u, v), planar, views, plan, renderer)
    b = draw((y, mixed), packed, views, plan, renderer)
    for p, q in zip(a, b, strict=True):
        assert int(np.abs(p.astype(int) - q.astype(int)).max()) <= 1


@pytest.mark.parametrize(("full_range", "black"), [(False, 16), (True, 0)])
def test_what_no_tile_covers_is_black(full_range: bool, black: int, renderer: Renderer) -> None:
    layout = FrameLayout(width=640, height=360)
    tiles = (Rect(x=2, y=4, w=100, h=90), Rect(x=104, y=4, w=96, h=90))
    plan = output(220, 100, tiles, full_range)
    view = View(0, 0, 200, 180)
    y, u, v = draw(frame(layout), layout, (view, view), plan, renderer)
    outside = np.ones(y.shape, bool)
    for t in tiles:
        outside[t.y : t.y + t.h, t.x : t.x + t.w] = False
    assert set(y[outside].tolist()) == {black}
    assert set(u[outside[::2, ::2]].tolist()) == {128}
    assert set(v[outside[::2, ::2]].tolist()) == {128}
    assert len(set(y[~outside].tolist())) > 50


def test_one_renderer_draws_frames_of_different_sizes(renderer: Renderer) -> None:
    for width, height in ((640, 360), (1280, 720), (320, 180)):
        layout, plan = FrameLayout(width=width, height=height), side_by_side(width, height)
        source, target = frame(layout), np.empty(layout.frame_bytes, np.uint8)
        view = View(3.3, 1.1, height * 0.5 * 16 / 18, height * 0.5)
        renderer.render(source, layout, (view, view), plan, layout.planes(target))
        again = draw(source, layout, (view, view), plan, renderer)
        assert np.array_equal(layout.planes(target)[0], again[0])


def test_pixels_that_are_not_square_are_stretched(renderer: Renderer) -> None:
    layout, plan = FrameLayout(width=640, height=360), side_by_side(400, 200)
    source = (blob((360, 640), 200, 180, 10), *frame(layout)[1:])
    view = View(150, 130, 100, 50)
    y, _, _ = draw(source, layout, (view, View(150, 130, 50, 100)), plan, renderer)
    assert centre(y[:, :200])[0] == pytest.approx(100.5, abs=1)


@pytest.mark.parametrize(
    "view", [View(-1, 0, 10, 10), View(0, 0, 641, 10), View(600, 0, 41, 10), View(0, 0, 0, 10)]
)
def test_a_view_outside_of_the_frame_is_refused(view: View, renderer: Renderer) -> None:
    layout = FrameLayout(width=640, height=360)
    with pytest.raises(ValueError, match="leaves the frame"):
        draw(frame(layout), layout, (View(0, 0, 9, 9), view), side_by_side(64, 64), renderer)


def test_planes_of_another_size_are_refused(renderer: Renderer) -> None:
    layout, plan = FrameLayout(width=640, height=360), side_by_side(64, 64)
    view, small = View(0, 0, 9, 9), FrameLayout(width=62, height=64)
    with pytest.raises(ValueError, match="source planes"):
        renderer.render(frame(small), layout, (view, view), plan, frame(small))
    with pytest.raises(ValueError, match="canvas"):
        renderer.render(frame(layout), layout, (view, view), plan, frame(small))


@given(
    limit=st.integers(8, 4096),
    size=st.integers(8, 1080),
    part=st.floats(0.05, 1.0),
    where=st.floats(0, 1),
)
def test_a_cut_covers_its_tile_to_half_an_output_pixel(
    limit: int, size: int, part: float, where: float
) -> None:
    length = max(4.0, part * limit)
    position, scale = where * (limit - length), size / length
    found = cut(position, scale, size, limit)
    assert found.start >= 0
    assert found.start + found.length <= limit
    assert found.scaled == round(found.length * scale)
    assert 0 <= found.offset <= found.scaled - size
    assert abs(found.start + found.offset / scale - position) <= 0.75 / scale
