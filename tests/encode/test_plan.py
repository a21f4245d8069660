"""Canvas, tiles and options."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.encode.plan import av1_quality, encoder_options, rate_control
from shared.errors import ErrorCode, PermanentError
from shared.jobs import PRESETS, Codec, JobSpec, Layout, SourceInfo, read_spec
from shared.media.canvas import plan_output
from tests.encode.pictures import output


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
    spec = JobSpec(source="s", size=size)
    for refuse in (
        lambda: read_spec(spec.model_dump_json()),
        lambda: plan_output(spec, _source(640, 480)),
    ):
        with pytest.raises(PermanentError) as caught:
            refuse()
        assert caught.value.code is ErrorCode.BAD_OPTION
        assert f"{size[0]}x{size[1]}" in caught.value.message


def test_an_unknown_preset_is_a_bad_option_that_lists_the_known() -> None:
    spec = JobSpec(source="s", preset="turbo")
    with pytest.raises(PermanentError, match="veryfast"):
        read_spec(spec.model_dump_json())
    with pytest.raises(PermanentError, match="veryfast"):
        plan_output(spec, _source(640, 480))


def test_a_frame_limit_changes_the_rate_and_not_the_time_base() -> None:
    plan = plan_output(JobSpec(source="s", fps_limit=12.5), _source(640, 480))
    assert (plan.frame_rate, plan.time_base) == ((25, 2), (1, 1000))
    above = plan_output(JobSpec(source="s", fps_limit=60), _source(640, 480))
    assert above.frame_rate == (30, 1)


@pytest.mark.parametrize("codec", Codec)
def test_options_ask_for_closed_gops(codec: Codec) -> None:
    plan = plan_output(JobSpec(source="s", codec=codec), _source(640, 480))
    closed = "irefresh-type=2" if codec is Codec.AV1 else "open-gop=0"
    assert closed in " ".join(encoder_options(plan).values())


def test_av1_has_a_quality_and_a_preset_for_each_of_x264s_and_none_worse_is_better() -> None:
    found = [av1_quality(crf) for crf in range(52)]
    assert found == sorted(found)
    assert (found[0], found[23], found[-1]) == (1, 34, 63)
    presets = [
        int(encoder_options(output(codec=Codec.AV1).model_copy(update={"preset": each}))["preset"])
        for each in PRESETS
    ]
    assert presets == sorted(presets, reverse=True)
    assert (presets[0], presets[2], presets[-1]) == (9, 8, 2)


@pytest.mark.parametrize(
    ("fps", "told"), [((25, 1), 1000), ((240, 1), 1000), ((480, 1), 500), ((100_000, 1), 2)]
)
def test_a_bit_rate_of_av1_counts_for_frames_that_are_more_than_it_can_be_told(
    fps: tuple[int, int], told: int
) -> None:
    plan = output(codec=Codec.AV1).model_copy(update={"frame_rate": fps})
    params = encoder_options(plan, rate_control(1000, 1.0, 0, 0))["svtav1-params"]
    assert f":tbr={told}:" in params


@pytest.mark.parametrize(
    ("chosen", "word"), [({"container": "mov"}, "mov"), ({"bitrate_kbps": 100_001}, "100000")]
)
def test_what_av1_does_not_go_with_is_refused_before_anything_is_done(
    chosen: dict[str, object], word: str
) -> None:
    for allowed in ({"codec": "av1"}, chosen):
        read_spec({"source": "s", **allowed})
    wrong = {"source": "s", "codec": "av1", **chosen}
    for refuse in (
        lambda: read_spec(wrong),
        lambda: plan_output(JobSpec.model_validate(wrong), _source(640, 480)),
    ):
        with pytest.raises(PermanentError, match=word) as caught:
            refuse()
        assert caught.value.code is ErrorCode.BAD_OPTION
