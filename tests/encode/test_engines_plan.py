"""What NVENC is told: pure decisions."""

from __future__ import annotations

import pytest

from services.encode.plan import (
    QUALITY,
    ffmpeg_nvenc_options,
    nvcodec_options,
    nvenc_plan,
    rate_control,
)
from shared.jobs import Codec, ColorTags
from tests.encode.pictures import output


@pytest.mark.parametrize(
    ("job", "configured", "step"),
    [
        ("veryfast", "p4", 4),
        ("ultrafast", "p4", 1),
        ("medium", "p4", 5),
        ("slow", "p4", 6),
        ("veryslow", "p4", 7),
        ("veryslow", "p6", 7),
        ("ultrafast", "p1", 1),
        ("veryfast", "p7", 7),
        ("of another encoder", "p3", 3),
    ],
)
def test_a_jobs_preset_is_steps_from_that_of_the_settings(
    job: str, configured: str, step: int
) -> None:
    plan = output().model_copy(update={"preset": job})
    assert nvenc_plan(plan, QUALITY, configured).preset == step


@pytest.mark.parametrize(("crf", "quality"), [(0, 1), (1, 1), (23, 23), (51, 51)])
def test_constant_quality_is_the_jobs_and_no_rate_is_said(crf: int, quality: int) -> None:
    plan = output().model_copy(update={"crf": crf})
    made = nvenc_plan(plan, QUALITY, "p4")
    assert made.quality == quality
    for options in (ffmpeg_nvenc_options(made), nvcodec_options(made, plan)):
        assert (options["cq"], options["rc"], options["bf"]) == (str(quality), "vbr", "0")
        assert not {"maxrate", "maxbitrate", "bitrate"} & set(options)


@pytest.mark.parametrize(("busy", "mode", "average"), [(0, "cbr", 1000), (3, "vbr", 700)])
def test_a_rate_is_said_in_bits_and_no_quality_is(busy: int, mode: str, average: int) -> None:
    plan = output()
    made = nvenc_plan(plan, rate_control(1000, 1.28, busy, 3), "p4")
    ours, ffmpegs = nvcodec_options(made, plan), ffmpeg_nvenc_options(made)
    assert ours["rc"] == ffmpegs["rc"] == mode
    assert ours["bitrate"] == ffmpegs["b"] == f"{average}000"
    assert ours["maxbitrate"] == ffmpegs["maxrate"] == "1000000"
    assert ours["vbvbufsize"] == ffmpegs["bufsize"] == "512000"
    assert ours["vbvinit"] == ffmpegs["rc_init_occupancy"] == "358400"
    assert "cq" not in {*ours, *ffmpegs}


def test_the_library_is_told_codec_preset_and_frame_rate_as_it_spells_them() -> None:
    plan = output(codec=Codec.HEVC, color=ColorTags()).model_copy(
        update={"frame_rate": (30000, 1001), "preset": "veryfast"}
    )
    options = nvcodec_options(nvenc_plan(plan, QUALITY, "p4"), plan)
    assert (options["codec"], options["preset"], options["fps"]) == ("hevc", "P4", "29.97")
