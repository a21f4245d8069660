"""Sends work that is due: splits, segments in fair order, muxes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

from services.coordinator.arenas import Arenas
from services.coordinator.plan import arena_of
from shared.arena.base import ArenaDescriptor
from shared.errors import ErrorCode
from shared.messages import MuxMessage, SegmentMessage, SplitMessage
from shared.runtime import Runtime, queue_of
from shared.settings import MIB

AT_ONCE = 64
"""Messages taken from the ledger in one call: bounds how long Redis is busy with it (a ms)."""
MEND_EVERY_S = 5.0
MENDED_AT_ONCE = 100


class Dispatcher:
    """Keeps no state that a successor needs: what is due, and who is next, is in the ledger.

    What a step costs does not depend on how many jobs and segments wait.
    """

    def __init__(self, runtime: Runtime, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: seconds, monotonic."""
        self._runtime = runtime
        self._clock = clock
        self.arenas = Arenas(runtime.redis, clock)
        self._resumed = False
        self._due: deque[SplitMessage | MuxMessage | SegmentMessage] = deque()
        """Taken from the ledger, not yet by the broker: it was away."""
        self._mended_s = clock() - MEND_EVERY_S
        self._mend_from = 0

    def step(self) -> None:
        """Send everything that may go now."""
        self._mend()
        arenas = self.arenas.look()
        self._resume()
        while self._send_due(arenas) == AT_ONCE:
            pass

    def send_split(self, job: str, *, again: bool = False) -> None:
        """Have the job's source split; with `again` only if its turn had come before."""
        if not again or self._runtime.ledger.admitted(job):
            self._runtime.outbox.send("decode.split", SplitMessage(job=job), "split")

    def send_mux(self, job: str, *, again: bool = False) -> None:  # noqa: ARG002 - like send_split
        """Have the job's result made."""
        self._runtime.outbox.send("encode.mux", MuxMessage(job=job), "mux")

    def _send_due(self, arenas: Sequence[ArenaDescriptor]) -> int:
        """One slice of what is due, or the rest of one; how many were sent. A message lost with
        this process between the ledger and the broker is sent by a successor (`_resume`) or, a
        segment, when nobody took it up in time."""
        if not self._due:
            self._due.extend(self._take_due(len(arenas)))
        count = 0
        while self._due:
            message = self._due[0]
            if not isinstance(message, SegmentMessage):
                self._send_of_job(message)
            elif arenas:
                self._send_segment(message, arenas)
            else:
                break  # the last one went meanwhile
            self._due.popleft()
            count += 1
        return count

    def _take_due(self, arenas: int) -> list[SplitMessage | MuxMessage | SegmentMessage]:
        settings = self._runtime.settings
        return self._runtime.ledger.due(
            decoders=settings.max_concurrent_streams * arenas,
            per_job=settings.segments_in_flight,
            # A decode worker has one child more than decoders.
            splits=max(1, arenas),
            ahead=settings.jobs_ahead,
            count=AT_ONCE,
        )

    def _send_segment(self, message: SegmentMessage, arenas: Sequence[ArenaDescriptor]) -> None:
        """To an arena whose slots hold the job's batches. The job was cut to fit all that there
        were; when none is left that it fits, it ends."""
        job, needed = message.job, self._runtime.ledger.slot_bytes(message.job)
        fitting = [arena for arena in arenas if arena.slot_bytes >= needed]
        if not fitting:
            self._runtime.ledger.fail(job, ErrorCode.NO_SPACE, _too_small(needed, arenas))
            return
        arena = fitting[arena_of(job, message.segment.index, len(fitting))]
        self._runtime.outbox.send("decode.segment", message, queue_of("decode", arena.name))

    def _send_of_job(self, message: SplitMessage | MuxMessage) -> None:
        if isinstance(message, SplitMessage):
            self.send_split(message.job)
        else:
            self.send_mux(message.job)

    def _resume(self) -> None:
        """Once: what a predecessor may have died over. Twins are harmless."""
        if not self._resumed:
            for message in self._runtime.ledger.unclaimed():
                self._send_of_job(message)
            self._resumed = True

    def _mend(self) -> None:
        """A slow round over all live jobs, for what an older release wrote without indexes."""
        now = self._clock()
        if now - self._mended_s < MEND_EVERY_S:
            return
        self._mended_s = now
        looked = self._runtime.ledger.mend(self._mend_from, MENDED_AT_ONCE)
        self._mend_from = 0 if looked < MENDED_AT_ONCE else self._mend_from + MENDED_AT_ONCE


def _too_small(needed: int, arenas: Sequence[ArenaDescriptor]) -> str:
    have = max(arena.slot_bytes for arena in arenas)
    return (
        f"The job was begun where a batch of frames may have {-(-needed // MIB)} MiB; now the most "
        f"is {have // MIB} MiB. Set DUALFACE_ARENA_MIB (or slots and streams) as it was, or submit "
        "it again: it then begins anew with what there is."
    )
