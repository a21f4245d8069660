"""Small valid models for tests that need one but do not care which."""

from __future__ import annotations

from shared.jobs import Codec, ColorTags, JobSpec, OutputPlan, Rect, Segment, SourceInfo
from shared.media.layout import FrameLayout
from shared.messages import BatchMessage, SlotRef


def job_spec(**changes: object) -> JobSpec:
    """A spec with defaults."""
    return JobSpec.model_validate({"source": "jobs/j/source.mp4", "name": "a.mp4", **changes})


def source_info(**changes: object) -> SourceInfo:
    """A 64x48 source at 25 frames/s."""
    base: dict[str, object] = {
        "format": "mov,mp4,m4a,3gp,3g2,mj2",
        "codec": "h264",
        "stream": 0,
        "width": 64,
        "height": 48,
        "time_base": (1, 12800),
        "frame_rate": (25, 1),
        "frames_estimate": 50,
    }
    return SourceInfo.model_validate({**base, **changes})


def output_plan() -> OutputPlan:
    """Two 32x48 tiles."""
    return OutputPlan(
        width=64,
        height=48,
        tiles=(Rect(x=0, y=0, w=32, h=48), Rect(x=32, y=0, w=32, h=48)),
        codec=Codec.H264,
        crf=23,
        preset="veryfast",
        color=ColorTags(),
        time_base=(1, 12800),
        frame_rate=(25, 1),
    )


def segment(index: int, frames: int = 10) -> Segment:
    """Segment `index` with `frames` frames of 512 ticks."""
    first = index * frames * 512
    return Segment(
        index=index,
        key=f"jobs/j/segments/{index:06d}",
        first_pts=first,
        end_pts=first + frames * 512,
        frames=frames,
    )


def batch_message(
    name: str = "0:0", *, job: str = "j", pool: str = "decoded", frames: int = 3
) -> BatchMessage:
    """A batch in slot 0 of an arena that need not exist."""
    at, batch = (int(part) for part in name.split(":"))
    slot = {"arena": "cpu0", "generation": "g", "pool": pool, "slot": 0, "token": 1}
    return BatchMessage(
        job=job,
        segment=at,
        batch=batch,
        layout=FrameLayout(width=64, height=48),
        pts=tuple(range(frames)),
        slot=SlotRef.model_validate({**slot, "holder": f"{job}/{name}"}),
    )
