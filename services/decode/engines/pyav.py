"""Software decoding by FFmpeg's threads, through PyAV."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
from av.codec.context import CodecContext, Flags, ThreadType
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from services.decode.engines.base import DecodeReport, Frames
from services.decode.engines.picture import PictureWriter
from services.decode.engines.times import timed
from services.decode.packets import PacketFile, StreamHeader
from shared.cuda.memory import Memory
from shared.errors import ErrorCode, PermanentError
from shared.jobs import Segment, SourceInfo
from shared.media.bounds import memory_at_most
from shared.media.layout import Planes
from shared.sessions import SessionNeed
from shared.settings import SourceLimits

# Room for pictures that grow in mid-stream, whatever the size of the first.
_SMALL_PIXELS = 1 << 22


@dataclass(frozen=True, slots=True)
class PyAvFrame:
    """A frame in the decoder's memory; holding it keeps one of its buffers."""

    pts: int
    corrupt: bool
    picture: VideoFrame
    writer: PictureWriter

    def write_to(self, planes: Planes) -> None:
        """See `DecodedFrame.write_to`."""
        try:
            self.writer.write(self.picture, planes)
        except (av.error.FFmpegError, ValueError, cv2.error) as error:
            picture = self.picture
            raise PermanentError(
                ErrorCode.UNSUPPORTED_CODEC,
                f"Pictures of {picture.width}x{picture.height} as {picture.format.name} can't be "
                "converted: convert the video to H.264 first.",
            ) from error


class PyAvDecoder:
    """The decoder of last resort: every codec, no device. `threads` 0 means one per core."""

    name = "pyav"
    memory: Memory = "host"
    session: SessionNeed | None = None

    def __init__(self, threads: int = 0, limits: SourceLimits | None = None) -> None:
        self._threads = threads
        self._limits = limits or SourceLimits.load()
        self.report = DecodeReport()

    def decode(self, path: Path, segment: Segment, source: SourceInfo) -> Frames:
        """See `SegmentDecoder.decode`."""
        report = self.report = DecodeReport(expected=segment.frames)
        writer = PictureWriter(source)
        with PacketFile(path) as packets, memory_at_most(self._limits.memory_mib):
            pictures = self._fit(self._pictures(packets, source), source)
            for pts, frame in timed(pictures, packets.entries, segment, source, report):
                report.concealed += frame.is_corrupt
                yield PyAvFrame(pts, frame.is_corrupt, frame, writer)

    def _fit(
        self, frames: Iterator[VideoFrame], source: SourceInfo
    ) -> Iterator[tuple[int | None, VideoFrame | None]]:
        """The frames and the numbers of their packets, those of a forbidden size left out."""
        for frame in frames:
            large = self._too_large(frame, source)
            self.report.failed_packets += large
            yield frame.pts, None if large else frame

    def _most_pixels(self, source: SourceInfo) -> int:
        """A later parameter set may name any size: twice the source's is room for real changes."""
        usual = max(_SMALL_PIXELS, 4 * source.width * source.height)
        return min(usual, self._limits.pixels)

    def _too_large(self, frame: VideoFrame, source: SourceInfo) -> bool:
        """Beyond what the decoder was told; not all keep to it."""
        sides = frame.width, frame.height
        return sides[0] * sides[1] > self._most_pixels(source) or max(sides) > self._limits.side_px

    def _pictures(self, packets: PacketFile, source: SourceInfo) -> Iterator[VideoFrame]:
        """Every frame of the file, with the number of its packet as `pts`.

        With frame threads an error while the decoder drains loses what it still held. Then the
        file is decoded again without them, where errors come before draining, for that rest.
        """
        context = self._open(packets.header, source, ThreadType.AUTO)
        count, last = 0, None
        for frame in _decoded(packets, context, self.report):
            count += 1
            last = frame.pts
            yield frame
        if self.report.failed_packets == 0 or count >= len(packets.entries):
            return
        again = self._open(packets.header, source, ThreadType.SLICE)
        behind = last is None
        for frame in _decoded(packets, again, DecodeReport()):
            if behind:
                yield frame
            behind = behind or frame.pts == last

    def _open(
        self, header: StreamHeader, source: SourceInfo, threading: ThreadType
    ) -> VideoCodecContext:
        try:
            context = CodecContext.create(header.decoder, "r")
        except (ValueError, av.error.FFmpegError) as error:
            raise PermanentError(
                ErrorCode.UNSUPPORTED_CODEC,
                f"There is no decoder for {header.codec} here: convert the video to H.264 first.",
            ) from error
        assert isinstance(context, VideoCodecContext)
        header.apply(context)
        context.thread_type = threading
        context.thread_count = self._threads
        # Concealed frames are shown: one that is missing would shift nothing but be seen.
        context.flags |= Flags.output_corrupt
        context.options = {"max_pixels": str(self._most_pixels(source))}
        return context


def _decoded(
    packets: PacketFile, context: VideoCodecContext, report: DecodeReport
) -> Iterator[VideoFrame]:
    """Frames in display order, with the number of their packet as `pts`.

    Numbers, as the source's own times may be missing, repeated or shared with hidden packets.
    """
    for index in range(len(packets.entries)):
        packet = packets.packet(index)
        packet.pts = index
        try:
            yield from context.decode(packet)
        except (av.error.FFmpegError, ValueError):
            report.failed_packets += 1
    try:
        yield from context.decode(None)
    except (av.error.FFmpegError, ValueError):
        report.failed_packets += 1
