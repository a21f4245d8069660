"""When the picture ends: how long the last frame is shown."""

from __future__ import annotations

from pathlib import Path

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from shared.jobs import OutputPlan, SourceInfo
from shared.media.probe import open_source
from shared.media.timestamps import frame_ticks


def end_of_picture(
    path: Path | None, source: SourceInfo, output: OutputPlan, last_pts: int, before: int | None
) -> int:
    """End of the frame at `last_pts`, in ticks: where the source at `path` ends its last one.

    So a limited frame rate or a damaged end does not shorten the video. Where the source does not
    say: as long as the frame before, which was at `before`, or a frame of the average rate.
    """
    length = frame_ticks(output.frame_rate, output.time_base)
    if before is not None:
        length = last_pts - before
    said = None
    if path is not None and not source.generated_times:
        with open_source(path) as opened:
            said = _last_end(opened, source.stream, last_pts)
    return last_pts + length if said is None else said


def _last_end(opened: InputContainer, index: int, last_pts: int) -> int | None:
    """Latest end of packets shown at or after `last_pts`; reads only from the keyframe before."""
    stream = opened.streams[index]
    if not isinstance(stream, VideoStream):
        return None
    end: int | None = None
    try:
        opened.seek(last_pts, stream=stream, backward=True)
        for packet in opened.demux(stream):
            if packet.pts is not None and packet.pts >= last_pts and packet.duration:
                end = max(end or 0, packet.pts + packet.duration)
    except (av.FFmpegError, IndexError):
        return end  # damaged behind its last good frame
    return end if end is None or end > last_pts else None
