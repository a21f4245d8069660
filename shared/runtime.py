"""What a stage works with: ledger, leases, store, arenas, and the way to hand work on.

One per process, made after the fork. Stages get it whole and know nothing of Redis or Celery.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from shared.arena.base import Claim, Pool
from shared.arena.registry import ArenaRegistry, MappedArenas
from shared.cuda.memory import Memory
from shared.cuda.own import OwnDevice
from shared.errors import ErrorCode, TemporaryError, WorkOverError
from shared.guard import Guard
from shared.leases import Lease, Leases
from shared.ledger import Ledger
from shared.media.layout import Plane
from shared.messages import BatchMessage, Message, SlotRef
from shared.metrics import Meter
from shared.metrics.catalogue import ENGINE_USES, FALLBACKS
from shared.redisdb import Connection
from shared.sessions import Sessions
from shared.settings import Settings
from shared.storage.base import ObjectStore

STAGE_BEFORE = {"infer": "decode", "compose": "infer", "encode": "compose"}
"""Whose work on a batch is done when it goes on to a stage."""

CLAIM_PATIENCE_S = 10.0
"""Longest wait for a slot's former writer; one that is stopped or hangs is killed before that."""


class Outbox(Protocol):
    """Sends messages to the workers of a queue; returns once the broker has them."""

    def send(self, task: str, message: Message, queue: str) -> None:
        """`task` is `stage.verb`, `queue` the queue of a stage and an arena."""


@dataclass(frozen=True)
class Runtime:
    """The surroundings of a stage in one process. `worker` is its id in ledger and leases."""

    settings: Settings
    worker: str
    redis: Connection
    ledger: Ledger
    leases: Leases
    store: ObjectStore
    arenas: MappedArenas
    outbox: Outbox
    sessions: Sessions
    device: OwnDevice
    guard: Guard = field(default_factory=Guard)
    meter: Meter = field(default_factory=Meter)
    told: set[tuple[str, str]] = field(default_factory=set)
    """Engines that can't do some work here, and why, of which the log has been told."""

    def checkpoint(self, job: str) -> None:
        """Say that the work on `job` gets on; cheap, called for every frame.

        Raises WorkOverError within half a second of the job's end.
        """
        self.guard.on_step()
        self.look(job)

    def look(self, job: str) -> None:
        """Like a checkpoint, where no frame has been worked on: the work waits for something."""
        if self.guard.is_due() and not self.ledger.is_live(job):
            raise WorkOverError(job)

    def hand_on(self, message: BatchMessage, stage: str) -> str:
        """Write down that the batch goes to `stage` of its arena, then send it: "go". Else it is
        not needed any more: "theirs" when another worker has it by now, with the same slots; what
        `Ledger.send` says when nobody has, and its slot was given back."""
        answer = self.ledger.send(message, stage, self.worker)
        if answer == "go":
            self.meter.batch_done(STAGE_BEFORE[stage], len(message.pts))
            self.send_batch(message, stage)
        elif answer != "theirs":
            self.release(message.slot)
        return answer

    def memory_of(self, ref: SlotRef) -> Memory:
        """Where the frames of a slot lie, or lay."""
        arena = self.arenas.of(ref)
        return "host" if arena is None else arena.descriptor.memory

    def serve(self, job: str, stage: str, engine: str, instead: str = "") -> None:
        """Write down which engine takes up work of `stage`, for the job's report and the figures.
        `instead`: why not one before it that should have, if so; of `FALLBACKS`' reasons."""
        self.ledger.note_engine(job, stage, engine)
        self.meter.count(ENGINE_USES, stage=stage, engine=engine)
        if instead:
            self.meter.count(FALLBACKS, stage=stage, reason=instead)

    def send_batch(self, message: BatchMessage, stage: str) -> None:
        """Send a batch that the ledger knows to be bound for `stage`."""
        self.outbox.send(f"{stage}.batch", message, queue_of(stage, message.slot.arena))

    def slot(self, ref: SlotRef) -> Plane | None:
        """The bytes of a slot while its lease is the batch's; None when they are lost."""
        arena = self.arenas.of(ref)
        if arena is None or not self.leases.renew(ref.lease()):
            return None
        return arena.slot(ref.pool, ref.slot)

    def claim(
        self, ref: SlotRef, give_up: Callable[[], bool] = lambda: False
    ) -> tuple[Plane, Claim] | None:
        """The bytes of a slot to write into, as the only one; None when its lease is lost.

        Blocks while another process still writes there, at most CLAIM_PATIENCE_S; then raises
        TemporaryError. The claim is the caller's to release.
        """
        arena = self.arenas.of(ref)
        if arena is None:
            return None
        deadline = time.monotonic() + CLAIM_PATIENCE_S
        while (claim := arena.claim(ref.pool, ref.slot)) is None:
            if time.monotonic() > deadline or give_up():
                raise TemporaryError(
                    ErrorCode.BUSY, f"Somebody still writes into slot {ref.slot} of {ref.arena}."
                )
            time.sleep(0.02)
        # Looked at last: from here on nobody else writes there, whatever becomes of the lease.
        held = False
        try:
            held = self.still_holds(ref)
        finally:
            if not held:  # or Redis is away, say: unreleased it would keep all others out
                claim.release()
        return (arena.slot(ref.pool, ref.slot), claim) if held else None

    def still_holds(self, ref: SlotRef) -> bool:
        """True when nobody else can have written into the slot since it was leased."""
        return self.leases.renew(ref.lease())

    def forget(self, message: BatchMessage) -> bool:
        """The batch's frames are lost: it is decoded again, as are those parked behind it. False
        when it has moved on meanwhile, and nothing is lost. To have taken it up was no try."""
        self.ledger.let_go(message.job, message.item, self.worker, untried=True)
        forgotten = self.ledger.forget_batch(message)
        for each in forgotten:
            self.release(each.slot)
        return bool(forgotten)

    def release(self, ref: SlotRef) -> None:
        """Give the slot back."""
        self.leases.release(ref.lease())


def slot_ref(arena: str, generation: str, pool: Pool, lease: Lease) -> SlotRef:
    """The message's view of a leased slot."""
    return SlotRef(
        arena=arena,
        generation=generation,
        pool=pool,
        slot=lease.unit,
        token=lease.token,
        holder=lease.holder,
    )


def queue_of(stage: str, arena: str) -> str:
    """Name of the queue that the workers of `stage` on `arena` read."""
    return f"{stage}.{arena}"


def make_runtime(
    settings: Settings,
    redis: Connection,
    store: ObjectStore,
    outbox: Outbox,
    worker: str,
    guard: Guard | None = None,
    meter: Meter | None = None,
) -> Runtime:
    """Wire a runtime; does no I/O."""
    meter = meter or Meter()
    ledger = Ledger(redis, settings.retention_s, settings.attempts)
    leases = Leases(redis, settings.lease_s, meter.waited)
    guard = guard or Guard()
    device = OwnDevice(settings, meter)
    return Runtime(
        settings=settings,
        worker=worker,
        redis=redis,
        ledger=ledger,
        leases=leases,
        store=store,
        arenas=MappedArenas(ArenaRegistry(redis), device),
        outbox=outbox,
        sessions=Sessions(leases, settings, worker, guard, ledger.is_live),
        device=device,
        guard=guard,
        meter=meter,
    )
