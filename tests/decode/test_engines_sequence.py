"""Parameter sets read, against what encoders were told and FFmpeg's filters wrote."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import av
import pytest
from av.bitstream import BitStreamFilterContext
from hypothesis import given
from hypothesis import strategies as st

from services.decode.engines.annexb import AnnexB
from services.decode.engines.sequence import Sequence, read_sequence
from tests.decode.test_engines_annexb import header
from tests.videos import CLOSED_GOP_X264, OPEN_GOP_X265, VideoSpec, make_video

X264 = replace(CLOSED_GOP_X264, frames=2)
X265 = replace(OPEN_GOP_X265, frames=2)


def told(spec: VideoSpec, **options: str) -> VideoSpec:
    return replace(spec, options={**spec.options, **options})


def sets(path: Path, codec: str, change: str = "") -> set[bytes]:
    """Sequence parameter sets of a raw stream's first packet, changed by options of FFmpeg's
    filter of metadata."""
    with av.open(path) as opened:
        stream = opened.streams.video[0]
        packet = next(packet for packet in opened.demux(stream) if packet.size)
        if change:
            (packet,) = BitStreamFilterContext(f"{codec}_metadata={change}", stream).filter(packet)
        return AnnexB(header(codec, b"")).sequence_sets(bytes(packet))


@pytest.mark.parametrize(
    ("codec", "spec", "change", "expected"),
    [
        ("h264", X264, "", Sequence(100, True, False)),
        ("h264", told(X264, profile="baseline"), "", Sequence(66, True, False)),
        ("h264", replace(X264, pixel_format="yuv420p10le"), "", Sequence(110, True, False)),
        ("h264", replace(X264, pixel_format="yuv444p"), "", Sequence(244, True, False)),
        ("h264", replace(X264, size=(130, 66)), "", Sequence(100, True, False)),
        (
            "h264",
            replace(X264, options={"x264-params": "interlaced=1:cqm=jvt"}),
            "",
            Sequence(100, False, False),
        ),
        ("h264", X264, "crop_left=2", Sequence(100, True, True)),
        ("h264", X264, "crop_top=4:crop_right=2", Sequence(100, True, True)),
        ("h264", X264, "crop_bottom=4:crop_right=2", Sequence(100, True, False)),
        ("hevc", X265, "", Sequence(1, True, False)),
        ("hevc", replace(X265, pixel_format="yuv420p10le"), "", Sequence(2, True, False)),
        ("hevc", replace(X265, pixel_format="yuv444p"), "", Sequence(4, True, False)),
        ("hevc", replace(X265, size=(130, 66)), "", Sequence(1, True, False)),
        ("hevc", X265, "crop_top=2", Sequence(1, True, True)),
        ("hevc", X265, "crop_right=2", Sequence(1, True, False)),
    ],
)
def test_profile_fields_and_window_are_read(
    codec: str, spec: VideoSpec, change: str, expected: Sequence, tmp_path: Path
) -> None:
    raw = replace(spec, container=codec, time_base=1 / spec.rate)
    path = make_video(tmp_path / f"clip.{codec}", raw)
    (unit,) = sets(path, codec, change)
    assert read_sequence(unit, codec) == expected


@given(st.binary(max_size=120), st.sampled_from(["h264", "hevc"]))
def test_any_bytes_are_read_or_said_to_be_cut_off(data: bytes, codec: str) -> None:
    try:
        read = read_sequence(data, codec)
    except IndexError:
        return
    assert 0 <= read.profile < 256
