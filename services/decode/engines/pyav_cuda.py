"""NVDEC through FFmpeg: frames come back to the host. For GPUs on which PyNvVideoCodec fails."""

from __future__ import annotations

from collections.abc import Iterator

import av
from av.codec.codec import Codec
from av.codec.context import CodecContext, Flags, ThreadType
from av.codec.hwaccel import HWAccel
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from services.decode.engines.pyav import PyAvDecoder
from services.decode.packets import PacketFile, StreamHeader
from shared.cuda.device import Device
from shared.errors import EngineError
from shared.jobs import SourceInfo
from shared.sessions import SessionKind, SessionNeed
from shared.settings import SourceLimits


class PyAvCudaDecoder(PyAvDecoder):
    """A SegmentDecoder. Opens a session for each segment, and keeps none."""

    name = "pyav-cuda"

    def __init__(self, device: Device, limits: SourceLimits | None = None) -> None:
        """`device`: the one that this process sees; FFmpeg opens a context of its own on it."""
        super().__init__(threads=1, limits=limits)
        self.session = SessionNeed(SessionKind.NVDEC, device.uuid, _nothing_is_kept)

    def _pictures(self, packets: PacketFile, source: SourceInfo) -> Iterator[VideoFrame]:
        """As the base's, but that errors before the first frame say that the GPU can't."""
        context = self._open(packets.header, source, ThreadType.NONE)
        begun = False
        for number in [*range(len(packets.entries)), None]:
            packet = None
            if number is not None:
                packet = packets.packet(number)
                packet.pts = number
            try:
                frames = context.decode(packet)
            except (av.error.FFmpegError, ValueError) as error:
                # What FFmpeg calls external is the driver's; the rest is a damaged packet.
                if not begun or isinstance(error, av.error.ExternalError):
                    raise EngineError(f"NVDEC through FFmpeg: {error}", begun) from error
                self.report.failed_packets += 1
                continue
            for frame in frames:
                begun = True
                yield frame

    def _open(
        self, header: StreamHeader, source: SourceInfo, threading: ThreadType
    ) -> VideoCodecContext:
        """Raises EngineError without a GPU, or when NVDEC has no such codec."""
        # FFmpeg's own decoder, which may be another than the one that is best in software.
        try:
            codec = Codec(header.codec, "r")
            hardware = HWAccel("cuda", device="0", allow_software_fallback=False)
            context = CodecContext.create(codec, "r", hardware)
        except (ValueError, av.error.FFmpegError) as error:
            raise EngineError(f"FFmpeg can't use CUDA here: {error}") from error
        assert isinstance(context, VideoCodecContext)
        if not context.is_hwaccel:
            raise EngineError(f"FFmpeg has no NVDEC decoder for {header.codec}.")
        device_format = context.pix_fmt
        header.apply(context)
        context.pix_fmt = device_format
        context.thread_type, context.thread_count = threading, self._threads
        context.flags |= Flags.output_corrupt
        context.options = {"max_pixels": str(self._most_pixels(source))}
        return context


def _nothing_is_kept() -> None:
    """A session ends with its segment."""
