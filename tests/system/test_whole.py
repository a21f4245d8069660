"""Whole runs of the command: many videos share the queue, and each result is held against its
source by a checker that knows nothing of the system (`tests.system.verify`)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from client.sample import GroundTruth, PersonTruth, make_sample
from shared.errors import PermanentError
from tests.system.sides import Box, Boxes, share_planned, share_shown
from tests.system.verify import frame_times, verify
from tests.videos import CLOSED_GOP_X264, OPEN_GOP_X264, VP9, VideoSpec, make_video, tint

pytestmark = pytest.mark.timeout(400)
"""A whole run on a slow machine, in a fixture."""

FPS = Fraction(25)
PLAIN = replace(CLOSED_GOP_X264, tinted=True, size=(320, 180), frames=10)
VFR_TIMES = (0, 3000, 3600, 9000, 9001, 13500, 20000, 29000, 29100, 45000)

VIDEOS: Mapping[str, VideoSpec] = {
    "one-frame.mp4": replace(PLAIN, frames=1),
    "one-frame-with-sound.mov": replace(PLAIN, frames=1, audio="aac"),
    "odd-sides.mkv": replace(
        PLAIN, codec="ffv1", size=(853, 479), bframes=0, options={}, time_base=Fraction(1, 1000)
    ),
    "portrait.mp4": replace(PLAIN, size=(360, 640), audio="aac"),
    "small.mp4": replace(PLAIN, size=(640, 360), audio="aac", frames=40),
    "turned.mp4": replace(PLAIN, rotation=90),
    "variable-rate.mp4": replace(PLAIN, pts=VFR_TIMES, time_base=Fraction(1, 90000), audio="aac"),
    "picture-late.mp4": replace(PLAIN, start_pts=12800 * 3 // 2, audio="aac"),
    "two-sounds.mov": replace(PLAIN, audio="aac", sounds=2),
    "pcm.mov": replace(PLAIN, audio="pcm_s16le"),
    "ten-bit.mp4": replace(PLAIN, pixel_format="yuv420p10le"),
    "full-range.mp4": replace(PLAIN, pixel_format="yuvj420p"),
    "one-gop.mp4": replace(PLAIN, size=(128, 72), frames=320, gop=9999, audio="aac"),
    "open-gop.ts": replace(
        OPEN_GOP_X264, tinted=True, frames=320, audio="aac", time_base=Fraction(1, 90000)
    ),
    "vp9.webm": replace(
        VP9, tinted=True, frames=10, audio="libopus", time_base=Fraction(1, 1000)
    ),
    "ultra-hd.mp4": replace(
        PLAIN, size=(3840, 2160), frames=12, options={"preset": "ultrafast"}
    ),
}  # fmt: skip
SAMPLE = "sample.mp4"


@dataclass(frozen=True)
class Made:
    """Sources and results of one run of the command."""

    sources: Path
    results: Path
    truth: GroundTruth | None

    def pair(self, name: str) -> tuple[Path, Path]:
        """A source and its result; the test is skipped where the sample could not be made."""
        if name == SAMPLE and self.truth is None:
            pytest.skip("no package index, so no portraits for the sample")
        return self.sources / name, self.results / f"{Path(name).stem}-split.mp4"


def dualface(state: Path, *arguments: object) -> None:
    """Run the command to its end; fails the test with what it said."""
    command = [sys.executable, "-m", "client.cli", "run", *map(str, arguments)]
    environment = {**os.environ, "DUALFACE_STATE_DIR": str(state)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=360)
    assert done.returncode == 0, done.stderr + done.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """All of VIDEOS and a sample, made in one run."""
    folder = tmp_path_factory.mktemp("whole")
    sources = folder / "in"
    sources.mkdir()
    for name, spec in VIDEOS.items():
        make_video(sources / name, spec)
    portraits = Path.home() / ".cache" / "dualface" / "portraits"
    truth = None
    with suppress(PermanentError):
        truth = make_sample(sources / SAMPLE, seconds=6, size=(640, 360), portraits=portraits)
    inputs = [sources / name for name in (*VIDEOS, *([SAMPLE] if truth else []))]
    dualface(folder / "state", *inputs, "--out", folder / "out")
    return Made(sources, folder / "out", truth)


def test_the_checker_sees_a_lost_frame_a_moved_one_and_other_sound(tmp_path: Path) -> None:
    spec = replace(PLAIN, audio="aac")
    good = make_video(tmp_path / "good.mp4", spec)
    times = spec.times()
    moved = replace(spec, pts=[*times[:4], times[4] + 1, *times[5:]])
    assert verify(good, good).problems == ()
    (lost, sound) = verify(good, make_video(tmp_path / "a.mp4", replace(spec, frames=9))).problems
    assert lost == "10 frames became 9"
    assert sound.startswith("sound 0: other packets")
    (late,) = verify(good, make_video(tmp_path / "b.mp4", moved)).problems
    assert late.startswith("1 frames at another time, first 4")
    (offset,) = verify(good, make_video(tmp_path / "c.mp4", replace(spec, start_pts=512))).problems
    assert offset.startswith("sound 0: up to 0.04")


@pytest.mark.parametrize("name", [*VIDEOS, SAMPLE])
def test_every_frame_and_every_sound_packet_is_in_the_result(made: Made, name: str) -> None:
    verdict = verify(*made.pair(name))
    assert verdict.problems == ()
    assert verdict.shift == 0
    spec = VIDEOS.get(name)
    assert verdict.frames_in == (len(spec.times()) if spec else len(made.truth.frames))


@pytest.mark.parametrize("name", VIDEOS)
def test_each_time_shows_its_own_frame_in_its_own_colour(made: Made, name: str) -> None:
    _, result = made.pair(name)
    with av.open(str(result)) as opened:
        frames = [frame.to_ndarray(format="yuv420p") for frame in opened.decode(video=0)]
        assert all(frame.size == frames[0].size for frame in frames)
    for number, samples in enumerate(frames):
        height = samples.shape[0] * 2 // 3
        luma, chroma = samples[:height], samples[height:].reshape(2, -1)
        shown = (luma.mean(), chroma[0].mean(), chroma[1].mean())
        assert shown == pytest.approx(tint(number), abs=3), f"frame {number}"
        assert np.ptp(luma) <= 12, f"frame {number} is not of one colour"


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("portrait.mp4", (640, 360)),
        ("turned.mp4", (320, 180)),
        ("odd-sides.mkv", (852, 478)),
        ("ultra-hd.mp4", (1920, 1080)),
        ("one-frame.mp4", (320, 180)),
    ],
)
def test_the_result_has_an_even_canvas_of_the_source_s_size(
    made: Made, name: str, size: tuple[int, int]
) -> None:
    with av.open(str(made.pair(name)[1])) as opened:
        stream = opened.streams.video[0]
        assert (stream.width, stream.height) == size


def test_the_full_range_stays_full(made: Made) -> None:
    for name, full in (("full-range.mp4", True), ("small.mp4", False)):
        with av.open(str(made.pair(name)[1])) as opened:
            frame = next(opened.decode(video=0))
            assert (frame.color_range == 2) is full


def _box(person: PersonTruth) -> Box:
    return person.x, person.y, person.w, person.h


def test_each_person_of_the_sample_is_in_their_own_tile(made: Made) -> None:
    source, result = made.pair(SAMPLE)
    both: dict[int, Boxes] = {
        index: (_box(frame.people[0]), _box(frame.people[1]))
        for index, frame in enumerate(made.truth.frames)
        if all(p.visible >= 0.5 for p in frame.people)
    }
    assert 60 <= len(both) < len(made.truth.frames), "one has to leave and to return"
    left, right = share_shown(source, result, both)
    assert min(left, right) >= 0.98
    assert min(share_planned(source, both)) >= 0.98


def test_all_options_work_together(made: Made, tmp_path: Path) -> None:
    source, ordinary = made.pair(SAMPLE)
    result = tmp_path / "r.mov"
    dualface(
        tmp_path / "state", source, "--output", result, "--layout", "stacked", "--size", "240x320",
        "--codec", "hevc", "--crf", 40, "--detector", "centerface", "--fps-limit", 12,
        "--detect-every", 3, "--preset", "ultrafast",
    )  # fmt: skip
    with av.open(str(result)) as opened:
        stream = opened.streams.video[0]
        assert (stream.width, stream.height) == (240, 320)
        assert stream.codec_context.codec.canonical_name == "hevc"
        assert opened.format.name.startswith("mov")
    given, limited = frame_times(source), frame_times(result)
    assert set(limited) <= set(given)
    assert len(given) * 0.3 < len(limited) <= len(given) * 0.4 + 1
    assert result.stat().st_size < ordinary.stat().st_size
    assert not [text for text in verify(source, result).problems if "sound" in text]


CLIPS = (
    "faces/intel-asl-again.mkv",
    "faces/intel-asl-brother.mkv",
    "faces/intel-asl-student.mkv",
    "faces/intel-face-demographics-walking.gif",
    "faces/intel-head-pose-face-detection-female-and-male.gif",
    "faces/intel-head-pose-face-detection-female.gif",
    "faces/nasa_13013.mp4",
    "faces/openh264-CI1_FT_B.264",
    "faces/openh264-MR1_BT_A.h264",
    "faces/openh264-Zhling_1280x720.264",
    "faces/openh264-test_vd_1d.264",
    "faces/pyfeat-WolfgangLanger_Pexels.mp4",
    "faces/pyfeat-face_noface.mov",
    "faces/pyfeat-single_face.mp4",
    "people/cosmos-test_clip_10s.mp4",
    "people/intel-people-detection.gif",
    "people/intel-store-aisle-detection.gif",
    "people/sam2-01_dog.mp4",
    "people/sam2-bedroom.mp4",
)
"""All of these folders that a player plays (a raw .yuv file has no header)."""

TRACKED = {
    "faces/intel-face-demographics-walking.gif": "intel-face-demographics-walking",
    "faces/intel-head-pose-face-detection-female-and-male.gif": (
        "intel-head-pose-face-detection-female-and-male"
    ),
    "faces/openh264-test_vd_1d.264": "openh264-CiscoVT2people_320x192_12fps",
}
"""Clip -> its reference tracks. The same people stay left and right in these."""


@pytest.fixture(scope="module")
def real(footage: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the results of all CLIPS, made in one run."""
    folder = tmp_path_factory.mktemp("footage")
    dualface(folder / "state", *(footage / c for c in CLIPS), "--out", folder / "out")
    return folder / "out"


@pytest.mark.footage
@pytest.mark.parametrize("clip", CLIPS)
def test_a_real_clip_keeps_every_frame_and_all_sound(footage: Path, real: Path, clip: str) -> None:
    verdict = verify(footage / clip, real / f"{Path(clip).stem}-split.mp4")
    assert verdict.problems == ()
    assert verdict.shift == 0
    assert verdict.frames_in > 0


def two_faces(footage: Path, track: str) -> dict[int, Boxes]:
    """Frames of which the reference tracks know two faces, the left one first."""
    rows: dict[int, list[Box]] = {}
    for line in (footage / "ref" / f"{track}.facetracks.txt").read_text().splitlines():
        frame, _, x, y, w, h, *_ = (float(value) for value in line.split(","))
        rows.setdefault(int(frame) - 1, []).append((x, y, w, h))
    return {frame: (min(boxes), max(boxes)) for frame, boxes in rows.items() if len(boxes) == 2}


@pytest.mark.footage
@pytest.mark.parametrize("clip", TRACKED)
def test_real_people_are_in_their_own_tiles(footage: Path, real: Path, clip: str) -> None:
    both = two_faces(footage, TRACKED[clip])
    left, right = share_shown(footage / clip, real / f"{Path(clip).stem}-split.mp4", both)
    assert min(left, right) >= 0.98
    assert min(share_planned(footage / clip, both)) >= 0.98


@pytest.mark.footage
@pytest.mark.parametrize("batch", [16, 29, 32])
def test_children_who_jump_and_hide_are_in_their_own_tiles(footage: Path, batch: int) -> None:
    """Blurred faces that jump up to three face heights between two detections.

    By plan: the tiles are wide here, and faces in them too small to be told apart by picture.
    """
    both, clip = two_faces(footage, "sam2-bedroom"), footage / "people" / "sam2-bedroom.mp4"
    assert len(both) == 86
    assert min(share_planned(clip, both, batch)) >= 0.98
