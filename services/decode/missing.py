"""Which frames of a segment are missing, told from its packets alone: nothing is decoded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from services.decode.packets import PacketFile
from shared.jobs import Segment, SourceInfo
from shared.media.timestamps import generated_pts


def shown_times(path: Path, segment: Segment, source: SourceInfo) -> list[int]:
    """Times at which the segment's frames should be shown, ascending, in source ticks.

    As its packets say: those without a time, whose place only a decoder knows, are left out.
    """
    with PacketFile(path) as packets:
        entries = [entry for entry in packets.entries if entry.shown]
    if source.generated_times:
        return [
            generated_pts(index, source.frame_rate, source.time_base)
            for index in range(len(entries))
        ]
    first, end = segment.first_pts, segment.end_pts
    times = {entry.pts for entry in entries if entry.pts is not None}
    return sorted(
        pts for pts in times if (first is None or pts >= first) and (end is None or pts < end)
    )


def missing_batches(
    times: Sequence[int],
    known: Mapping[int, Sequence[int]],
    length_of: Callable[[int], int],
) -> dict[int, tuple[int, ...]]:
    """Batches that are not `known` (number -> times), with the times that are left for them.

    `times` are all of the segment, ascending; a batch gets at most `length_of` its number, and none
    that lies behind the next known batch's first. A known batch may have other times than those
    told by packets: what it shows counts, nothing is shown twice.
    """
    found: dict[int, tuple[int, ...]] = {}
    at, batch = 0, 0
    while at < len(times) or batch <= max(known, default=-1):
        if batch in known:
            while at < len(times) and times[at] <= known[batch][-1]:
                at += 1
        else:
            ends = [known[later][0] for later in known if later > batch]
            limit = min(ends, default=None)
            free = [t for t in times[at : at + length_of(batch)] if limit is None or t < limit]
            at += len(free)
            if free:
                found[batch] = tuple(free)
        batch += 1
    return found
