"""libx264 and libx265 by PyAV."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
from av.bitstream import BitStreamFilterContext
from av.codec.context import ThreadType
from av.container import OutputContainer
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from services.encode.chunks import write_chunk
from services.encode.engines.base import ChunkInfo, Frame
from services.encode.plan import (
    QUALITY,
    RateControl,
    RateMode,
    encoder_options,
    encoder_threads,
)
from shared.errors import ErrorCode, PermanentError
from shared.jobs import Codec, ColorTags, OutputPlan
from shared.media.layout import FrameLayout, PixelFormat, Planes

_Encoder = Literal["libx264", "libx265"]
_ENCODERS: dict[Codec, _Encoder] = {Codec.H264: "libx264", Codec.HEVC: "libx265"}

LIMITED_RANGE = 1
FULL_RANGE = 2
"""FFmpeg's AVCOL_RANGE_MPEG and AVCOL_RANGE_JPEG."""


class PyAvEncoder:
    """A ChunkEncoder. Opens a fresh encoder for each chunk.

    So a chunk depends on its own frames only. Opening costs 3 to 18 ms of the 950 ms of CPU that 32
    frames of 1080p take; flushing and reusing one would carry rate control's state over.

    `threads` are frame threads, which cost less size and time than slices.
    """

    session = None

    def __init__(self, threads: int = 1, *, vector_code: bool = True) -> None:
        """`vector_code` False: without hand-written assembly, three to five times slower, and out
        of reach of its bugs. Chunks of both kinds join."""
        self._threads = threads
        self._vector_code = vector_code

    def name_for(self, codec: Codec) -> str:
        """See ChunkEncoder."""
        return f"pyav-{_ENCODERS[codec]}" + ("" if self._vector_code else "-plain")

    def encode(
        self,
        frames: Iterable[Frame],
        layout: FrameLayout,
        output: OutputPlan,
        path: Path,
        rate: RateControl = QUALITY,
    ) -> ChunkInfo:
        """See ChunkEncoder."""
        if (layout.width, layout.height) != (output.width, output.height):
            raise PermanentError(
                ErrorCode.INTERNAL,
                f"Frames of {layout.width}x{layout.height} px came for an output of"
                f" {output.width}x{output.height} px; compose must render the output's size.",
            )

        def make(out: OutputContainer) -> tuple[VideoStream, list[Packet[VideoStream]]]:
            options = encoder_options(output, rate, vector_code=self._vector_code)
            threads = encoder_threads(rate, self._threads)
            stream = _open(out, layout, output, threads, options, rate)
            return stream, _packets(stream, frames, layout, output)

        note = write_chunk(path, Fraction(*output.time_base), make)
        return ChunkInfo(
            frames=note.frames,
            size_bytes=path.stat().st_size,
            first_pts=note.first_pts,
            last_pts=note.last_pts,
            header_sha256=note.header_sha256,
        )


def _open(
    out: OutputContainer,
    layout: FrameLayout,
    output: OutputPlan,
    threads: int,
    options: dict[str, str],
    rate: RateControl,
) -> VideoStream:
    """Add the encoder's stream to `out` and open it."""
    name = _ENCODERS[output.codec]
    stream = out.add_stream(
        name, rate=Fraction(*output.frame_rate), width=output.width, height=output.height
    )
    context = stream.codec_context
    native_nv12 = layout.format is PixelFormat.NV12 and output.codec is Codec.H264
    context.pix_fmt = "nv12" if native_nv12 else "yuv420p"
    context.time_base = stream.time_base = Fraction(*output.time_base)
    context.sample_aspect_ratio = Fraction(1)
    _tag(context, output.color)
    context.thread_type = ThreadType.FRAME
    context.thread_count = threads
    context.options = options
    try:
        context.open()
    except (OSError, av.FFmpegError, ValueError) as error:
        quality = rate.mode is RateMode.QUALITY
        chosen = f"crf {output.crf}" if quality else f"{rate.peak_kbps} kbit/s"
        raise PermanentError(
            ErrorCode.BAD_OPTION,
            f"{name} does not take {output.width}x{output.height} px with preset"
            f" {output.preset!r} and {chosen}; choose others.",
        ) from error
    return stream


def _tag(target: VideoCodecContext | VideoFrame, color: ColorTags) -> None:
    target.color_range = FULL_RANGE if color.full_range else LIMITED_RANGE
    target.color_primaries = color.primaries
    target.color_trc = color.transfer
    target.colorspace = color.matrix


def _packets(
    stream: VideoStream, frames: Iterable[Frame], layout: FrameLayout, output: OutputPlan
) -> list[Packet[VideoStream]]:
    """Encode all `frames`."""
    context = stream.codec_context
    packets: list[Packet[VideoStream]] = []
    last: int | None = None
    for pts, planes in frames:
        if last is not None and pts <= last:
            raise PermanentError(
                ErrorCode.INTERNAL, f"Frame times in a batch do not increase: {pts} after {last}."
            )
        last = pts
        packets += context.encode(_frame(pts, planes, layout, output))
    if last is None:
        raise PermanentError(ErrorCode.SOURCE_EMPTY, "A batch without frames can't be encoded.")
    packets += context.encode(None)
    return [_without_settings(stream, packets[0]), *packets[1:]]


def _frame(pts: int, planes: Planes, layout: FrameLayout, output: OutputPlan) -> VideoFrame:
    """The planes as a frame, without copying them.

    x264 and x265 copy a frame's pixels before encode() returns, so the arena's memory is not
    referred to afterwards. Neither needs aligned rows.
    """
    # DLPack has no read-only arrays before version 1, which PyAV does not speak: then copy
    lent = tuple(plane if plane.flags.writeable else plane.copy() for plane in planes)
    if layout.format is PixelFormat.NV12:
        y, uv = lent
        pairs = uv.reshape(layout.chroma_height, layout.chroma_width, 2)
        frame = VideoFrame.from_dlpack((y, pairs), format="nv12")
        if output.codec is Codec.HEVC:
            frame = frame.reformat(format="yuv420p")
    else:
        frame = VideoFrame.from_dlpack(lent, format="yuv420p")
    frame.pts = pts
    frame.time_base = Fraction(*output.time_base)
    _tag(frame, output.color)
    return frame


def _without_settings(stream: VideoStream, packet: Packet[VideoStream]) -> Packet[VideoStream]:
    """The first packet without x264's note of its settings (SEI of 700 bytes in each chunk).

    Without it chunks are also mostly the same bytes whatever the number of threads, which it
    names. x265 is told not to write one.
    """
    if stream.codec_context.name != "libx264":
        return packet
    times = packet.pts, packet.dts, packet.time_base, packet.is_keyframe
    filtered = BitStreamFilterContext("filter_units=remove_types=6", stream).filter(packet)[0]
    filtered.pts, filtered.dts, filtered.time_base, filtered.is_keyframe = times
    return filtered
