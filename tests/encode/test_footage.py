"""Real clips: decoded, made small, encoded in chunks, joined with their sound."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from services.encode.engines.pyav import PyAvEncoder
from services.encode.mux import mux
from shared.media.layout import Plane
from shared.media.probe import probe
from tests.encode.pictures import LAYOUT, SIZE, output, packets, shown

CLIPS = (
    "faces/intel-asl-again.mkv",
    "faces/intel-head-pose-face-detection-female-and-male.gif",
    "faces/nasa_13013.mp4",
    "faces/pyfeat-face_noface.mov",
    "faces/pyfeat-single_face.mp4",
    "odd/decord-unordered.mov",
    "odd/decord-video_90.mov",
    "odd/moviepy-transparent.webm",
    "odd/torchcodec-bt709_full_range.mp4",
    "odd/vali-test.mp4",
    "odd/vali-test_hevc10.mkv",
    "odd/vali-test_mpeg4.mpg",
    "odd/vali-test_rot_90_deg.mp4",
    "people/sam2-01_dog.mp4",
)


def _small(path: Path, stream: int) -> tuple[list[int], list[Plane]]:
    with av.open(path) as opened:
        frames = [
            (frame.pts or 0, frame.reformat(*SIZE, format="yuv420p").to_ndarray().reshape(-1))
            for frame in opened.decode(opened.streams[stream])
        ]
    return [pts for pts, _ in frames], [np.ascontiguousarray(memory) for _, memory in frames]


@pytest.mark.footage
@pytest.mark.parametrize("clip", CLIPS)
def test_a_real_clip_keeps_all_times_and_all_sound(
    footage: Path, tmp_path: Path, clip: str
) -> None:
    path = footage / clip
    facts = probe(path)
    plan = output(facts.time_base, color=facts.color)
    pts, memory = _small(path, facts.stream)
    chunks = []
    for start in range(0, len(pts), 32):
        part = zip(pts[start : start + 32], memory[start : start + 32], strict=True)
        chunks.append(tmp_path / f"{start}.nut")
        frames = ((at, LAYOUT.planes(slot)) for at, slot in part)
        PyAvEncoder().encode(frames, LAYOUT, plan, chunks[-1])
    result = tmp_path / "r.mp4"
    report = mux(chunks, path, facts, plan, "mp4", result, pts)
    assert shown(result) == [at * Fraction(*facts.time_base) for at in pts]
    assert report.sounds_copied == len(facts.sounds)
    for number, sound in enumerate(facts.sounds):
        given, made = packets(path, "audio", number), packets(result, "audio", number)
        assert [data for _, data in made] == [data for _, data in given]
        assert made[0][0] == given[0][0]
        slack = Fraction(1, 2 * sound.sample_rate)
        assert all(abs(a[0] - b[0]) <= slack for a, b in zip(made, given, strict=True))
    with av.open(result) as opened:
        frame = next(opened.decode(video=0))
    assert frame.rotation == 0
    assert (frame.color_range == 2) == facts.color.full_range
