"""What the renderers of the host draw."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.compose.camera import View
from services.compose.engines.geometry import AREA_FROM, Method, cut, drawing
from services.compose.engines.opencv import OpenCvRenderer
from services.compose.engines.plain import PlainRenderer
from shared.jobs import Rect
from shared.media.layout import FrameLayout, PixelFormat
from tests.compose.drawing import Drawer, OnHost, apart, frame
from tests.compose.renderer_contract import InterpolationContract, RendererContract
from tests.compose.scenes import side_by_side

FORMATS = [(a, b) for a in PixelFormat for b in PixelFormat]


@pytest.fixture(params=FORMATS, ids="-to-".join)
def formats(request: pytest.FixtureRequest) -> tuple[PixelFormat, PixelFormat]:
    """Of source and canvas."""
    pair: tuple[PixelFormat, PixelFormat] = request.param
    return pair


class TestOpenCv(RendererContract, InterpolationContract):
    """On planes of each format."""

    @pytest.fixture
    def drawer(self, formats: tuple[PixelFormat, PixelFormat]) -> Drawer:
        """See `RendererContract`."""
        return OnHost(OpenCvRenderer(), *formats)


class TestPlain(RendererContract):
    """On planes of each format."""

    @pytest.fixture
    def drawer(self, formats: tuple[PixelFormat, PixelFormat]) -> Drawer:
        """See `RendererContract`."""
        return OnHost(PlainRenderer(), *formats)


@pytest.mark.parametrize("kind", [OpenCvRenderer, PlainRenderer])
def test_all_formats_give_one_picture(kind: type[OpenCvRenderer | PlainRenderer]) -> None:
    layout, plan = FrameLayout(width=641, height=361), side_by_side(640, 360)
    views = (View(10.3, 5.7, 200.4, 225.45), View(301.9, 50.1, 231.1, 259.98))
    made = [OnHost(kind(), *pair).draw(frame(layout), layout, views, plan) for pair in FORMATS]
    assert all(apart(made[0], other) <= 1 for other in made[1:])


def test_what_is_shrunk_one_way_and_enlarged_the_other_is_not_averaged() -> None:
    layout, tile = FrameLayout(width=640, height=360), Rect(x=0, y=0, w=100, h=100)
    for view, expected in (
        (View(0, 0, 100 * AREA_FROM, 101), Method.AREA),
        (View(0, 0, 100 * AREA_FROM, 99), Method.LINEAR),
        (View(0, 0, 100, 100), Method.LINEAR),
        (View(0, 0, 99, 98), Method.CUBIC),
    ):
        assert drawing(view, tile, layout).luma_method is expected


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
