"""Canvas, tiles and options."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.encode.plan import encoder_options
from shared.errors import ErrorCode, PermanentError
from shared.jobs import Codec, JobSpec, Layout, SourceInfo
from shared.media.canvas import plan_output


def _source(width: int, height: int, aspect: tuple[int, int] = (1, 1)) -> SourceInfo:
    return SourceInfo(
        format="mov",
        codec="h264",
        stream=0,
        width=width,
        height=height,
        sample_aspect=aspect,
        time_base=(1, 1000),
        frame_rate=(30, 1),
    )


@pytest.mark.parametrize(
    ("size", "layout", "canvas"),
    [
        ((1920, 1080), Layout.SIDE_BY_SIDE, (1920, 1080)),
        ((1080, 1920), Layout.SIDE_BY_SIDE, (1920, 1080)),
        ((3840, 2160), Layout.SIDE_BY_SIDE, (1920, 1080)),
        ((1920, 1080), Layout.STACKED, (1080, 1920)),
        ((640, 480), Layout.SIDE_BY_SIDE, (640, 480)),
        ((2048, 2048), Layout.STACKED, (1080, 1080)),
        ((853, 479), Layout.SIDE_BY_SIDE, (852, 478)),
        ((50, 50), Layout.SIDE_BY_SIDE, (64, 64)),
        ((16000, 16), Layout.SIDE_BY_SIDE, (1920, 64)),
    ],
)
def test_the_canvas_is_the_source_turned_the_layouts_way_and_at_most_full_hd(
    size: tuple[int, int], layout: Layout, canvas: tuple[int, int]
) -> None:
    plan = plan_output(JobSpec(source="s", layout=layout), _source(*size))
    assert (plan.width, plan.height) == canvas


def test_pixels_that_are_not_square_count_as_displayed() -> None:
    plan = plan_output(JobSpec(source="s"), _source(720, 576, (64, 45)))
    assert (plan.width, plan.height) == (1024, 576)


@given(
    width=st.integers(16, 8192),
    height=st.integers(16, 8192),
    layout=st.sampled_from(Layout),
)
def test_tiles_are_equal_even_halves(width: int, height: int, layout: Layout) -> None:
    plan = plan_output(JobSpec(source="s", layout=layout), _source(width, height))
    one, two = plan.tiles
    assert (one.w, one.h) == (two.w, two.h)
    assert all(side % 2 == 0 for tile in plan.tiles for side in (tile.x, tile.y, tile.w, tile.h))
    if layout is Layout.SIDE_BY_SIDE:
        assert (one.w * 2, one.h, two.x) == (plan.width, plan.height, one.w)
    else:
        assert (one.w, one.h * 2, two.y) == (plan.width, plan.height, one.h)


def test_a_width_whose_half_is_odd_shrinks_by_two() -> None:
    plan = plan_output(JobSpec(source="s", size=(1922, 1080)), _source(640, 480))
    assert (plan.width, plan.height) == (1920, 1080)


@pytest.mark.parametrize("size", [(641, 480), (62, 480), (8194, 480), (8192, 8192)])
def test_a_size_that_cannot_be_made_is_a_bad_option(size: tuple[int, int]) -> None:
    with pytest.raises(PermanentError) as caught:
        plan_output(JobSpec(source="s", size=size), _source(640, 480))
    assert caught.value.code is ErrorCode.BAD_OPTION
    assert f"{size[0]}x{size[1]}" in caught.value.message


def test_an_unknown_preset_is_a_bad_option_that_lists_the_known() -> None:
    with pytest.raises(PermanentError, match="veryfast"):
        plan_output(JobSpec(source="s", preset="turbo"), _source(640, 480))


def test_a_frame_limit_changes_the_rate_and_not_the_time_base() -> None:
    plan = plan_output(JobSpec(source="s", fps_limit=12.5), _source(640, 480))
    assert (plan.frame_rate, plan.time_base) == ((25, 2), (1, 1000))
    above = plan_output(JobSpec(source="s", fps_limit=60), _source(640, 480))
    assert above.frame_rate == (30, 1)


@pytest.mark.parametrize("codec", Codec)
def test_options_ask_for_closed_gops(codec: Codec) -> None:
    plan = plan_output(JobSpec(source="s", codec=codec), _source(640, 480))
    assert "open-gop=0" in " ".join(encoder_options(plan).values())
