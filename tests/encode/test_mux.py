"""Chunks and sound joined: times, packets, tags, nothing lost."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from services.encode.mux import Container, mux
from shared.jobs import Codec, ColorTags, Ratio
from shared.media.probe import probe
from tests.encode.pictures import (
    SIZE,
    encode_all,
    make_sound,
    output,
    packets,
    shown,
    sound_info,
    source,
)
from tests.videos import CLOSED_GOP_X264, VideoSpec, frame_number, make_video

VFR = [0, 40, 41, 100, 700, 701, 702, 1500, 1533, 1567, 1600, 3000]

TIMES: list[tuple[Ratio, list[int]]] = [
    ((1, 1000), VFR),
    ((1, 100), [8 * i for i in range(20)]),
    ((1, 90000), [45990 + 3003 * i for i in range(20)]),
    ((1001, 30000), list(range(20))),
    ((19667, 519168), list(range(3, 20))),
    ((1, 1_000_000), [i * 33333 + i % 3 for i in range(20)]),
    ((1, 25), [7]),
]


@pytest.mark.parametrize("codec", Codec)
@pytest.mark.parametrize(("time_base", "pts"), TIMES)
def test_every_frame_is_shown_at_exactly_its_time(
    tmp_path: Path, time_base: Ratio, pts: list[int], codec: Codec
) -> None:
    plan = output(time_base, codec)
    result = tmp_path / "r.mp4"
    report = mux(encode_all(pts, plan, tmp_path), None, source(plan), plan, "mp4", result, pts)
    assert shown(result) == [at * Fraction(*time_base) for at in pts]
    assert (report.frames, report.shift, report.warnings) == (len(pts), (0, 1), ())


def test_frames_come_out_in_the_order_given(tmp_path: Path) -> None:
    plan = output((1, 25))
    result = tmp_path / "r.mp4"
    mux(encode_all(list(range(50)), plan, tmp_path, 7), None, source(plan), plan, "mp4", result)
    with av.open(result) as opened:
        numbers = [frame_number(f.to_ndarray()[: SIZE[1]]) for f in opened.decode(video=0)]
    assert numbers == list(range(50))


def test_decode_times_increase_and_never_pass_the_display_time(tmp_path: Path) -> None:
    plan = output((1, 1000))
    result = tmp_path / "r.mp4"
    mux(encode_all(VFR, plan, tmp_path, 5), None, source(plan), plan, "mp4", result)
    with av.open(result) as opened:
        found = [p for p in opened.demux(video=0) if p.size]
    dts = [packet.dts or 0 for packet in found]
    assert dts == sorted(set(dts))
    assert all((packet.dts or 0) <= (packet.pts or 0) for packet in found)


def test_a_video_that_starts_before_zero_is_moved_up_with_its_sound(tmp_path: Path) -> None:
    plan = output((1, 1000))
    pts = [-67, -33, 0, 33]
    sound = make_sound(tmp_path / "s.mp4", "aac")
    facts = source(plan, sound_info(sound))
    result = tmp_path / "r.mp4"
    report = mux(encode_all(pts, plan, tmp_path), sound, facts, plan, "mp4", result, pts)
    shift = Fraction(*report.shift)
    assert 0 < shift < 1
    assert shown(result) == [Fraction(at, 1000) + shift for at in pts]
    first_before, first_after = packets(sound, "audio")[0][0], packets(result, "audio")[0][0]
    assert first_after - first_before == shift


SOUNDS = [
    ("s.mp4", "aac", "mp4"),
    ("s.mov", "aac", "mov"),
    ("s.mkv", "aac", "mp4"),
    ("s.ts", "aac", "mp4"),
    ("s.mkv", "libmp3lame", "mp4"),
    ("s.mkv", "mp2", "mp4"),
    ("s.mkv", "flac", "mp4"),
    ("s.mkv", "libopus", "mp4"),
    ("s.mkv", "ac3", "mov"),
    ("s.mp4", "alac", "mp4"),
    ("s.mov", "pcm_s16le", "mov"),
    ("s.mkv", "pcm_s16le", "mp4"),
]


@pytest.mark.parametrize("first", [0, 24000, 116640])
@pytest.mark.parametrize(("name", "codec", "container"), SOUNDS)
def test_sound_is_copied_packet_by_packet_at_its_offset(
    tmp_path: Path, name: str, codec: str, container: Container, first: int
) -> None:
    plan = output((1, 90000))
    pts = [45990 + 3003 * i for i in range(10)]
    sound = make_sound(tmp_path / name, codec, first=first)
    result = tmp_path / f"r.{container}"
    chunks = encode_all(pts, plan, tmp_path)
    report = mux(chunks, sound, source(plan, sound_info(sound)), plan, container, result, pts)
    assert (report.sounds_copied, report.sounds_encoded, report.warnings) == (1, 0, ())
    shift = Fraction(*report.shift)
    given, made = packets(sound, "audio"), packets(result, "audio")
    payload = b"".join(data for _, data in given)
    if name.endswith(".ts"):  # mp4 has no ADTS headers, 7 bytes each
        payload = b"".join(data[7:] for _, data in given)
    assert b"".join(data for _, data in made) == payload
    assert abs(made[0][0] - given[0][0] - shift) <= Fraction(1, 2 * 48000)
    if not codec.startswith("pcm"):
        assert len(made) == len(given)
        assert all(
            abs(after[0] - before[0] - shift) < Fraction(1, 1000)
            for before, after in zip(given, made, strict=True)
        )


@pytest.mark.parametrize("first", [0, 24000, 116640])
def test_sound_counted_in_samples_keeps_its_times_exactly(tmp_path: Path, first: int) -> None:
    plan = output((1, 1000))
    sound = make_sound(tmp_path / "s.mp4", "aac", first=first)
    result = tmp_path / "r.mp4"
    mux(
        encode_all(VFR, plan, tmp_path), sound, source(plan, sound_info(sound)), plan, "mp4", result
    )
    assert packets(result, "audio") == packets(sound, "audio")


def test_all_sound_streams_are_kept_in_order_with_their_language(tmp_path: Path) -> None:
    plan = output((1, 1000))
    path = tmp_path / "s.mkv"
    with av.open(path, "w") as out:
        for language, rate in (("deu", 44100), ("eng", 48000)):
            stream = out.add_stream("aac", rate=rate)
            stream.metadata["language"] = language
        for stream in out.streams.audio:
            frame = av.AudioFrame.from_ndarray(
                np.zeros((1, 8192), np.int16), format="s16", layout="stereo"
            )
            frame.sample_rate = stream.codec_context.sample_rate
            frame.pts, frame.time_base = 0, Fraction(1, frame.sample_rate)
            out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
    result = tmp_path / "r.mp4"
    mux(encode_all(VFR, plan, tmp_path), path, source(plan, sound_info(path)), plan, "mp4", result)
    with av.open(result) as opened:
        found = [
            (s.metadata["language"], s.codec_context.sample_rate) for s in opened.streams.audio
        ]
    assert found == [("deu", 44100), ("eng", 48000)]


def test_sound_longer_than_the_video_is_all_there(tmp_path: Path) -> None:
    plan = output((1, 25))
    sound = make_sound(tmp_path / "s.mp4", "aac", seconds=4)
    result = tmp_path / "r.mp4"
    mux(
        encode_all([0, 1], plan, tmp_path),
        sound,
        source(plan, sound_info(sound)),
        plan,
        "mp4",
        result,
    )
    assert packets(result, "audio") == packets(sound, "audio")


@pytest.mark.parametrize("first", [0, 24000])
def test_sound_that_can_not_be_stored_becomes_aac_of_the_same_start_and_length(
    tmp_path: Path, first: int
) -> None:
    plan = output((1, 25))
    sound = make_sound(tmp_path / "s.mkv", "libopus", first=first, seconds=2)
    facts = source(plan, sound_info(sound, copied=False))
    result = tmp_path / "r.mov"
    report = mux(encode_all([0, 1, 2], plan, tmp_path), sound, facts, plan, "mov", result)
    assert (report.sounds_copied, report.sounds_encoded) == (0, 1)
    with av.open(sound) as opened:
        heard = [(f.pts * f.time_base, f.samples) for f in opened.decode(audio=0)]
    with av.open(result) as opened:
        assert opened.streams.audio[0].codec_context.name == "aac"
        made = [(f.pts * f.time_base, f.samples) for f in opened.decode(audio=0)]
    priming = Fraction(1024, 48000)
    assert abs(made[0][0] - heard[0][0]) <= priming
    ends = [times[-1][0] + Fraction(times[-1][1], 48000) for times in (heard, made)]
    assert abs(ends[0] - ends[1]) <= priming
    assert sorted(path.name for path in tmp_path.glob("*.m4a")) == []


def test_a_sound_stream_without_packets_is_left_out_and_reported(tmp_path: Path) -> None:
    plan = output((1, 25))
    sound = tmp_path / "s.mkv"
    with av.open(sound, "w") as out:
        full, _empty = (out.add_stream("aac", rate=48000) for _ in range(2))
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 8192), np.int16), format="s16", layout="stereo"
        )
        frame.sample_rate, frame.pts, frame.time_base = 48000, 0, Fraction(1, 48000)
        out.mux(full.encode(frame))
        out.mux(full.encode(None))
    facts = source(plan, sound_info(sound))
    result = tmp_path / "r.mp4"
    report = mux(encode_all([0, 1], plan, tmp_path), sound, facts, plan, "mp4", result)
    assert report.sounds_copied == 1
    assert report.warnings == ("Sound stream 1 is empty and was left out.",)


def test_the_last_frame_is_shown_as_long_as_in_the_source(tmp_path: Path) -> None:
    original = tmp_path / "source.mp4"
    pts = [0, 512, 1024, 1600, 4000]
    make_video(original, VideoSpec(pts=pts, time_base=Fraction(1, 12800), bframes=0))
    facts = probe(original)
    with av.open(original) as opened:
        stream = opened.streams.video[0]
        end = max((p.pts or 0) + (p.duration or 0) for p in opened.demux(stream) if p.size)
    plan = output(facts.time_base)
    for kept in (1, 2, 3, 4, 5):  # a frame limit leaves out the others; their time is the last's
        result = tmp_path / f"{kept}.mp4"
        chunks = encode_all(pts[:kept], plan, tmp_path)
        report = mux(chunks, original, facts, plan, "mp4", result)
        assert report.duration_s == end / 12800
        assert shown(result) == [Fraction(at, 12800) for at in pts[:kept]]


def test_the_result_of_a_turned_source_is_upright(tmp_path: Path) -> None:
    original = tmp_path / "source.mp4"
    make_video(original, VideoSpec(size=(64, 128), rotation=90, frames=4, audio="aac"))
    facts = probe(original)
    assert facts.rotation == 90
    plan = output(facts.time_base)
    pts = [512 * i for i in range(4)]
    result = tmp_path / "r.mp4"
    mux(encode_all(pts, plan, tmp_path), original, facts, plan, "mp4", result, pts)
    with av.open(result) as opened:
        assert next(opened.decode(video=0)).rotation == 0
    assert packets(result, "audio") == packets(original, "audio")


TAGS = {Codec.H264: "avc1", Codec.HEVC: "hvc1", Codec.AV1: "av01"}


@pytest.mark.parametrize(
    ("codec", "container"),
    [(codec, "mp4") for codec in Codec] + [(Codec.H264, "mov"), (Codec.HEVC, "mov")],
)
def test_full_range_pictures_stay_marked_as_such(
    tmp_path: Path, codec: Codec, container: Container
) -> None:
    plan = output((1, 25), codec, ColorTags(primaries=1, transfer=1, matrix=1, full_range=True))
    result = tmp_path / f"r.{container}"
    mux(encode_all([0, 1], plan, tmp_path), None, source(plan), plan, container, result)
    with av.open(result) as opened:
        stream = opened.streams.video[0]
        assert stream.codec_context.codec_tag == TAGS[codec]
        assert stream.sample_aspect_ratio == 1
        frame = next(opened.decode(stream))
    assert (frame.color_range, frame.color_primaries, frame.colorspace) == (2, 1, 1)


def test_the_index_comes_first(tmp_path: Path) -> None:
    plan = output((1, 25))
    result = tmp_path / "r.mp4"
    mux(encode_all([0, 1], plan, tmp_path), None, source(plan), plan, "mp4", result)
    content = result.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


def test_source_and_result_may_have_names_that_look_like_addresses(tmp_path: Path) -> None:
    plan = output((1, 25))
    odd = tmp_path / "http: a%d 'b'"
    odd.mkdir()
    original = make_video(tmp_path / "v.mp4", CLOSED_GOP_X264).rename(odd / "tcp:1.mp4")
    result = odd / "concat:r|x.mp4"
    mux(encode_all([0, 1], plan, odd), original, probe(original), plan, "mp4", result)
    assert len(shown(result)) == 2
