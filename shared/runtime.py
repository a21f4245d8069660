"""What a stage works with: ledger, leases, store, arenas, and the way to hand work on.

One per process, made after the fork. Stages get it whole and know nothing of Redis or Celery.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from shared.arena.base import Pool
from shared.arena.registry import ArenaRegistry, MappedArenas
from shared.leases import Lease, Leases
from shared.ledger import Ledger
from shared.media.layout import Plane
from shared.messages import BatchMessage, Message, SlotRef
from shared.redisdb import Connection
from shared.settings import Settings
from shared.storage.base import ObjectStore


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

    def hand_on(self, message: BatchMessage, stage: str) -> bool:
        """Write down that the batch goes to `stage` of its arena, then send it. False: not needed
        any more, the slot is the caller's to give back."""
        if self.ledger.send(message, stage) != "go":
            return False
        self.send_batch(message, stage)
        return True

    def send_batch(self, message: BatchMessage, stage: str) -> None:
        """Send a batch that the ledger knows to be bound for `stage`."""
        self.outbox.send(f"{stage}.batch", message, queue_of(stage, message.slot.arena))

    def slot(self, ref: SlotRef) -> Plane | None:
        """The bytes of a slot while its lease is the batch's; None when they are lost."""
        arena = self.arenas.of(ref)
        if arena is None or not self.leases.renew(ref.lease()):
            return None
        return arena.slot(ref.pool, ref.slot)

    def still_holds(self, ref: SlotRef) -> bool:
        """True when nobody else can have written into the slot since it was leased."""
        return self.leases.renew(ref.lease())

    def forget(self, message: BatchMessage) -> bool:
        """The batch's frames are lost: it is decoded again, as are those parked behind it. False
        when it has moved on meanwhile, and nothing is lost."""
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
    settings: Settings, redis: Connection, store: ObjectStore, outbox: Outbox, worker: str
) -> Runtime:
    """Wire a runtime; does no I/O."""
    return Runtime(
        settings=settings,
        worker=worker,
        redis=redis,
        ledger=Ledger(redis, settings.retention_s, settings.attempts),
        leases=Leases(redis, settings.lease_s),
        store=store,
        arenas=MappedArenas(ArenaRegistry(redis)),
        outbox=outbox,
    )
