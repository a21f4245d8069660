"""What all encoders of chunks check and say in the same words."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import av
from av.container import OutputContainer
from av.video.stream import VideoStream

from services.encode.chunks import Note
from services.encode.engines.base import ChunkInfo, Frame
from shared.errors import ErrorCode, PermanentError
from shared.jobs import OutputPlan
from shared.media.layout import FrameLayout


def check_size(layout: FrameLayout, output: OutputPlan) -> None:
    """Raises PermanentError INTERNAL when the frames are not of the output's size."""
    if (layout.width, layout.height) != (output.width, output.height):
        raise PermanentError(
            ErrorCode.INTERNAL,
            f"Frames of {layout.width}x{layout.height} px came for an output of"
            f" {output.width}x{output.height} px; compose must render the output's size.",
        )


def in_order(frames: Iterable[Frame]) -> Iterator[Frame]:
    """The frames; raises PermanentError INTERNAL when their times do not increase, SOURCE_EMPTY
    when there are none."""
    last: int | None = None
    for pts, planes in frames:
        if last is not None and pts <= last:
            raise PermanentError(
                ErrorCode.INTERNAL, f"Frame times in a batch do not increase: {pts} after {last}."
            )
        last = pts
        yield pts, planes
    if last is None:
        raise PermanentError(ErrorCode.SOURCE_EMPTY, "A batch without frames can't be encoded.")


def info_of(note: Note, path: Path) -> ChunkInfo:
    """Facts of the chunk that was written to `path`."""
    return ChunkInfo(
        frames=note.frames,
        size_bytes=path.stat().st_size,
        first_pts=note.first_pts,
        last_pts=note.last_pts,
        header_sha256=note.header_sha256,
    )


def described_stream(
    out: OutputContainer, first: bytes, bare: str, output: OutputPlan, header: bytes | None = None
) -> VideoStream:
    """A stream in `out` of what was encoded elsewhere, of which FFmpeg learns by reading its
    parameter sets and first picture as a file of the `bare` format.

    `header`: the parameter sets, where those that it finds have to look otherwise.
    """
    with av.open(io.BytesIO(first), format=bare) as seen:
        stream = out.add_stream_from_template(seen.streams.video[0], opaque=True)
    if header is not None:
        stream.codec_context.extradata = header
    stream.time_base = Fraction(*output.time_base)
    return stream
