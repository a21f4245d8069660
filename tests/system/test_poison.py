"""Batches that end or hang every process that touches them, in a whole run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
import pytest

from tests.system.runs import Ended, Home, home_in, picture_hash
from tests.system.verify import frame_times, verify
from tests.videos import VideoSpec, make_video

pytestmark = pytest.mark.timeout(300)

FRAMES, RATE = 200, 25


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight seconds in segments of one second, batches of 25 frames or fewer."""
    path = tmp_path_factory.mktemp("poison") / "source.mp4"
    return make_video(path, VideoSpec(size=(320, 180), frames=FRAMES, gop=RATE, rate=RATE))


@pytest.fixture(scope="module")
def calm(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an undisturbed run makes of it."""
    folder = tmp_path_factory.mktemp("calm")
    with home(folder) as undisturbed:
        done = undisturbed.run("run", source, "-o", "out.mp4")
        assert done.code == 0, done.said
    return folder / "results" / "out.mp4"


@contextmanager
def home(folder: Path, *drills: Mapping[str, object], **settings: str) -> Iterator[Home]:
    chosen = {
        "segment_target_s": "1",
        # Longer than a busy machine keeps a niced worker waiting; a hang costs so much.
        "stall_s": "10",
        "batch_frames": "32",
        **settings,
    }
    with home_in(folder, drills=json.dumps(drills), **chosen) as made:
        yield made


def pictures(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as opened:
        return [frame.to_ndarray() for frame in opened.decode(video=0)]


def differing(path: Path, other: Path) -> list[int]:
    pairs = zip(pictures(path), pictures(other), strict=True)
    return [at for at, (a, b) in enumerate(pairs) if not np.array_equal(a, b)]


def check(made: Home, done: Ended, source: Path) -> Path:
    assert done.code == 0, done.said
    assert "Traceback" not in done.said
    assert made.leftovers() == []
    result = made.results / "out.mp4"
    assert verify(source, result).problems == ()
    return result


PASSING = (
    {"stage": "decode", "item": "split", "kind": "error"},
    {"stage": "decode", "item": "segment:2", "kind": "crash", "at": 7, "times": 2},
    {"stage": "infer", "item": "1:0", "kind": "hang"},
    {"stage": "infer", "item": "6:0", "kind": "crash"},
    {"stage": "compose", "item": "3:0", "kind": "stop", "at": 3},
    {"stage": "encode", "item": "0:0", "kind": "error", "at": 2},
    {"stage": "encode", "item": "4:0", "kind": "crash", "at": 9},
    {"stage": "encode", "item": "7:0", "kind": "full", "at": 9},
    {"stage": "encode", "item": "mux", "kind": "crash"},
)


def test_faults_that_pass_change_nothing(source: Path, calm: Path, tmp_path: Path) -> None:
    """Crashes, a hang, a frozen process, errors and a full disk, at every stage, in one run."""
    with home(tmp_path, *PASSING) as made:
        result = check(made, made.run("run", source, "-o", "out.mp4"), source)
        assert picture_hash(result) == picture_hash(calm)


def test_a_batch_that_no_encoder_survives_shows_the_frame_before(
    source: Path, calm: Path, tmp_path: Path
) -> None:
    with home(
        tmp_path,
        {"stage": "encode", "item": "4:0", "kind": "crash", "times": 99},
        replaced_share="0.2",
    ) as made:
        done = made.run("run", source, "-o", "out.mp4")
        result = check(made, done, source)
        assert "25 from 4.00 s to 4.96 s" in done.out
        assert set(differing(result, calm)) <= set(range(100, 125))
        shown = [frame.astype(int) for frame in pictures(result)]
        for frame in shown[100:119]:
            assert np.abs(frame - shown[99]).mean() < 2
        for frame, weight in zip(shown[119:125], (0.04, 0.2, 0.36, 0.52, 0.68, 0.84), strict=True):
            assert np.abs(frame - (1 - weight) * shown[99] - weight * shown[125]).mean() < 3


def test_a_segment_that_no_decoder_survives_keeps_what_was_decoded(
    source: Path, tmp_path: Path
) -> None:
    fault = {"stage": "decode", "item": "segment:5", "kind": "crash", "at": 20, "times": 99}
    with home(tmp_path, fault, replaced_share="0.2", batch_frames="10") as made:
        done = made.run("run", source, "-o", "out.mp4")
        result = check(made, done, source)
        assert frame_times(result) == frame_times(source)
        assert "could not be made" in done.out


def test_a_batch_that_no_detector_survives_is_made_without_one(
    source: Path, tmp_path: Path
) -> None:
    fault = {"stage": "infer", "item": "1:0", "kind": "crash", "times": 2}
    with home(tmp_path, fault) as made:
        done = made.run("run", source, "-o", "out.mp4")
        check(made, done, source)
        assert "In 25 frames no faces could be looked for" in done.out


def test_too_many_frames_that_can_not_be_made_fail_the_job_and_are_named(
    source: Path, tmp_path: Path
) -> None:
    faults = [
        {"stage": "encode", "item": f"{segment}:0", "kind": "crash", "times": 99}
        for segment in (1, 2)
    ]
    with home(tmp_path, *faults, replaced_share="0.2") as made:
        done = made.run("run", source, "-o", "out.mp4")
        assert done.code != 0
        assert "50 of 200 frames could not be made: 50 from 1.00 s to 2.96 s" in done.said
        assert made.leftovers() == []


def test_a_segment_of_nothing_but_damage_shows_the_frame_before(
    source: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged.mp4"
    data = bytearray(source.read_bytes())
    with av.open(str(source)) as opened:
        for packet in opened.demux(video=0):
            if packet.pts is not None and packet.pos and 3 <= packet.pts * packet.time_base < 4:
                # The types of its NAL units stay: at an IDR picture one may cut.
                payload, at = bytes(packet), 0
                while at + 5 < len(payload):
                    size = int.from_bytes(payload[at : at + 4], "big")
                    start = packet.pos + at + 5
                    data[start : start + size - 1] = b"\xff" * (size - 1)
                    at += 4 + size
    damaged.write_bytes(data)
    with home(tmp_path, replaced_share="0.2") as made:
        done = made.run("run", damaged, "-o", "out.mp4")
        assert done.code == 0, done.said
        assert frame_times(made.results / "out.mp4") == frame_times(source)
        assert "25 from 3.00 s to 3.96 s" in done.out
        assert made.leftovers() == []
