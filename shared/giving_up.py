"""What becomes of work that fails every time: its frames show the last good one, or the job fails.

A batch that crashes each process that touches it must not take the whole video with it, nor come
back for ever. Every engine of its stage has had its tries by then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from shared.errors import ErrorCode, PermanentError, SpentError
from shared.jobs import SourceInfo
from shared.messages import BatchMessage, ReplaceMessage
from shared.metrics.catalogue import GIVEN_UP
from shared.runtime import Runtime

T = TypeVar("T")

_SURROUNDINGS = frozenset({ErrorCode.NO_SPACE, ErrorCode.BUSY, ErrorCode.MODEL_MISSING})
"""Not the frames' fault: other frames would fare no better."""

MOST_RANGES = 8


def engine_of(chain: Sequence[T], tries: int, most: int) -> T:
    """Whose turn it is at the `tries`-th try (from 1) of `most`: each engine gets an equal share,
    in the order of preference."""
    return chain[min((tries - 1) * len(chain) // most, len(chain) - 1)]


def give_up_batch(runtime: Runtime, message: BatchMessage, error: SpentError) -> None:
    """Replace the batch; its slot is given back. Raises PermanentError as `give_up`."""
    runtime.meter.count(GIVEN_UP, stage=runtime.meter.stage)
    give_up(runtime, message.job, message.segment, message.batch, message.pts, error)
    runtime.release(message.slot)


def give_up(
    runtime: Runtime, job: str, segment: int, batch: int, pts: Sequence[int], error: SpentError
) -> None:
    """Have the frames at `pts` show the last good one before them. Idempotent.

    Raises PermanentError when the surroundings are to blame, or when more frames than
    `replaced_share` of the job would be replaced: FRAMES_FAILED, naming them.
    """
    if error.code in _SURROUNDINGS:
        raise error
    ledger = runtime.ledger
    message = ReplaceMessage(
        job=job, segment=segment, batch=batch, pts=tuple(pts), why=error.message[:500]
    )
    parked = ledger.replace(message)
    if parked is not None:
        runtime.send_batch(parked, "compose")
    given_up = ledger.replaced(job)
    frames = sum(len(each.pts) for each in given_up)
    expected = ledger.counter(job, "frames_expected")
    if frames > runtime.settings.replaced_share * expected:
        source = ledger.facts(job).source
        raise PermanentError(
            ErrorCode.FRAMES_FAILED,
            f"{frames} of {expected} frames could not be made: {where(given_up, source)}. "
            f"{error.message}",
        )


def where(given_up: Sequence[ReplaceMessage], source: SourceInfo) -> str:
    """Which frames, for people: ranges of time, neighbours as one. `given_up` in display order."""
    ranges: list[list[int]] = []
    # A frame and a half: the next one, whatever the time base rounds.
    near = 1.5 * source.frame_rate[1] / source.frame_rate[0]
    for each in given_up:
        if ranges and (each.pts[0] - ranges[-1][1]) * source.tick_s <= near:
            ranges[-1][1], ranges[-1][2] = each.pts[-1], ranges[-1][2] + len(each.pts)
        else:
            ranges.append([each.pts[0], each.pts[-1], len(each.pts)])
    texts = [
        f"{count} from {float(first * source.tick_s):.2f} s to {float(last * source.tick_s):.2f} s"
        for first, last, count in ranges[:MOST_RANGES]
    ]
    more = len(ranges) - len(texts)
    return ", ".join(texts) + (f" and {more} more places" if more > 0 else "")
