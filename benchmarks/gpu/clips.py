"""The clips that are decoded, made on the spot: camera pan over a textured picture, with fresh
sensor noise in every frame. Deterministic before encoding."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]

RATE = 30
GRAIN = 3.0
"""Standard deviation of the noise, of 255: a camera's at ISO 800 or so."""
NOISES = 7
"""Different planes of noise, shown in turn."""
BFRAMES = 3

_Name = Literal["libx264", "libx265"]
_ENCODERS: dict[str, tuple[_Name, float, dict[str, str]]] = {
    "h264": ("libx264", 12e6, {"preset": "veryfast", "profile": "high"}),
    "hevc": ("libx265", 7e6, {"preset": "ultrafast", "x265-params": "log-level=error"}),
}
"""Encoder, bits/s of 1080p (about a camera's), options."""


def make_clip(path: Path, codec: str, size: tuple[int, int], seconds: float) -> Path:
    """Write an mp4 of 30 frames/s, 8 bit 4:2:0, with a keyframe every two seconds and 3 B-frames
    between others. `codec` is h264 (High profile) or hevc (Main)."""
    name, rate, options = _ENCODERS[codec]
    with av.open(str(path), "w") as out:
        stream = out.add_stream(name, rate=RATE)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, RATE * 512)
        stream.codec_context.bit_rate = int(rate * size[0] * size[1] / (1920 * 1080))
        stream.codec_context.gop_size = 2 * RATE
        stream.codec_context.max_b_frames = BFRAMES
        stream.codec_context.thread_type = "FRAME"
        stream.options = dict(options)
        for index, picture in enumerate(_pictures(size, max(1, round(seconds * RATE)))):
            frame = av.VideoFrame.from_ndarray(picture, format="yuv420p")
            frame.pts = 512 * index
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def _pictures(size: tuple[int, int], count: int) -> Iterator[Image]:
    """I420 frames, (3 / 2 height, width)."""
    width, height = size
    rng = np.random.default_rng(5)
    large = _texture(rng, width + 128, height + 64)
    shape = (height * 3 // 2, width)
    grain = [rng.normal(0, GRAIN, shape).astype(np.int8) for _ in range(NOISES)]
    frame = np.full(shape, 128, np.int16)
    chroma = cv2.resize(large, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    frame[height : height + height // 4] = (chroma.reshape(height // 4, width) // 4) + 96
    for index in range(count):
        x, y = abs(2 * index % 256 - 128), abs(index % 128 - 64)
        frame[:height] = large[y : y + height, x : x + width]
        noisy = np.clip(frame + grain[index % NOISES], 16, 235)
        yield np.asarray(noisy, np.uint8)


def _texture(rng: np.random.Generator, width: int, height: int) -> Image:
    """Detail at every scale, less of the finer, as photographs have it."""
    total = np.zeros((height, width), np.float32)
    for level in range(1, 8):
        coarse = rng.standard_normal((max(2, height >> level), max(2, width >> level)))
        scaled = cv2.resize(
            coarse.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC
        )
        total += scaled * 1.5**level
    total = 120 + 40 * total / total.std()
    return np.asarray(np.clip(total, 16, 235), np.uint8)
