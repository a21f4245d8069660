from __future__ import annotations

from pathlib import Path

import pytest

from shared.errors import PermanentError
from shared.media.probe import probe
from tests.decode.conftest import as_a_whole, in_pieces

pytestmark = pytest.mark.timeout(300)

FOLDERS = ("faces", "people", "odd")
# 1080p of minutes: their kind is among the shorter ones.
LONG = {"vali-output.mp4", "vali-pts_test_video.mkv"}
UNPLAYABLE = {
    "openh264-CiscoVT2people_320x192_12fps.yuv",
    "openh264-sps_subsetsps_bothVUI.264",
}


@pytest.mark.footage
@pytest.mark.parametrize("folder", FOLDERS)
def test_every_clip_decodes_in_pieces_as_it_does_whole(
    folder: str, footage: Path, tmp_path: Path
) -> None:
    clips = sorted(p for p in (footage / folder).iterdir() if p.name not in LONG | UNPLAYABLE)
    assert clips
    for path in clips:
        got = in_pieces(path, tmp_path, 0.0)
        assert got.shown == as_a_whole(path), path.name
        times = [pts for pts, _ in got.shown]
        assert times == sorted(set(times)), path.name


@pytest.mark.footage
def test_repeating_a_damaged_segment_gives_the_same_frames(footage: Path, tmp_path: Path) -> None:
    path = footage / "odd" / "decord-corrupted.mp4"
    first, second = in_pieces(path, tmp_path, 0.0), in_pieces(path, tmp_path, 0.0)
    assert first.shown == second.shown
    assert first.reports == second.reports
    assert first.reports[0].failed_packets > 0
    assert first.reports[0].lost == 1


@pytest.mark.footage
def test_many_segments_cost_no_frame(footage: Path, tmp_path: Path) -> None:
    path = footage / "odd" / "vali-output.mp4"
    got = in_pieces(path, tmp_path, 30.0)
    assert len(got.segments) > 5
    assert [pts for pts, _ in got.shown] == [512 * i for i in range(9000)]


@pytest.mark.footage
@pytest.mark.parametrize("name", sorted(UNPLAYABLE))
def test_what_ffmpeg_cannot_read_is_refused(name: str, footage: Path) -> None:
    folder = "faces" if name.endswith(".yuv") else "odd"
    with pytest.raises(PermanentError):
        probe(footage / folder / name)
