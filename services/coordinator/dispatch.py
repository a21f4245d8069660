"""Sends work that is due: splits, segments in fair order, muxes."""

from __future__ import annotations

from collections.abc import Sequence

from services.coordinator.plan import FairShare
from shared.arena.base import ArenaDescriptor
from shared.arena.registry import ArenaRegistry
from shared.jobs import JobState
from shared.messages import MuxMessage, SegmentMessage, SplitMessage
from shared.runtime import Runtime, queue_of


class Dispatcher:
    """Keeps no state that a successor needs: what is out is in the ledger."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._registry = ArenaRegistry(runtime.redis)
        self._fair = FairShare()
        self._sent: set[tuple[str, str]] = set()

    def step(self) -> None:
        """Send everything that may go now."""
        ledger = self._runtime.ledger
        jobs = ledger.live()
        self._sent = {entry for entry in self._sent if entry[0] in jobs}
        weights: dict[str, int] = {}
        for job in jobs:
            state = ledger.state(job)
            if state is JobState.QUEUED:
                self.send_split(job)
            elif state is JobState.MUXING:
                self.send_mux(job)
            elif state in (JobState.SPLITTING, JobState.RUNNING):
                weights[job] = ledger.spec(job).priority
        self._dispatch_segments(weights)

    def send_split(self, job: str, *, again: bool = False) -> None:
        """Have the job's source split, once unless `again`."""
        if again or self._once(job, "split"):
            self._runtime.outbox.send("decode.split", SplitMessage(job=job), "split")

    def send_mux(self, job: str, *, again: bool = False) -> None:
        """Have the job's result made, once unless `again`."""
        if again or self._once(job, "mux"):
            self._runtime.outbox.send("encode.mux", MuxMessage(job=job), "mux")

    def _once(self, job: str, what: str) -> bool:
        new = (job, what) not in self._sent
        self._sent.add((job, what))
        return new

    def _dispatch_segments(self, weights: dict[str, int]) -> None:
        ledger, settings = self._runtime.ledger, self._runtime.settings
        arenas = self._registry.all()
        busy = sum(len(ledger.running(job)) for job in weights)
        room = settings.decode_workers * len(arenas) - busy
        while room > 0:
            taken = next(
                (job for job in self._fair.order(weights) if self._send_next(job, arenas)), None
            )
            if taken is None:
                return
            self._fair.charge(taken, weights[taken])
            room -= 1

    def _send_next(self, job: str, arenas: Sequence[ArenaDescriptor]) -> bool:
        ledger, settings = self._runtime.ledger, self._runtime.settings
        taken = ledger.take_segment(job, settings.segments_in_flight)
        if taken is None:
            return False
        segment, attempt = taken
        message = SegmentMessage(
            job=job, segment=segment, batch_frames=ledger.batch_frames(job), attempt=attempt
        )
        # Round robin over the arenas, each job from another one on: the fleet is uniform.
        arena = arenas[(hash_of(job) + segment.index) % len(arenas)]
        self._runtime.outbox.send("decode.segment", message, queue_of("decode", arena.name))
        return True


def hash_of(job: str) -> int:
    """A number that is the same in every process (str.__hash__ is not)."""
    return sum(job.encode())
