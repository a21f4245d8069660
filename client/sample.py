"""A sample video of two people at a table, made on the spot, and the truth about every frame of it.

Nobody has to bring a video to try the system, and tests know exactly where each face is. The people
are real portraits (a detector must find them), everything else is drawn. The right one leaves the
picture and comes back; every second there is a beep and, with the same frame, a white patch in the
upper left corner, so that sound can be checked against pictures.
"""

from __future__ import annotations

import math
import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from pydantic import Field

from client.sample_scene import CYCLE_S, Scene, make_scene
from shared.errors import ErrorCode, PermanentError
from shared.jobs import Model, Ratio

SAMPLE_RATE = 48000
BEEP_S = 0.08
BEEP_HZ = 1000.0


class PersonTruth(Model):
    """Where the face of one person is, px; may reach beyond the picture.

    `visible`: the part of the box inside the picture, 0..1.
    """

    person: int = Field(ge=0, le=1)
    x: float
    y: float
    w: float
    h: float
    visible: float = Field(ge=0, le=1)


class FrameTruth(Model):
    """One frame: `pts` in ticks of `GroundTruth.time_base`; both people, person 0 first."""

    pts: int
    people: tuple[PersonTruth, PersonTruth]


class GroundTruth(Model):
    """What is known of a sample video. `beeps_s` are the beginnings of the beeps, in seconds.

    Person `left` is always the left one, also while the other is away.
    """

    width: int
    height: int
    frame_rate: Ratio
    time_base: Ratio
    left: int = 0
    beeps_s: tuple[float, ...]
    beep_length_s: float = BEEP_S
    flash: tuple[int, int, int, int] = Field(description="x, y, w, h of the white patch, px")
    frames: tuple[FrameTruth, ...]


def truth_path(path: Path) -> Path:
    """The file of the truth about the sample video `path`."""
    return path.with_suffix(".json")


def make_sample(
    path: Path,
    *,
    seconds: float = 12.0,
    size: tuple[int, int] = (1280, 720),
    fps: Ratio = (30, 1),
    seed: int = 1,
    portraits: Path,
) -> GroundTruth:
    """Write an mp4 (H.264, AAC 48 kHz stereo) to `path` and the truth about it beside it.

    `size` is width, height in px; `portraits` the folder where the two pictures are kept. Equal
    arguments give equal pixels before encoding. Memory does not grow with `seconds`, apart from
    the truth, about 1 kB per frame.
    Raises PermanentError: BAD_OPTION for a size or length that can't be made, SOURCE_MISSING when
    the pictures can't be fetched, OUTPUT_UNWRITABLE when `path` can't be written.
    """
    rate = _checked_rate(seconds, size, fps)
    count = max(1, round(seconds * rate))
    scene = make_scene(size, rate, min(CYCLE_S, seconds), seed, portraits)
    truth = _truth(scene, count)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, scene, truth)
    except OSError as error:
        raise PermanentError(
            ErrorCode.OUTPUT_UNWRITABLE,
            f"{path} can't be written ({error.strerror or error}); choose another place",
        ) from error
    return truth


def _write(path: Path, scene: Scene, truth: GroundTruth) -> None:
    """Both files; the video appears under its name when it is whole."""
    part = path.with_name(f".{path.name}.part")
    try:
        _encode(part, scene, truth)
        truth_path(path).write_text(truth.model_dump_json())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _checked_rate(seconds: float, size: tuple[int, int], fps: Ratio) -> Fraction:
    if any(side % 4 or not 64 <= side <= 8192 for side in size):
        raise PermanentError(
            ErrorCode.BAD_OPTION,
            f"a sample of {size[0]}x{size[1]} can't be made; give sides from 64 to 8192 px that "
            "are multiples of 4",
        )
    rate = Fraction(*fps) if min(fps) > 0 else Fraction(0)
    if not (1 <= rate <= 240 and 0 < seconds <= 3600):
        raise PermanentError(
            ErrorCode.BAD_OPTION, "a sample needs 1 to 240 frames per second and at most an hour"
        )
    return rate


def _time_base(rate: Fraction) -> Fraction:
    """Seconds per tick: each frame at a whole tick, and fine enough that the mp4 muxer keeps it."""
    ticks = rate.numerator
    while ticks < 10000:
        ticks *= 2
    return Fraction(1, ticks)


def _truth(scene: Scene, count: int) -> GroundTruth:
    time_base = _time_base(scene.fps)
    frames = (
        FrameTruth(
            pts=int(scene.time_s(index) / time_base),
            people=(_person(scene, 0, index), _person(scene, 1, index)),
        )
        for index in range(count)
    )
    return GroundTruth(
        width=scene.size[0],
        height=scene.size[1],
        frame_rate=(scene.fps.numerator, scene.fps.denominator),
        time_base=(time_base.numerator, time_base.denominator),
        beeps_s=tuple(float(second) for second in range(1, math.ceil(scene.time_s(count)))),
        flash=scene.flash,
        frames=tuple(frames),
    )


def _person(scene: Scene, person: int, index: int) -> PersonTruth:
    x, y, w, h = scene.face(person, index)
    inside_x = min(x + w, scene.size[0]) - max(x, 0)
    inside_y = min(y + h, scene.size[1]) - max(y, 0)
    visible = max(0.0, inside_x) * max(0.0, inside_y) / (w * h)
    return PersonTruth(
        person=person,
        x=round(x, 2),
        y=round(y, 2),
        w=round(w, 2),
        h=round(h, 2),
        visible=round(min(1.0, visible), 3),
    )


def _encode(path: Path, scene: Scene, truth: GroundTruth) -> None:
    time_base = Fraction(*truth.time_base)
    options = {"video_track_timescale": str(time_base.denominator)}
    with av.open(str(path), "w", format="mp4", options=options) as out:
        video = out.add_stream("libx264", rate=scene.fps)
        video.width, video.height = scene.size
        video.pix_fmt = "yuv420p"
        video.time_base = video.codec_context.time_base = time_base
        video.codec_context.thread_type = "FRAME"
        # a keyframe every two seconds: several segments even in a short sample
        video.codec_context.gop_size = round(2 * scene.fps)
        video.options = {"preset": "superfast", "crf": "21"}
        sound = out.add_stream("aac", rate=SAMPLE_RATE, layout="stereo")
        done = 0
        for index, known in enumerate(truth.frames):
            frame = av.VideoFrame.from_ndarray(scene.frame(index), format="yuv420p")
            frame.pts, frame.time_base = known.pts, time_base
            out.mux(video.encode(frame))
            end = round(scene.time_s(index + 1) * SAMPLE_RATE)
            out.mux(sound.encode(_sound(done, end)))
            done = end
        out.mux(video.encode(None))
        out.mux(sound.encode(None))


def _sound(start: int, end: int) -> av.AudioFrame:
    """Samples `start` to `end` (exclusive) of the whole: beeps in a quiet hum."""
    at = np.arange(start, end) / SAMPLE_RATE
    since = (np.arange(start, end) % SAMPLE_RATE) / SAMPLE_RATE
    fade = np.clip(np.minimum(since, BEEP_S - since) / 0.002, 0, 1) * (at >= 1)
    beep = 0.5 * fade * np.sin(2 * np.pi * BEEP_HZ * since)
    hum = 0.004 * np.sin(2 * np.pi * 100 * at)
    mono = (beep + hum).astype(np.float32)
    frame = av.AudioFrame.from_ndarray(np.stack((mono, mono)), format="fltp", layout="stereo")
    frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, start, Fraction(1, SAMPLE_RATE)
    return frame
