"""Packets as a hardware's parser gets them."""

from __future__ import annotations

from base64 import b64encode
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import av
import pytest
from av.bitstream import BitStreamFilterContext
from hypothesis import given
from hypothesis import strategies as st

from services.decode.engines.annexb import START, AnnexB
from services.decode.packets import StreamHeader
from shared.errors import EngineError
from tests.videos import CLOSED_GOP_X264, OPEN_GOP_X265, VideoSpec, make_video

CLIPS = [
    ("h264", replace(CLOSED_GOP_X264, frames=24)),
    ("hevc", replace(OPEN_GOP_X265, frames=24)),
]


def units(data: bytes) -> list[bytes]:
    """NAL units, whichever start codes are between them."""
    parts = data.replace(START, START[1:]).split(START[1:])
    return [part.rstrip(b"\0") for part in parts if part]


def header(codec: str, extradata: bytes) -> StreamHeader:
    return StreamHeader(
        codec=codec,
        decoder=codec,
        width=64,
        height=64,
        pixel_format="yuv420p",
        codec_tag="avc1",
        bits_per_coded_sample=0,
        reorder_depth=0,
        field_order=0,
        time_base=(1, 1000),
        extradata=b64encode(extradata).decode(),
    )


@pytest.mark.parametrize(("codec", "spec"), CLIPS)
def test_packets_have_the_units_that_ffmpegs_filter_gives_them(
    codec: str, spec: VideoSpec, tmp_path: Path
) -> None:
    path = make_video(tmp_path / "clip.mp4", spec)
    with av.open(path) as opened:
        stream = opened.streams.video[0]
        known = header(codec, stream.codec_context.extradata or b"")
        converter = AnnexB(known)
        filtering = BitStreamFilterContext(f"{codec}_mp4toannexb", stream)
        sets = units(converter.sets)
        assert len(converter.sequence_sets(converter.sets)) == 1
        for packet in opened.demux(stream):
            if not packet.size:
                continue
            made, whole = converter.convert(bytes(packet))
            (wanted,) = filtering.filter(packet)
            # FFmpeg repeats the parameter sets before keyframes; here they come once.
            assert [each for each in units(bytes(wanted)) if each not in sets] == [
                each for each in units(made) if each not in sets
            ]
            assert whole


@pytest.mark.parametrize("suffix", ["264", "265"])
def test_packets_that_have_start_codes_stay_as_they_are(suffix: str, tmp_path: Path) -> None:
    codec, spec = CLIPS[suffix == "265"]
    path = make_video(
        tmp_path / f"clip.{suffix}", replace(spec, container=codec, time_base=1 / spec.rate)
    )
    with av.open(path) as opened:
        stream = opened.streams.video[0]
        converter = AnnexB(header(codec, stream.codec_context.extradata or b""))
        first = next(packet for packet in opened.demux(stream) if packet.size)
        assert converter.convert(bytes(first)) == (bytes(first), True)
        found = converter.sequence_sets(bytes(first))
        assert found
        assert found <= converter.sequence_sets(converter.sets + bytes(first))


@given(st.binary(max_size=300), st.sampled_from(["h264", "hevc"]), st.integers(0, 3))
def test_any_bytes_are_converted_or_said_to_be_cut(data: bytes, codec: str, length: int) -> None:
    record = bytearray(b"\x01" + bytes(22))
    record[4 if codec == "h264" else 21] = length
    made, whole = AnnexB(header(codec, bytes(record))).convert(data)
    counted = sum(len(unit) + length + 1 for unit in made.split(START)[1:]) if whole else -1
    assert counted in (-1, len(data)) or START in data


@given(st.binary(max_size=200), st.sampled_from(["h264", "hevc"]))
def test_parameter_sets_that_are_cut_off_are_refused_and_nothing_else_happens(
    data: bytes, codec: str
) -> None:
    with suppress(EngineError):
        AnnexB(header(codec, b"\x01" + data))
