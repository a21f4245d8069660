"""What a decoder of segments is to the stage, whichever device it runs on."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from shared.cuda.memory import Memory
from shared.jobs import Segment, SourceInfo
from shared.media.layout import Planes
from shared.sessions import SessionNeed


class DecodedFrame(Protocol):
    """One frame, valid until the next one is taken from the decoder."""

    @property
    def pts(self) -> int:
        """Ticks of the source's time base; strictly ascending within and across segments."""

    @property
    def corrupt(self) -> bool:
        """True when the decoder concealed damage in it."""

    def write_to(self, planes: Planes) -> None:
        """Write the upright frame into `planes`, of the source's upright size, 8-bit I420 (three
        planes) or NV12 (two), in the memory that the decoder's `memory` says.

        The samples' range and matrix are those of `SourceInfo.color`. `planes` stay the caller's.
        On a device the work may still be on its stream when this returns.
        """


@dataclass
class DecodeReport:
    """What came of one segment; complete when the decoder's iterator has ended."""

    expected: int = 0
    """Frames the segment owns by its packets."""

    shown: int = 0
    """Frames given out."""

    failed_packets: int = 0
    """Packets the decoder refused."""

    concealed: int = 0
    """Frames given out with concealed damage."""

    repaired: int = 0
    """Frames given out at another time than the source says, as that was taken or missing."""

    no_room: int = 0
    """Frames left out as there was no free tick of the time base for them."""

    @property
    def lost(self) -> int:
        """Frames that the segment should have had and that were not given out."""
        return max(0, self.expected - self.shown)


Frames: TypeAlias = Generator[DecodedFrame, None, None]
"""Frames of a segment; to be closed by who does not run it to its end."""


class SegmentDecoder(Protocol):
    """Decodes segments, one at a time; not thread-safe, kept by a worker between segments."""

    @property
    def name(self) -> str:
        """For logs and metrics."""

    @property
    def memory(self) -> Memory:
        """Where `write_to` wants its planes. A device's are NV12."""

    @property
    def session(self) -> SessionNeed | None:
        """The session of the hardware that `decode` opens, and may leave open; None for software.

        `decode` is called, and its iterator run to the end, while the right to it is held.
        """

    @property
    def report(self) -> DecodeReport:
        """Of the segment that was decoded last, or is being decoded."""

    def decode(self, path: Path, segment: Segment, source: SourceInfo) -> Frames:
        """The frames that `segment` owns, each once, in display order.

        Blocks on reading and decoding only. A repeat gives the same frames and times. Damaged
        packets are skipped and counted. Raises PermanentError when nothing at all decodes, or
        when the segment's file is damaged; closing the iterator early frees the decoder.
        """
