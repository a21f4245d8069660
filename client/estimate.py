"""What a job will take, told before it starts: frames, pieces, and roughly size and time."""

from __future__ import annotations

from dataclasses import dataclass

from client.requests import Request
from shared.jobs import Codec
from shared.media.layout import FrameLayout

SHRINK_CRF = 6
"""x264 halves the bit rate about every 6 steps of crf."""
BITS_PER_PX = 0.03
CPU_S_PER_MPX = 0.0115
"""Measured on one interview in 1080p (600 frames, H.264, crf 23, preset veryfast, two cores of a
server): bits per pixel of the result, and CPU seconds of all stages per million pixels of source
and result together. Another picture or machine may well take half or twice that."""
MEASURED = (Codec.H264, "veryfast")


@dataclass(frozen=True, slots=True)
class Estimate:
    """`frames` is as exact as the header. None: the header has no length, or nothing like it was
    measured."""

    frames: int | None
    batches: int | None
    segments: int | None
    size_bytes: int | None
    cpu_s: float | None


def estimate(request: Request, slot_bytes: int, most: int, target_s: float) -> Estimate:
    """`slot_bytes` of an arena slot, at `most` frames in it; segments of about `target_s`."""
    source, plan = request.source, request.plan
    frames = source.frames_estimate
    if frames is None:
        return Estimate(None, None, None, None, None)
    into = FrameLayout(width=source.width, height=source.height)
    out = FrameLayout(width=plan.width, height=plan.height)
    fitting = slot_bytes // max(into.frame_bytes, out.frame_bytes)
    length_s = source.duration_s or float(frames * source.frame_rate[1] / source.frame_rate[0])
    bits = BITS_PER_PX * 2 ** ((23 - plan.crf) / SHRINK_CRF)
    known = (plan.codec, plan.preset) == MEASURED
    px_in, px_out = source.width * source.height, plan.width * plan.height
    size_bytes = int(frames * px_out * bits / 8) if known else None
    if request.spec.bitrate_kbps is not None:
        size_bytes = int(length_s * request.spec.bitrate_kbps * 1000 / 8)
    return Estimate(
        frames=frames,
        batches=-(-frames // max(1, min(fitting, most))),
        segments=max(1, round(length_s / target_s)),
        size_bytes=size_bytes,
        cpu_s=frames * (px_in + px_out) / 1e6 * CPU_S_PER_MPX if known else None,
    )
