"""The times of a segment's frames, the same whichever engine decodes it.

Decoders are given packets by their number in the segment's file and say it of each frame: the
source's own times may be missing, repeated or shared with hidden packets.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import TypeVar

from services.decode.engines.base import DecodeReport
from services.decode.packets import PacketEntry
from shared.errors import ErrorCode, PermanentError
from shared.jobs import Segment, SourceInfo
from shared.media.timestamps import between, frame_ticks, generated_pts

_FRAMES_PER_PACKET = 4
"""A packet gives one picture, as a rule; some hold a few."""

P = TypeVar("P")


def timed(
    pictures: Iterable[tuple[int | None, P | None]],
    entries: tuple[PacketEntry, ...],
    segment: Segment,
    source: SourceInfo,
    report: DecodeReport,
) -> Iterator[tuple[int, P]]:
    """Of `pictures` (number of its packet, and the picture; None: not fit to be used), in display
    order, those that `segment` owns, with their times in ticks, strictly ascending.

    Counts `shown`, `repaired` and `no_room`. Raises PermanentError TOO_DAMAGED when there are more
    pictures than packets can hold, or none at all.
    """
    times = _Times(entries, segment, source, report)
    most = _FRAMES_PER_PACKET * len(entries) + 64
    anything = False
    for count, (number, picture) in enumerate(pictures):
        if count >= most:
            raise PermanentError(
                ErrorCode.TOO_DAMAGED,
                f"Segment {segment.index} has over {count} frames in {len(entries)} packets: the "
                "source is damaged there, get it again.",
            )
        if picture is None:
            continue
        anything = True
        pts = times.of(number)
        if pts is not None:
            report.shown += 1
            yield pts, picture
    if not anything and any(entry.shown for entry in entries):
        raise PermanentError(
            ErrorCode.TOO_DAMAGED,
            f"No frame of segment {segment.index} can be decoded: the source is damaged there, get "
            "it again.",
        )


class _Times:
    """Gives each frame of one segment its time, or says that it is not to be shown."""

    def __init__(
        self,
        entries: tuple[PacketEntry, ...],
        segment: Segment,
        source: SourceInfo,
        report: DecodeReport,
    ) -> None:
        self._entries = entries
        self._first = segment.first_pts
        self._end = segment.end_pts
        self._source = source
        self._report = report
        self._step = frame_ticks(source.frame_rate, source.time_base)
        self._known = sorted({e.pts for e in entries if e.shown and e.pts is not None})
        self._last: int | None = None
        self._count = 0

    def of(self, number: int | None) -> int | None:
        """Time in ticks of the frame of packet `number`, later than that of the one before; None
        when it isn't shown."""
        entry = self._entries[number] if number is not None else None
        if entry is not None and not entry.shown:
            return None
        if self._source.generated_times:
            self._count += 1
            return generated_pts(self._count - 1, self._source.frame_rate, self._source.time_base)
        pts = entry.pts if entry is not None else None
        if pts is not None and not self._owns(pts):
            return None
        if pts is None or (self._last is not None and pts <= self._last):
            pts = self._repaired()
        if pts is None:
            self._report.no_room += 1
            return None
        self._last = pts
        return pts

    def _owns(self, pts: int) -> bool:
        if self._first is not None and pts < self._first:
            return False
        return self._end is None or pts < self._end

    def _repaired(self) -> int | None:
        """A free tick after the frame before and ahead of the next known time."""
        self._report.repaired += 1
        if self._last is None:
            return self._first if self._first is not None else (self._known or [0])[0]
        place = bisect_right(self._known, self._last)
        following = self._known[place] if place < len(self._known) else self._end
        return between(self._last, following, self._step)
