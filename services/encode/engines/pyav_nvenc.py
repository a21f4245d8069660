"""NVENC through FFmpeg, from frames in the host's memory: for where PyNvVideoCodec fails."""

from __future__ import annotations

from fractions import Fraction

import av
import av.logging
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from services.encode.engines.pyav import PyAvEncoder, Recipe
from services.encode.plan import RateControl, ffmpeg_nvenc_options, nvenc_plan
from shared.cuda.device import Device
from shared.errors import EngineBusyError, EngineError, ErrorCode
from shared.jobs import Codec, OutputPlan
from shared.media.layout import FrameLayout, PixelFormat
from shared.sessions import SessionKind, SessionNeed

_ENCODERS = {Codec.H264: "h264_nvenc", Codec.HEVC: "hevc_nvenc"}
_BUSY = ("out of memory (10)", "incompatible client key (21)")
"""In FFmpeg's log, when as many sessions are open as the GPU may have; its error is the same as
without any encoder."""
_NEVER = (
    "Cannot load ",
    "does not support the required nvenc API",
    "No CUDA capable devices",
    "CUDA_ERROR_NO_DEVICE",
    "no encode device (1)",
    "unsupported device (2)",
)
"""In FFmpeg's log, where a library, its version or the hardware is missing: so for every chunk."""


class PyAvNvencEncoder(PyAvEncoder):
    """A ChunkEncoder. Opens a fresh encoder, and so a session, for each chunk."""

    def __init__(self, device: Device, preset: str = "p4") -> None:
        """`device`: the one that this process sees; FFmpeg opens a context of its own on it.
        `preset` of the settings, `p1` to `p7`."""
        super().__init__(threads=1)
        self._preset = preset
        self._refused: dict[str, str] = {}
        self.session = SessionNeed(SessionKind.NVENC, device.uuid, _nothing_is_kept)

    def name_for(self, codec: Codec) -> str:
        """See ChunkEncoder."""
        return f"pyav-{_ENCODERS.get(codec, 'nvenc')}"

    def refusal(self, output: OutputPlan) -> EngineError | None:
        """See ChunkEncoder."""
        encoder = _ENCODERS.get(output.codec)
        if encoder is None:
            return EngineError(f"NVENC is not used for {output.codec.value}.")
        refused = self._refused.get(encoder)
        return None if refused is None else EngineError(refused)

    def _recipe(self, layout: FrameLayout, output: OutputPlan, rate: RateControl) -> Recipe:
        if (known := self.refusal(output)) is not None:
            raise known
        return Recipe(
            _ENCODERS[output.codec],
            "nv12" if layout.format is PixelFormat.NV12 else "yuv420p",
            Fraction(*output.frame_rate),
            1,
            ffmpeg_nvenc_options(nvenc_plan(output, rate, self._preset)),
        )

    def _open(self, context: VideoCodecContext) -> None:
        before = av.logging.get_level()
        av.logging.set_level(av.logging.ERROR)
        try:
            with av.logging.Capture() as said:
                context.open()
        except (OSError, av.FFmpegError, ValueError) as error:
            lines = " ".join(line.strip() for _, _, line in said)
            text = f"{context.name}: {lines or error}"
            if any(mark in text for mark in _BUSY):
                raise EngineBusyError(ErrorCode.BUSY, text) from error
            if any(mark in text for mark in _NEVER):
                self._refused[context.name] = text
            raise EngineError(text) from error
        finally:
            av.logging.set_level(before)

    def _encode(
        self, context: VideoCodecContext, frame: VideoFrame | None
    ) -> list[Packet[VideoStream]]:
        try:
            return super()._encode(context, frame)
        except (OSError, av.FFmpegError) as error:
            raise EngineError(f"{context.name}: {error}", True) from error


def _nothing_is_kept() -> None:
    """A session ends with its chunk."""
