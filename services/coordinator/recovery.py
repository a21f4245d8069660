"""Finds work that nobody does any more and has it done again; keeps waiting batches' slots leased.

Two signs: a worker that no longer gives signs of life holds an item, or an item was sent and nobody
took it up for `unclaimed_after_s` (the message died with a worker that had only reserved it).
Sending once too often is harmless: whoever takes an item up asks the ledger first.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from services.coordinator.dispatch import Dispatcher
from shared.jobs import JobState
from shared.ledger import Flight
from shared.logs import Log
from shared.messages import ForeignBatch, ReplaceMessage
from shared.metrics.catalogue import REDONE
from shared.runtime import Runtime, queue_of
from shared.workers import Watch, heard, is_alive, withdraw

EVERY_S = 1.0
BLIND_S = 3.0
"""Longer than from one look to the next while Redis is there."""
PAGE = 100


class Recovery:
    """State is memory only: a successor starts its watch anew."""

    def __init__(
        self,
        runtime: Runtime,
        dispatcher: Dispatcher,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock`: seconds, monotonic."""
        self._runtime = runtime
        self._dispatcher = dispatcher
        self._clock = clock
        self._answered_s = clock()
        self._looked_s = self._answered_s - EVERY_S
        self._trusted_s = self._answered_s
        self._watch: dict[tuple[str, str], tuple[float, float]] = {}
        self._workers = Watch()
        self._log = Log(stage="coordinator")
        self.workers: Mapping[str, int] = {}
        """Processes of each stage that gave signs of life at the last look."""

    def step(self) -> None:
        """Look at every live job once, at most once a second."""
        now = self._clock()
        if now - self._looked_s < EVERY_S:
            return
        self._looked_s = now
        alive = self._living()
        seen: set[tuple[str, str]] = set()
        for job in self._open():
            seen |= self._look(job, alive)
            self._answered()
        self._watch = {key: value for key, value in self._watch.items() if key in seen}

    def _open(self) -> Iterator[str]:
        """Jobs that may have work out: those that were let in and have not ended."""
        start = 0
        while page := self._runtime.ledger.open(start, PAGE):
            yield from page
            start += len(page)

    def _living(self) -> set[str]:
        """Who gives signs of life. A key whose beat stands still is taken away: its expiry goes by
        the clock of Redis's host, which may have been set back."""
        redis = self._runtime.redis
        records = heard(redis)
        now = self._answered()
        self._workers.look(records, now)
        silent = self._workers.silent(now, 2 * self._runtime.settings.dead_after_s)
        for record in silent:
            self._workers.forget(record.id)
            withdraw(redis, record.id)
        gone = {record.id for record in silent}
        alive = [record for record in records if record.id not in gone]
        self.workers = Counter(record.stage for record in alive)
        return {record.id for record in alive}

    def _answered(self) -> float:
        """Redis has just answered; the time. Had it been away, nobody's silence means anything:
        keys expired meanwhile, and we may be back before those that live give their next sign."""
        now = self._clock()
        if now - self._answered_s > BLIND_S:
            self._workers.start_anew(now)
            self._trusted_s = now + self._runtime.settings.dead_after_s
        self._answered_s = now
        return now

    def _look(self, job: str, alive: set[str]) -> set[tuple[str, str]]:
        ledger = self._runtime.ledger
        state = ledger.state(job)
        hands = ledger.hands(job)
        keys: set[tuple[str, str]] = set()

        def check(
            item: str, worker: str | None, again: Callable[[], None], stage: str = ""
        ) -> None:
            key = (job, f"{stage} {item} {worker or ''}")
            keys.add(key)
            if worker is not None and self._may_live(worker, alive):
                return
            if worker is None and not self._overdue(key):
                return
            self._log.warning("done again", job=job, item=item, stage_of=stage, lost_worker=worker)
            self._redone("batch" if stage else item.partition(":")[0], worker)
            if worker is not None:
                ledger.let_go(job, item, worker)
            again()

        if state in (JobState.QUEUED, JobState.SPLITTING):
            check("split", hands.get("split"), lambda: self._dispatcher.send_split(job, again=True))
        if state is JobState.MUXING:
            check("mux", hands.get("mux"), lambda: self._dispatcher.send_mux(job, again=True))
        for index, attempt in ledger.running(job).items():
            item = f"segment:{index}"
            check(item, hands.get(item), self._returner(job, index, attempt))
        for message in self._replaceable(job):
            sender = self._replacer(message)
            key = (job, f" {message.item} ")
            if message.item not in hands and key not in self._watch:
                sender()
            check(message.item, hands.get(message.item), sender)
        parked = ledger.parked(job)
        for flight in ledger.flights(job):
            if self._keep(job, flight) and flight.name not in parked:
                check(flight.name, flight.worker, self._resender(flight), flight.stage)
        return keys

    def _may_live(self, worker: str, alive: set[str]) -> bool:
        """False when the worker's silence says that it is gone."""
        if self._clock() < self._trusted_s:
            return True
        # The second look is for those that came after the first.
        return worker in alive or is_alive(self._runtime.redis, worker)

    def _redone(self, kind: str, worker: str | None) -> None:
        reason = "unclaimed" if worker is None else "worker_lost"
        self._runtime.meter.count(REDONE, kind=kind, reason=reason)

    def _replaceable(self, job: str) -> list[ReplaceMessage]:
        """Batches given up whose chunk can be made now: those they stand between are there."""
        ledger = self._runtime.ledger
        unmade = ledger.replaced(job, unmade=True)
        return [message for message in unmade if ledger.neighbours(message) is not None]

    def _replacer(self, message: ReplaceMessage) -> Callable[[], None]:
        def send() -> None:
            arenas = self._dispatcher.arenas.look()
            if arenas:  # any will do, no frames are in one
                queue = queue_of("encode", arenas[0].name)
                self._runtime.outbox.send("encode.replace", message, queue)

        return send

    def _returner(self, job: str, index: int, attempt: int) -> Callable[[], None]:
        ledger = self._runtime.ledger
        return lambda: ledger.return_segment(job, index, attempt, gave_back=False)

    def _resender(self, flight: Flight) -> Callable[[], None]:
        """A batch of another release that nobody takes up any more is decoded again by this one:
        its workers have been replaced."""
        if isinstance(flight.message, ForeignBatch):
            return lambda: self._decode_again(flight)
        return lambda: self._runtime.send_batch(flight.message, flight.stage)

    def _decode_again(self, flight: Flight) -> None:
        if self._runtime.forget(flight.message):
            self._runtime.meter.count(REDONE, kind="batch", reason="release")

    def _keep(self, job: str, flight: Flight) -> bool:
        """Renew the lease of a batch's slot. False when it is lost, or the batch has moved on since
        it was looked up; a batch whose slot is lost is decoded again."""
        slot = flight.message.slot
        if slot.arena not in self._dispatcher.arenas.silent and self._runtime.still_holds(slot):
            return True
        if self._runtime.forget(flight.message):
            self._log.warning("slot lost, decoded again", job=job, batch=flight.name)
            self._runtime.meter.count(REDONE, kind="batch", reason="slot_lost")
        return False

    def _overdue(self, key: tuple[str, str]) -> bool:
        now = self._clock()
        patience = self._runtime.settings.unclaimed_after_s
        since, patience = self._watch.setdefault(key, (now, patience))
        if now - since < patience:
            return False
        # A long queue is no reason to fill it with twins.
        self._watch[key] = (now, patience * 2)
        return True
