"""Tiny videos built to order, whose frames carry their number as a readable pattern.

A frame shows 16 cells (8 columns, 2 rows); cell i, row by row, is white where bit i of the frame's
number is set. `frame_number(luma)` reads it back from an upright luma plane of any size or quality.
Tinted frames are of one colour instead, `tint(number)`, which shows in any part of the picture.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.stream import VideoStream

Luma = npt.NDArray[np.uint8]

DARK, BRIGHT = 48, 208
COLUMNS, ROWS = 8, 2


@dataclass(frozen=True)
class VideoSpec:
    """What to build; the container follows from the file's suffix.

    `pts` are in ticks of `time_base` (default: frame i at i / rate). `rotation` is what a player
    has to turn clockwise to show the picture upright; the pattern is drawn as an upright camera
    would see it, so that turned frames read correctly. `size` is that of the coded picture.
    `sounds` is how many equal sound streams there are.
    """

    codec: str = "libx264"
    size: tuple[int, int] = (128, 64)
    frames: int = 48
    rate: Fraction = Fraction(25)
    time_base: Fraction = Fraction(1, 12800)
    pts: Sequence[int] | None = None
    start_pts: int = 0
    gop: int = 12
    bframes: int = 2
    pixel_format: str = "yuv420p"
    options: Mapping[str, str] = field(default_factory=dict)
    container_options: Mapping[str, str] = field(default_factory=dict)
    container: str | None = None
    rotation: int = 0
    sample_aspect: Fraction | None = None
    tinted: bool = False
    audio: str | None = None
    sounds: int = 1
    audio_rate: int = 48000
    audio_first: bool = False

    def times(self) -> list[int]:
        """pts of every frame, in ticks of `time_base`."""
        if self.pts is not None:
            return [self.start_pts + pts for pts in self.pts]
        step = 1 / self.rate / self.time_base
        return [self.start_pts + round(i * step) for i in range(self.frames)]


OPEN_GOP_X264 = VideoSpec(
    bframes=3, options={"x264-params": "open-gop=1:scenecut=0:b-pyramid=normal:b-adapt=0"}
)
OPEN_GOP_X265 = VideoSpec(
    codec="libx265",
    bframes=3,
    options={"x265-params": "open-gop=1:scenecut=0:b-adapt=0:log-level=none:pools=1"},
)
CLOSED_GOP_X264 = VideoSpec(options={"x264-params": "scenecut=0:b-adapt=0"})
MPEG2 = VideoSpec(codec="mpeg2video", time_base=Fraction(1, 25), options={"b": "2000k"})
VP9 = VideoSpec(
    codec="libvpx-vp9",
    bframes=0,
    options={"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0", "b": "500k"},
)
INTRA_REFRESH_X264 = VideoSpec(bframes=0, options={"x264-params": "intra-refresh=1:scenecut=0"})


def pattern(number: int, size: tuple[int, int]) -> Luma:
    """Luma plane (height, width) of frame `number`, 0..65535."""
    bits = (number >> np.arange(COLUMNS * ROWS)) & 1
    cells = np.where(bits, BRIGHT, DARK).astype(np.uint8).reshape(ROWS, COLUMNS)
    width, height = size
    rows = np.arange(height) * ROWS // height
    columns = np.arange(width) * COLUMNS // width
    return cells[rows][:, columns]


def frame_number(luma: Luma) -> int:
    """Number that an upright luma plane shows."""
    height, width = luma.shape
    number = 0
    for bit in range(COLUMNS * ROWS):
        row, column = divmod(bit, COLUMNS)
        y, x = (2 * row + 1) * height // (2 * ROWS), (2 * column + 1) * width // (2 * COLUMNS)
        patch = luma[max(0, y - 2) : y + 2, max(0, x - 2) : x + 2]
        number |= int(patch.mean() > (DARK + BRIGHT) / 2) << bit
    return number


def numbered_frame(
    number: int, size: tuple[int, int], pixel_format: str = "yuv420p", rotation: int = 0
) -> av.VideoFrame:
    """Coded picture of `size` that shows `number` once turned clockwise by `rotation`."""
    upright = size if rotation % 180 == 0 else (size[1], size[0])
    luma = np.ascontiguousarray(np.rot90(pattern(number, upright), k=rotation // 90))
    frame = av.VideoFrame(size[0], size[1], "yuv420p")
    for plane, level in zip(frame.planes, (None, 110, 150), strict=True):
        view = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
        if level is None:
            view[: size[1], : size[0]] = luma
        else:
            view[:] = level
    return frame if pixel_format == "yuv420p" else frame.reformat(format=pixel_format)


def tint(number: int) -> tuple[int, int, int]:
    """Y, U, V of the tinted frame `number`; neighbours differ by 17 or more in Y."""
    return 40 + number * 53 % 176, 88 + number * 29 % 80, 88 + number * 17 % 80


def tinted_frame(
    number: int, size: tuple[int, int], pixel_format: str = "yuv420p"
) -> av.VideoFrame:
    """Picture of `size` in one colour, the same samples whichever range the format has."""
    full = pixel_format.startswith("yuvj")
    frame = av.VideoFrame(size[0], size[1], "yuvj420p" if full else "yuv420p")
    for plane, level in zip(frame.planes, tint(number), strict=True):
        np.frombuffer(plane, np.uint8)[:] = level
    return frame if frame.format.name == pixel_format else frame.reformat(format=pixel_format)


def make_video(path: Path, spec: VideoSpec = CLOSED_GOP_X264) -> Path:
    """Write the video (and sound) that `spec` orders to `path`."""
    options = dict(spec.container_options)
    with av.open(str(path), "w", format=spec.container, container_options=options) as container:
        sounds = _add_sounds(container, spec) if spec.audio_first else []
        video = _add_video(container, spec)
        if not spec.audio_first:
            sounds = _add_sounds(container, spec)
        for frame in _frames(spec):
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        for sound in sounds:
            for piece in _tone(spec):
                container.mux(sound.encode(piece))
            container.mux(sound.encode(None))
    if spec.codec == "libsvtav1":
        _be_ordinary_again()
    return path


def _be_ordinary_again() -> None:
    """SVT-AV1 makes the threads of a privileged process real-time ones, which starve all others on
    a machine of two cores, for as long as the process lives."""
    for task in Path("/proc/self/task").iterdir():
        with suppress(ProcessLookupError, PermissionError):
            os.sched_setscheduler(int(task.name), os.SCHED_OTHER, os.sched_param(0))


def _add_video(container: OutputContainer, spec: VideoSpec) -> VideoStream:
    stream = container.add_stream(spec.codec, rate=spec.rate, options=dict(spec.options))
    assert isinstance(stream, VideoStream)
    stream.width, stream.height = spec.size
    stream.pix_fmt = spec.pixel_format
    stream.codec_context.time_base = spec.time_base
    stream.time_base = spec.time_base
    stream.gop_size = spec.gop
    stream.max_b_frames = spec.bframes
    if spec.sample_aspect is not None:
        stream.codec_context.sample_aspect_ratio = spec.sample_aspect
    if spec.rotation:
        # The stream's angle is counterclockwise, `rotation` is clockwise.
        stream.set_display_rotation(-spec.rotation)
    return stream


def _add_sounds(container: OutputContainer, spec: VideoSpec) -> list[AudioStream]:
    return [_add_sound(container, spec) for _ in range(spec.sounds if spec.audio else 0)]


def _add_sound(container: OutputContainer, spec: VideoSpec) -> AudioStream:
    assert spec.audio is not None
    stream = container.add_stream(spec.audio, rate=spec.audio_rate)
    assert isinstance(stream, AudioStream)
    return stream


def _frames(spec: VideoSpec) -> Iterator[av.VideoFrame]:
    for number, pts in enumerate(spec.times()):
        if spec.tinted:
            frame = tinted_frame(number, spec.size, spec.pixel_format)
        else:
            frame = numbered_frame(number, spec.size, spec.pixel_format, spec.rotation)
        frame.pts, frame.time_base = pts, spec.time_base
        yield frame


def _tone(spec: VideoSpec) -> Iterator[av.AudioFrame]:
    times = spec.times()
    seconds = float((times[-1] - times[0]) * spec.time_base + 1 / spec.rate)
    total = int(seconds * spec.audio_rate)
    wave = (np.sin(np.arange(total) * (2 * np.pi * 440 / spec.audio_rate)) * 8000).astype(np.int16)
    for start in range(0, total, 1024):
        piece = wave[start : start + 1024]
        frame = av.AudioFrame.from_ndarray(
            np.repeat(piece, 2).reshape(1, -1), format="s16", layout="stereo"
        )
        frame.sample_rate = spec.audio_rate
        frame.pts = start
        frame.time_base = Fraction(1, spec.audio_rate)
        yield frame


def make_sound_only(path: Path) -> None:
    """An mp4 with sound and no picture."""
    with av.open(str(path), "w", format="mp4") as made:
        stream = made.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.int16), "s16", "stereo")
        frame.sample_rate = 48000
        made.mux(stream.encode(frame))
        made.mux(stream.encode(None))


def make_text(path: Path) -> None:
    """A text, whatever its name says."""
    path.write_text("This is no video at all.\n" * 400)


def make_encrypted(path: Path, spec: VideoSpec) -> None:
    """The video of `spec` as mp4 with common encryption (ISO/IEC 23001-7, cenc)."""
    options = {
        "encryption_scheme": "cenc-aes-ctr",
        "encryption_key": "76a6c65c5ea762046bd749a2e632ccbb",
        "encryption_kid": "a7e61c373e219033c21091fa607bf3b8",
    }
    make_video(path, replace(spec, container_options=options))
