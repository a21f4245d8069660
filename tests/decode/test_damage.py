from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from services.decode.access import random_access, shows_nothing
from services.decode.engines.pyav import PyAvDecoder
from services.decode.split import split
from shared.errors import ErrorCode, PermanentError
from shared.media.layout import FrameLayout
from shared.media.probe import open_source, probe
from tests.videos import CLOSED_GOP_X264, INTRA_REFRESH_X264, OPEN_GOP_X264, VideoSpec, make_video


def damaged(data: bytes, seed: int) -> bytes:
    rnd, copy = random.Random(seed), bytearray(data)
    for _ in range(rnd.choice((1, 5, 30))):
        copy[rnd.randrange(len(copy))] = rnd.randrange(256)
    return bytes(copy)


@pytest.mark.parametrize("suffix", [".mp4", ".ts", ".mkv"])
def test_damage_ends_in_fewer_frames_or_a_reason_never_in_disorder(
    suffix: str, tmp_path: Path
) -> None:
    good = make_video(tmp_path / f"good{suffix}", OPEN_GOP_X264).read_bytes()
    path = tmp_path / f"bad{suffix}"
    for seed in range(12):
        path.write_bytes(damaged(good, seed))
        try:
            times = shown_times(path, tmp_path)
        except PermanentError:
            continue
        assert times == sorted(set(times)), seed


def shown_times(path: Path, folder: Path) -> list[int]:
    source, times = probe(path), []
    layout = FrameLayout(width=source.width, height=source.height)
    planes = layout.planes(np.zeros(layout.frame_bytes, np.uint8))
    for segment, file in split(path, source, folder, 0.0):
        decoder = PyAvDecoder(threads=2)
        for frame in decoder.decode(file, segment, source):
            frame.write_to(planes)
            times.append(frame.pts)
        assert decoder.report.shown + decoder.report.lost >= segment.frames
    return times


def test_a_segment_of_nothing_but_damage_is_a_permanent_error(tmp_path: Path) -> None:
    path = make_video(tmp_path / "clip.mp4", CLOSED_GOP_X264)
    source = probe(path)
    data = bytearray(path.read_bytes())
    start, end = data.index(b"mdat") + 4, data.index(b"moov") - 4
    data[start:end] = bytes(end - start)
    path.write_bytes(data)
    segment, file = next(split(path, source, tmp_path, 9.0))
    with pytest.raises(PermanentError, match="can be decoded") as caught:
        list(PyAvDecoder(threads=1).decode(file, segment, source))
    assert caught.value.code is ErrorCode.TOO_DAMAGED


def clean_keyframes(path: Path) -> list[bool]:
    with open_source(path) as container:
        check = random_access(container.streams.video[0].codec_context)
        return [check(bytes(p)) for p in container.demux(video=0) if p.size and p.is_keyframe]


@pytest.mark.parametrize("suffix", [".mp4", ".ts"])
def test_only_complete_starting_points_are_clean(suffix: str, tmp_path: Path) -> None:
    gradual = clean_keyframes(make_video(tmp_path / f"gradual{suffix}", INTRA_REFRESH_X264))
    assert gradual[0]
    assert len(gradual) > 1
    assert not any(gradual[1:])
    assert all(clean_keyframes(make_video(tmp_path / f"open{suffix}", OPEN_GOP_X264)))


def test_vp8_frames_that_are_never_shown_are_not_expected(tmp_path: Path) -> None:
    options = {"auto-alt-ref": "1", "lag-in-frames": "16", "deadline": "good", "cpu-used": "4"}
    spec = VideoSpec(codec="libvpx", bframes=0, gop=40, frames=40, options=options)
    path = make_video(tmp_path / "clip.webm", spec)
    source = probe(path)
    ((segment, file),) = split(path, source, tmp_path, 9.0)
    decoder = PyAvDecoder(threads=1)
    assert len(list(decoder.decode(file, segment, source))) == segment.frames == 40
    assert shows_nothing("vp8", b"\x01")
    assert not shows_nothing("vp8", b"\x11")
