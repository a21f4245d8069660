from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from shared.errors import ErrorCode, PermanentError
from shared.media.probe import open_source, probe
from shared.settings import SourceLimits
from tests.videos import (
    CLOSED_GOP_X264,
    OPEN_GOP_X264,
    VideoSpec,
    make_encrypted,
    make_sound_only,
    make_text,
    make_video,
    numbered_frame,
)

CLIP = replace(CLOSED_GOP_X264, frames=12)


def refused(path: Path, limits: SourceLimits | None = None) -> PermanentError:
    with pytest.raises(PermanentError) as caught:
        probe(path, limits=limits)
    assert caught.value.message.endswith(".")
    return caught.value


def test_facts_of_an_ordinary_file(tmp_path: Path) -> None:
    path = make_video(tmp_path / "clip.mp4", replace(CLIP, audio="aac"))
    info = probe(path)
    assert (info.codec, info.width, info.height, info.rotation) == ("h264", 128, 64, 0)
    assert (info.time_base, info.frame_rate) == ((1, 12800), (25, 1))
    assert info.frames_estimate == 12
    assert info.duration_s == pytest.approx(0.48)
    assert not info.generated_times
    assert info.size_bytes == path.stat().st_size
    (sound,) = info.sounds
    assert (sound.codec, sound.sample_rate, sound.channels, sound.copied) == ("aac", 48000, 2, True)


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_the_sample_aspect_is_that_of_the_upright_picture(rotation: int, tmp_path: Path) -> None:
    spec = replace(CLIP, rotation=rotation, sample_aspect=Fraction(4, 3))
    info = probe(make_video(tmp_path / "clip.mp4", spec))
    assert info.rotation == rotation
    assert info.sample_aspect == ((4, 3) if rotation % 180 == 0 else (3, 4))
    assert (info.width, info.height) == ((128, 64) if rotation % 180 == 0 else (64, 128))


def test_the_largest_picture_is_chosen_and_cover_art_is_not(tmp_path: Path) -> None:
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as made:
        streams = []
        for size in ((64, 32), (128, 64)):
            stream = made.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
            streams.append((stream, size))
        for number in range(5):
            for stream, size in streams:
                made.mux(stream.encode(numbered_frame(number, size)))
        for stream, _ in streams:
            made.mux(stream.encode(None))
    assert probe(path).stream == 1


@pytest.mark.parametrize(
    ("codec", "container", "copied"),
    [
        ("aac", "mp4", True),
        ("libmp3lame", "mp4", True),
        ("flac", "mov", False),
        ("pcm_s16le", "mov", True),
        ("libopus", "mp4", True),
    ],
)
def test_whether_a_sound_is_copied_is_found_by_trying(
    codec: str, container: str, copied: bool, tmp_path: Path
) -> None:
    path = make_video(tmp_path / "clip.mkv", replace(CLIP, audio=codec))
    (sound,) = probe(path, container).sounds  # type: ignore[arg-type]
    assert sound.copied is copied


def test_full_range_is_seen(tmp_path: Path) -> None:
    spec = replace(CLIP, pixel_format="yuvj420p")
    assert probe(make_video(tmp_path / "clip.mp4", spec)).color.full_range
    assert not probe(make_video(tmp_path / "other.mp4", CLIP)).color.full_range


def test_rgb_pictures_get_the_matrix_they_will_be_converted_with(tmp_path: Path) -> None:
    spec = VideoSpec(codec="ffv1", pixel_format="bgr0", frames=3)
    color = probe(make_video(tmp_path / "small.mkv", spec)).color
    assert (color.matrix, color.full_range) == (6, False)
    large = replace(spec, size=(64, 720))
    assert probe(make_video(tmp_path / "large.mkv", large)).color.matrix == 1


def test_a_raw_stream_has_generated_times(tmp_path: Path) -> None:
    info = probe(make_video(tmp_path / "clip.264", replace(OPEN_GOP_X264, container="h264")))
    assert info.generated_times
    assert info.frame_rate == (25, 1)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert refused(tmp_path / "no.mp4").code is ErrorCode.SOURCE_MISSING


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path).code is ErrorCode.SOURCE_UNREADABLE


def _empty(path: Path) -> None:
    path.touch()


def _png(path: Path) -> None:
    numbered_frame(1, (64, 32)).save(path.with_suffix(".png"))
    shutil.move(path.with_suffix(".png"), path)


def _jpeg(path: Path) -> None:
    numbered_frame(1, (64, 32)).save(path.with_suffix(".jpg"))
    shutil.move(path.with_suffix(".jpg"), path)


def _without_moov(path: Path) -> None:
    make_video(path, CLIP)
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"moov") - 4])


def _noise(path: Path) -> None:
    path.write_bytes(np.random.default_rng(1).integers(0, 256, 40000, np.uint8).tobytes())


def _unknown_codec(path: Path) -> None:
    make_video(path, CLIP)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzz1"))


def _encrypted(path: Path) -> None:
    make_encrypted(path, CLIP)


def _frames_gone(path: Path) -> None:
    make_video(path, CLIP)
    data = bytearray(path.read_bytes())
    start, end = data.index(b"mdat") + 4, data.index(b"moov") - 4
    data[start:end] = bytes(end - start)
    path.write_bytes(data)


def _playlist(path: Path) -> None:
    target = make_video(path.with_name("real.ts"), CLIP)
    path.write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{target.name}\n#EXT-X-ENDLIST\n"
    )


def _concat_script(path: Path) -> None:
    target = make_video(path.with_name("real.mp4"), CLIP)
    path.write_text(f"ffconcat version 1.0\nfile {target.name}\n")


@pytest.mark.parametrize(
    ("make", "code", "says"),
    [
        (_empty, ErrorCode.SOURCE_EMPTY, "empty"),
        (make_text, ErrorCode.NOT_A_VIDEO, "text file"),
        (_png, ErrorCode.NOT_A_VIDEO, "image"),
        (_jpeg, ErrorCode.NOT_A_VIDEO, "image"),
        (make_sound_only, ErrorCode.NO_VIDEO_STREAM, "sound"),
        (_without_moov, ErrorCode.SOURCE_UNREADABLE, "cut off"),
        (_noise, ErrorCode.NOT_A_VIDEO, "no known video format"),
        (_unknown_codec, ErrorCode.UNSUPPORTED_CODEC, "codec"),
        (_encrypted, ErrorCode.ENCRYPTED, "encrypted"),
        (_frames_gone, ErrorCode.TOO_DAMAGED, "damaged"),
        (_playlist, ErrorCode.NOT_A_VIDEO, "playlist"),
        (_concat_script, ErrorCode.NOT_A_VIDEO, "playlist"),
    ],
)
def test_bad_input_is_refused_with_a_reason(
    make: Callable[[Path], None], code: ErrorCode, says: str, tmp_path: Path
) -> None:
    path = tmp_path / "input.mp4"
    make(path)
    error = refused(path)
    assert error.code is code
    assert says in error.message


@pytest.mark.parametrize("make", [_empty, make_text, _without_moov, _noise])
def test_a_sentence_calls_a_file_what_people_call_it(
    make: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "source.mp4"
    make(path)
    for name, says in ((None, "source.mp4 "), ("my\ntalk", "my\\ntalk "), ("", "The file ")):
        with pytest.raises(PermanentError) as caught:
            probe(path, name=name)
        assert caught.value.message.startswith(says)


@pytest.mark.parametrize("make", [_playlist, _concat_script])
def test_ffmpeg_itself_refuses_what_opens_other_files(
    make: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind the look at the first bytes stands FFmpeg's list of allowed containers."""
    path = tmp_path / ("input.m3u8" if make is _playlist else "input.ffconcat")
    make(path)
    with av.open(str(path)) as unconfined:
        assert unconfined.streams.video
    monkeypatch.setattr("shared.media.probe.refuse_obvious", lambda *_: None)
    with pytest.raises(PermanentError):
        open_source(path)


def test_an_image_in_a_video_containers_clothes_is_refused_by_ffmpeg(tmp_path: Path) -> None:
    """The list holds where the first bytes are not known to us."""
    path = tmp_path / "input.pgm"
    path.write_bytes(b"P5\n16 16\n255\n" + bytes([200]) * 256)
    assert refused(path).code is ErrorCode.NOT_A_VIDEO


def test_huge_dimensions_in_the_header_are_refused_before_decoding(tmp_path: Path) -> None:
    path = make_video(tmp_path / "clip.mkv", VideoSpec(codec="ffv1", frames=2, size=(300, 300)))
    data = path.read_bytes()
    for name in (b"\xb0", b"\xba"):  # Matroska's PixelWidth and PixelHeight
        assert data.count(name + b"\x82\x01\x2c") == 1
        data = data.replace(name + b"\x82\x01\x2c", name + b"\x82\xff\xfe")
    path.write_bytes(data)
    error = refused(path)
    assert error.code is ErrorCode.TOO_LARGE


def test_a_large_picture_is_named_with_its_size(tmp_path: Path) -> None:
    error = refused(make_video(tmp_path / "clip.mp4", CLIP), SourceLimits(pixels=8000))
    assert error.code is ErrorCode.TOO_LARGE
    assert "128x64" in error.message


@pytest.mark.parametrize(
    "limits",
    [
        SourceLimits(size_bytes=100),
        SourceLimits(pixels=100),
        SourceLimits(side_px=100),
        SourceLimits(duration_s=0.1),
        SourceLimits(streams=1),
    ],
)
def test_every_limit_is_kept(limits: SourceLimits, tmp_path: Path) -> None:
    path = make_video(tmp_path / "clip.mp4", replace(CLIP, audio="aac"))
    assert refused(path, limits).code is ErrorCode.TOO_LARGE


def test_the_source_can_be_opened_by_a_name_that_looks_like_a_protocol(tmp_path: Path) -> None:
    path = make_video(tmp_path / "concat:a|b.mp4", replace(CLIP, container="mp4"))
    with open_source(path) as source:
        assert source.streams.video


@pytest.mark.footage
def test_a_real_phone_video_is_turned_the_right_way(footage: Path) -> None:
    assert probe(footage / "odd" / "decord-video_90.mov").rotation == 90
    assert probe(footage / "odd" / "decord-video_0.mov").rotation == 0
