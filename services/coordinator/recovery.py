"""Finds work that nobody does any more and has it done again; keeps waiting batches' slots leased.

Two signs: a worker that no longer gives signs of life holds an item, or an item was sent and nobody
took it up for `unclaimed_after_s` (the message died with a worker that had only reserved it).
Sending once too often is harmless: whoever takes an item up asks the ledger first.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from services.coordinator.dispatch import Dispatcher
from shared.jobs import JobState
from shared.ledger import Flight
from shared.logs import Log
from shared.runtime import Runtime
from shared.workers import is_alive, living

EVERY_S = 1.0


class Recovery:
    """State is memory only: a successor starts its watch anew."""

    def __init__(self, runtime: Runtime, dispatcher: Dispatcher) -> None:
        self._runtime = runtime
        self._dispatcher = dispatcher
        self._looked = -EVERY_S
        self._watch: dict[tuple[str, str], tuple[float, float]] = {}
        self._log = Log(stage="coordinator")

    def step(self) -> None:
        """Look at every live job once, at most once a second."""
        now = time.monotonic()
        if now - self._looked < EVERY_S:
            return
        self._looked = now
        alive = {worker.id for worker in living(self._runtime.redis)}
        seen: set[tuple[str, str]] = set()
        for job in self._runtime.ledger.live():
            seen |= self._look(job, alive)
        self._watch = {key: value for key, value in self._watch.items() if key in seen}

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
            if worker is not None and (worker in alive or is_alive(self._runtime.redis, worker)):
                return  # the second look is for those that came after the first
            if worker is None and not self._overdue(key):
                return
            self._log.warning("done again", job=job, item=item, stage_of=stage, lost_worker=worker)
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
        parked = ledger.parked(job)
        for flight in ledger.flights(job):
            if self._keep(job, flight) and flight.name not in parked:
                check(flight.name, flight.worker, self._resender(flight), flight.stage)
        return keys

    def _returner(self, job: str, index: int, attempt: int) -> Callable[[], None]:
        ledger = self._runtime.ledger
        return lambda: ledger.return_segment(job, index, attempt, gave_back=False)

    def _resender(self, flight: Flight) -> Callable[[], None]:
        return lambda: self._runtime.send_batch(flight.message, flight.stage)

    def _keep(self, job: str, flight: Flight) -> bool:
        """Renew the lease of a batch's slot. False when it is lost, or the batch has moved on since
        it was looked up; a batch whose slot is lost is decoded again."""
        if self._runtime.still_holds(flight.message.slot):
            return True
        if self._runtime.forget(flight.message):
            self._log.warning("slot lost, decoded again", job=job, batch=flight.name)
        return False

    def _overdue(self, key: tuple[str, str]) -> bool:
        now = time.monotonic()
        patience = self._runtime.settings.unclaimed_after_s
        since, patience = self._watch.setdefault(key, (now, patience))
        if now - since < patience:
            return False
        # A long queue is no reason to fill it with twins.
        self._watch[key] = (now, patience * 2)
        return True
