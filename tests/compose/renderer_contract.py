"""What every renderer does. Each implementation runs it, by a class of its own."""

from __future__ import annotations

import numpy as np
import pytest

from services.compose.marks import Colour, Mark
from shared.jobs import Rect
from shared.media.layout import FrameLayout
from shared.tracks import View
from tests.compose.drawing import Drawer, apart, blob, centre, frame
from tests.compose.scenes import output, side_by_side


class RendererContract:
    """Asks for a fixture `drawer`."""

    def test_a_view_of_the_tiles_own_size_is_copied_exactly(self, drawer: Drawer) -> None:
        layout, plan = FrameLayout(width=640, height=360), side_by_side(320, 180)
        source = frame(layout)
        views = View(100, 50, 160, 180), View(302, 120, 160, 180)
        y, u, v = drawer.draw(source, layout, views, plan)
        assert np.array_equal(y[:, :160], source[0][50:230, 100:260])
        assert np.array_equal(y[:, 160:], source[0][120:300, 302:462])
        assert np.array_equal(u[:, :80], source[1][25:115, 50:130])
        assert np.array_equal(v[:, 80:], source[2][60:150, 151:231])

    def test_equal_views_are_drawn_bit_for_bit_the_same(self, drawer: Drawer) -> None:
        layout, plan = FrameLayout(width=640, height=360), side_by_side(640, 360)
        views = (View(10.3, 5.7, 200.4, 225.45), View(301.9, 50.1, 231.1, 259.98))
        a, b = (drawer.draw(frame(layout), layout, views, plan) for _ in range(2))
        assert apart(a, b) == 0

    @pytest.mark.parametrize(("full_range", "black"), [(False, 16), (True, 0)])
    def test_what_no_tile_covers_is_black(
        self, full_range: bool, black: int, drawer: Drawer
    ) -> None:
        layout = FrameLayout(width=640, height=360)
        tiles = (Rect(x=2, y=4, w=100, h=90), Rect(x=104, y=4, w=96, h=90))
        plan = output(220, 100, tiles, full_range)
        view = View(0, 0, 200, 180)
        y, u, v = drawer.draw(frame(layout), layout, (view, view), plan)
        outside = np.ones(y.shape, bool)
        for t in tiles:
            outside[t.y : t.y + t.h, t.x : t.x + t.w] = False
        assert set(y[outside].tolist()) == {black}
        assert set(u[outside[::2, ::2]].tolist()) == {128}
        assert set(v[outside[::2, ::2]].tolist()) == {128}
        assert len(set(y[~outside].tolist())) > 50

    def test_one_renderer_draws_frames_of_different_sizes(self, drawer: Drawer) -> None:
        def drawn(width: int, height: int) -> np.ndarray:
            layout, plan = FrameLayout(width=width, height=height), side_by_side(width, height)
            view = View(3.3, 1.1, height * 0.5 * 16 / 18, height * 0.5)
            return drawer.draw(frame(layout), layout, (view, view), plan)[0]

        sizes = ((640, 360), (1280, 720), (320, 180))
        first = [drawn(*size) for size in sizes]
        again = [drawn(*size) for size in reversed(sizes)]
        assert all(np.array_equal(a, b) for a, b in zip(first, reversed(again), strict=True))

    def test_pixels_that_are_not_square_are_stretched(self, drawer: Drawer) -> None:
        layout, plan = FrameLayout(width=640, height=360), side_by_side(400, 200)
        source = (blob((360, 640), 200, 180, 10), *frame(layout)[1:])
        views = View(150, 130, 100, 50), View(150, 130, 50, 100)
        y, _, _ = drawer.draw(source, layout, views, plan)
        assert centre(y[:, :200])[0] == pytest.approx(100.5, abs=1)

    @pytest.mark.parametrize(("width", "height"), [(641, 361), (63, 47)])
    def test_frames_of_odd_sizes_are_drawn_to_their_edges(
        self, width: int, height: int, drawer: Drawer
    ) -> None:
        layout, plan = FrameLayout(width=width, height=height), side_by_side(320, 180)
        planes = [np.zeros(p.shape, np.uint8) for p in frame(layout)]
        for plane in planes:
            plane[:, -1] = plane[-1] = 200
        half = View(width - 60, height - 40, 60, 40), View(0, 0, 20, 30)
        y, u, v = drawer.draw((planes[0], planes[1], planes[2]), layout, half, plan)
        for plane, columns in ((y, 160), (u, 80), (v, 80)):
            assert plane[-1, columns // 2] > 150
            assert plane[columns // 4, columns - 1] > 150
            assert plane[0, 0] == 0

    def test_marks_lie_over_the_tiles_exactly(self, drawer: Drawer) -> None:
        layout, plan = FrameLayout(width=320, height=180), side_by_side(320, 180)
        source, views = frame(layout), (View(0, 0, 160, 180), View(160, 0, 160, 180))
        marks = (
            Mark(Rect(x=10, y=20, w=30, h=2), Colour(1, 2, 3)),
            Mark(Rect(x=12, y=18, w=2, h=10), Colour(250, 251, 252)),
            Mark(Rect(x=318, y=178, w=2, h=2), Colour(7, 8, 9)),
            Mark(Rect(x=0, y=0, w=2, h=180), Colour(77, 78, 79)),
        )
        expected = [p.copy() for p in drawer.draw(source, layout, views, plan)]
        for rect, colour in marks:
            for plane, value, size in zip(expected, colour, (1, 2, 2), strict=True):
                rows = slice(rect.y // size, (rect.y + rect.h) // size)
                plane[rows, rect.x // size : (rect.x + rect.w) // size] = value
        made = drawer.draw(source, layout, views, plan, marks)
        assert apart(made, (expected[0], expected[1], expected[2])) == 0

    @pytest.mark.parametrize(
        "view", [View(-1, 0, 10, 10), View(0, 0, 641, 10), View(600, 0, 41, 10), View(0, 0, 0, 10)]
    )
    def test_a_view_outside_of_the_frame_is_refused(self, view: View, drawer: Drawer) -> None:
        layout = FrameLayout(width=640, height=360)
        with pytest.raises(ValueError, match="leaves the frame"):
            drawer.draw(frame(layout), layout, (View(0, 0, 9, 9), view), side_by_side(64, 64))

    def test_planes_of_another_size_are_refused(self, drawer: Drawer) -> None:
        layout, plan = FrameLayout(width=640, height=360), side_by_side(64, 64)
        view, small = View(0, 0, 9, 9), frame(FrameLayout(width=62, height=64))
        with pytest.raises(ValueError, match="source planes"):
            drawer.renderer.render(small, layout, (view, view), plan, small)
        with pytest.raises(ValueError, match="canvas"):
            drawer.renderer.render(frame(layout), layout, (view, view), plan, small)


class InterpolationContract:
    """Of renderers that take more than the nearest sample."""

    def test_a_slow_pan_moves_the_picture_evenly(self, drawer: Drawer) -> None:
        layout, plan = FrameLayout(width=640, height=360), side_by_side(640, 360)
        source = (blob((360, 640), 300.0, 180.0, 6), *frame(layout)[1:])
        scale = 320 / 203.7
        for i in range(0, 40, 3):
            x, y = 190 + 0.1 * i, 60 + 0.07 * i
            view = View(x, y, 203.7, 203.7 * 360 / 320)
            canvas = drawer.draw(source, layout, (view, view), plan)
            at = centre(canvas[0][:, :320])
            assert at[0] == pytest.approx((300.5 - x) * scale - 0.5, abs=0.25)
            assert at[1] == pytest.approx((180.5 - y) * scale - 0.5, abs=0.25)

    @pytest.mark.parametrize("size", [120.0, 203.7, 320.0, 400.3])
    @pytest.mark.parametrize("wide", [640, 320])
    def test_colour_lies_on_the_brightness_it_belongs_to(
        self, size: float, wide: int, drawer: Drawer
    ) -> None:
        layout, plan = FrameLayout(width=640, height=480), side_by_side(wide, wide * 9 // 16)
        # the spot's place in a chroma plane whose samples are on every second column, between rows
        spot = blob((240, 320), 300.0 / 2, (240.0 - 0.5) / 2, 5)
        source = (blob((480, 640), 300.0, 240.0, 10), spot, spot)
        y0 = 236 - size * 180 / 320
        for i in range(0, 10, 2):
            view = View(300 - size / 2 + 0.37 * i, y0 + 0.23 * i, size, size * 360 / 320)
            y, u, v = drawer.draw(source, layout, (view, view), plan)
            luma = centre(y[:, : wide // 2])
            for plane in (u, v):
                chroma = centre(plane[:, : wide // 4])
                assert 2 * chroma[0] == pytest.approx(luma[0], abs=1.0)
                assert 2 * chroma[1] + 0.5 == pytest.approx(luma[1], abs=1.0)

    def test_shrinking_averages_what_would_flicker(self, drawer: Drawer) -> None:
        layout, plan = FrameLayout(width=640, height=360), side_by_side(160, 90)
        rng = np.random.default_rng(3)
        lines = np.broadcast_to(rng.integers(0, 2, (360, 1), np.uint8) * 255, (360, 640))
        source = (np.ascontiguousarray(lines), *frame(layout)[1:])
        view = View(11.3, 4.7, 284.0, 319.5)
        y = drawer.draw(source, layout, (view, view), plan)[0]
        # 3.55 lines to one: of a coin thrown so often, the spread is halved
        assert y.std() < 0.6 * 127.5
        assert y.mean() == pytest.approx(lines[5:324].mean(), abs=4)
