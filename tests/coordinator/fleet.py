"""Workers that do nothing but tell the ledger, behind the real dispatcher."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from services.coordinator.dispatch import Dispatcher
from shared.arena.base import ArenaDescriptor
from shared.arena.registry import ArenaRegistry
from shared.ledger import JobResult, Ledger, Losses
from shared.messages import Message, SegmentMessage
from shared.names import result_key
from shared.runtime import Runtime
from tests.builders import job_spec, output_plan, segment, source_info

ARENA = ArenaDescriptor(
    name="cpu0", generation="g", path="/nowhere", slot_bytes=4096, decoded=3, composed=2
)


@dataclass
class Fleet:
    """Takes what the dispatcher sends; `work` does it at once. Sources have `lengths` segments."""

    ledger: Ledger
    lengths: dict[str, int] = field(default_factory=dict)
    pending: deque[tuple[str, Message]] = field(default_factory=deque)
    splits: list[str] = field(default_factory=list)
    served: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)

    def send(self, task: str, message: Message, queue: str) -> None:  # noqa: ARG002
        """The outbox of the dispatcher."""
        self.pending.append((task, message))

    def submit(self, job: str, segments: int, priority: int = 5) -> None:
        """A job whose source has that many segments."""
        self.lengths[job] = segments
        self.ledger.submit(job, job_spec(priority=priority))

    def work(self) -> None:
        """Do what was sent, up to and including one segment."""
        while self.pending:
            task, message = self.pending.popleft()
            if task == "decode.split":
                self._split(message.job)
            elif task == "encode.mux":
                self._mux(message.job)
            elif isinstance(message, SegmentMessage):
                self._decode(message)
                return

    def _split(self, job: str) -> None:
        if not self.ledger.take(job, "split", "w"):
            return
        self.splits.append(job)
        self.ledger.put_facts(job, source_info(), output_plan(), 8)
        for index in range(self.lengths[job]):
            self.ledger.add_segment(job, segment(index))
        self.ledger.split_done(job, self.lengths[job], 10 * self.lengths[job])
        self.ledger.let_go(job, "split", "w")

    def _decode(self, message: SegmentMessage) -> None:
        job, index = message.job, message.segment.index
        if self.ledger.take(job, message.item, "w"):
            self.served.append(job)
            self.ledger.segment_done(job, index, message.attempt, 0, Losses(0, 0, 0, 0))

    def _mux(self, job: str) -> None:
        if self.ledger.take(job, "mux", "w"):
            self.ended.append(job)
            self.ledger.finish(job, JobResult(key=result_key(job, "mp4"), frames=1))


def fleet_of(made: Runtime, arenas: int = 1) -> tuple[Fleet, Dispatcher, Runtime]:
    """A fleet of `arenas` arenas with one decoder each, its dispatcher, and that one's runtime."""
    for number in range(arenas):
        ArenaRegistry(made.redis).publish(ARENA.model_copy(update={"name": f"cpu{number}"}))
    fleet = Fleet(made.ledger)
    behind = replace(made, outbox=fleet)
    return fleet, Dispatcher(behind), behind


def run(fleet: Fleet, dispatcher: Dispatcher, until: Callable[[], bool], most: int = 5000) -> None:
    """Step and work by turns. Fails after `most` turns."""
    for _ in range(most):
        if until():
            return
        dispatcher.step()
        fleet.work()
    raise AssertionError(f"not within {most} turns")
