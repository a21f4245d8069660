"""libx264, libx265 and libsvtav1 by PyAV."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal, cast

import av
from av.bitstream import BitStreamFilterContext
from av.codec.context import CodecContext, ThreadType
from av.container import OutputContainer
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from services.encode.chunks import write_chunk
from services.encode.engines.base import ChunkInfo, Frame
from services.encode.engines.common import check_size, described_stream, in_order, info_of
from services.encode.engines.svt import open_svt
from services.encode.plan import (
    QUALITY,
    RateControl,
    RateMode,
    av1_frame_rate,
    encoder_options,
    encoder_threads,
)
from shared.cuda.memory import Memory
from shared.errors import EngineError, ErrorCode, PermanentError
from shared.jobs import Codec, ColorTags, OutputPlan
from shared.media.layout import FrameLayout, PixelFormat, Planes
from shared.sessions import SessionNeed

_Encoder = Literal["libx264", "libx265", "libsvtav1", "h264_nvenc", "hevc_nvenc"]
_ENCODERS: dict[Codec, _Encoder] = {
    Codec.H264: "libx264",
    Codec.HEVC: "libx265",
    Codec.AV1: "libsvtav1",
}

LIMITED_RANGE = 1
FULL_RANGE = 2
"""FFmpeg's AVCOL_RANGE_MPEG and AVCOL_RANGE_JPEG."""


@dataclass(frozen=True)
class Recipe:
    """How one of FFmpeg's encoders is opened for a chunk. `pixels`: the format it is given;
    `frame_rate`: what it is told."""

    encoder: str
    pixels: str
    frame_rate: Fraction
    threads: int
    options: dict[str, str]


class PyAvEncoder:
    """A ChunkEncoder. Opens a fresh encoder for each chunk.

    So a chunk depends on its own frames only. Opening costs 3 to 18 ms of the 950 ms of CPU that 32
    frames of 1080p take; flushing and reusing one would carry rate control's state over.

    `threads` are frame threads, which cost less size and time than slices.
    """

    memory: Memory = "host"
    session: SessionNeed | None = None

    def __init__(self, threads: int = 1, *, vector_code: bool = True) -> None:
        """`vector_code` False: without hand-written assembly, three to five times slower, and out
        of reach of its bugs."""
        self._threads = threads
        self._vector_code = vector_code

    def name_for(self, codec: Codec) -> str:
        """See ChunkEncoder."""
        return f"pyav-{_ENCODERS[codec]}" + ("" if self._vector_code else "-plain")

    def refusal(self, output: OutputPlan) -> EngineError | None:  # noqa: ARG002
        """See ChunkEncoder: software has no hardware to lack."""
        return None

    def encode(
        self,
        frames: Iterable[Frame],
        layout: FrameLayout,
        output: OutputPlan,
        path: Path,
        rate: RateControl = QUALITY,
    ) -> ChunkInfo:
        """See ChunkEncoder."""
        check_size(layout, output)
        recipe = self._recipe(layout, output, rate)

        def encoded(context: VideoCodecContext) -> list[Packet[VideoStream]]:
            _set_up(context, output, recipe)
            try:
                self._open(context)
            except (OSError, av.FFmpegError, ValueError) as error:
                raise _refused(recipe.encoder, output, rate) from error
            return self._packets(context, frames, layout, output)

        def make(out: OutputContainer) -> tuple[VideoStream, list[Packet[VideoStream]]]:
            if output.codec is Codec.AV1:
                return _encoded_apart(out, output, recipe, encoded)
            try:
                stream = out.add_stream(cast(_Encoder, recipe.encoder), rate=recipe.frame_rate)
            except ValueError as error:  # of PyAV, for one it was built without
                raise EngineError(f"This FFmpeg has no {recipe.encoder}.") from error
            stream.time_base = Fraction(*output.time_base)
            packets = encoded(stream.codec_context)
            return stream, [_without_settings(stream, packets[0]), *packets[1:]]

        return info_of(write_chunk(path, Fraction(*output.time_base), make), path)

    def _recipe(self, layout: FrameLayout, output: OutputPlan, rate: RateControl) -> Recipe:
        native_nv12 = layout.format is PixelFormat.NV12 and output.codec is Codec.H264
        is_av1 = output.codec is Codec.AV1
        threads = encoder_threads(rate, self._threads)
        return Recipe(
            _ENCODERS[output.codec],
            "nv12" if native_nv12 else "yuv420p",
            Fraction(*(av1_frame_rate(output.frame_rate) if is_av1 else output.frame_rate)),
            threads,
            encoder_options(output, rate, threads=threads, vector_code=self._vector_code),
        )

    def _open(self, context: VideoCodecContext) -> None:
        if context.name == "libsvtav1":
            open_svt(context)
        else:
            context.open()

    def _encode(
        self, context: VideoCodecContext, frame: VideoFrame | None
    ) -> list[Packet[VideoStream]]:
        return context.encode(frame)

    def _packets(
        self,
        context: VideoCodecContext,
        frames: Iterable[Frame],
        layout: FrameLayout,
        output: OutputPlan,
    ) -> list[Packet[VideoStream]]:
        """Encode all `frames`."""
        packets: list[Packet[VideoStream]] = []
        for pts, planes in in_order(frames):
            picture = _frame(pts, planes, layout, output, context.pix_fmt or "")
            packets += self._encode(context, picture)
        return packets + self._encode(context, None)


def _encoded_apart(
    out: OutputContainer,
    output: OutputPlan,
    recipe: Recipe,
    encoded: Callable[[VideoCodecContext], list[Packet[VideoStream]]],
) -> tuple[VideoStream, list[Packet[VideoStream]]]:
    """The same by an encoder that is no stream's.

    A container and its streams refer to each other, so an encoder in there goes when the garbage is
    collected next. SVT-AV1 has 16 threads and 250 MB at 1080p, this one only until it is done. The
    sequence header is that of the key frame: before encoding the encoder does not know it, and the
    one it gives then is another.
    """
    context = CodecContext.create(cast(_Encoder, recipe.encoder), "w")
    context.framerate = recipe.frame_rate
    packets = encoded(context)
    return described_stream(out, bytes(packets[0]), "obu", output), packets


def _set_up(context: VideoCodecContext, output: OutputPlan, recipe: Recipe) -> None:
    """Tell an encoder all but its frame rate."""
    context.width, context.height = output.width, output.height
    context.pix_fmt = recipe.pixels
    context.time_base = Fraction(*output.time_base)
    context.sample_aspect_ratio = Fraction(1)
    _tag(context, output.color)
    context.thread_type = ThreadType.FRAME
    context.thread_count = recipe.threads
    context.options = recipe.options


def _refused(name: str, output: OutputPlan, rate: RateControl) -> PermanentError:
    quality = rate.mode is RateMode.QUALITY
    chosen = f"crf {output.crf}" if quality else f"{rate.peak_kbps} kbit/s"
    return PermanentError(
        ErrorCode.BAD_OPTION,
        f"{name} does not take {output.width}x{output.height} px with preset"
        f" {output.preset!r} and {chosen}; choose others.",
    )


def _tag(target: VideoCodecContext | VideoFrame, color: ColorTags) -> None:
    target.color_range = FULL_RANGE if color.full_range else LIMITED_RANGE
    target.color_primaries = color.primaries
    target.color_trc = color.transfer
    target.colorspace = color.matrix


def _frame(
    pts: int, planes: Planes, layout: FrameLayout, output: OutputPlan, pixels: str
) -> VideoFrame:
    """The planes as a frame of the format `pixels`, without copying them where they are.

    x264, x265, SVT-AV1 and NVENC copy a frame's pixels before encode() returns, so the arena's
    memory is not referred to afterwards. None needs aligned rows.
    """
    # DLPack has no read-only arrays before version 1, which PyAV does not speak: then copy
    lent = tuple(plane if plane.flags.writeable else plane.copy() for plane in planes)
    if layout.format is PixelFormat.NV12:
        y, uv = lent
        pairs = uv.reshape(layout.chroma_height, layout.chroma_width, 2)
        frame = VideoFrame.from_dlpack((y, pairs), format="nv12")
        if pixels != "nv12":
            frame = frame.reformat(format=pixels)
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
