"""Figures of the whole cluster, which one process may tell: queues, jobs, leases, workers, letters.

Sampled every few seconds, never when somebody asks; what it costs depends on the number of arenas
and not on that of jobs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from shared.arena.base import POOLS, ArenaDescriptor
from shared.arena.registry import ArenaRegistry
from shared.jobs import JobState
from shared.ledger.base import INDEX
from shared.metrics import kind_of
from shared.metrics.catalogue import (
    DEAD_LETTERS,
    JOBS,
    LEASE_WAITERS,
    LEASES_CAPACITY,
    LEASES_IN_USE,
    QUEUE_MESSAGES,
    QUEUE_SAMPLES,
    STAGES,
    UNACKNOWLEDGED,
    WORKERS,
)
from shared.queues.dead import ORDER
from shared.runtime import Runtime, queue_of

EVERY_S = 5.0
UNACKED = "unacked"
"""kombu's hash of the messages that are with a worker."""


class Sampler:
    """Keeps no state: a successor goes on where this one stood."""

    def __init__(
        self,
        runtime: Runtime,
        workers: Callable[[], Mapping[str, int]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`workers`: how many processes of each stage live. `clock`: seconds, monotonic."""
        self._runtime = runtime
        self._workers = workers
        self._registry = ArenaRegistry(runtime.redis)
        self._clock = clock
        self._sampled_s = clock() - EVERY_S

    def step(self) -> None:
        """Look, if it is time. Raises RedisError, TemporaryError while Redis is away."""
        now = self._clock()
        if not self._runtime.meter.on or now - self._sampled_s < EVERY_S:
            return
        self._sampled_s = now
        arenas = self._registry.all()
        self._count(arenas)
        self._leases(arenas)
        alive = self._workers()
        for stage in {*STAGES, *alive}:
            self._runtime.meter.set(WORKERS, alive.get(stage, 0), stage=stage)

    def _count(self, arenas: list[ArenaDescriptor]) -> None:
        queues = ["split", "mux", *(queue_of(s, arena.name) for arena in arenas for s in STAGES)]
        pipe = self._runtime.redis.pipeline(transaction=False)
        for queue in queues:
            pipe.llen(queue)
        pipe.hlen(UNACKED)
        pipe.llen(ORDER)
        for name in ("queued", "open", "splitting", "muxing"):
            pipe.zcard(f"{INDEX}{name}")
        found = [int(count) for count in pipe.execute()]
        meter = self._runtime.meter
        for queue, depth in zip(queues, found, strict=False):
            meter.set(QUEUE_MESSAGES, depth, queue=queue)
            meter.observe(QUEUE_SAMPLES, depth, queue=queue.partition(".")[0])
        unacked, letters, *jobs = found[len(queues) :]
        meter.set(UNACKNOWLEDGED, unacked)
        meter.set(DEAD_LETTERS, letters)
        for state, count in job_states(*jobs).items():
            meter.set(JOBS, count, state=state.value)

    def _leases(self, arenas: list[ArenaDescriptor]) -> None:
        things = {arena.thing(pool): arena.name for arena in arenas for pool in POOLS}
        things |= {thing: thing.rpartition(":")[2] for thing in self._runtime.leases.opened()}
        meter = self._runtime.meter
        for thing, where in things.items():
            now, labels = self._runtime.leases.look(thing), {"kind": kind_of(thing), "arena": where}
            meter.set(LEASES_IN_USE, now.used, **labels)
            meter.set(LEASES_CAPACITY, now.capacity, **labels)
            meter.set(LEASE_WAITERS, now.waiting, **labels)


def job_states(queued: int, admitted: int, splitting: int, muxing: int) -> dict[JobState, int]:
    """Jobs by state, from the lengths of the ledger's indexes: `admitted` has all that were let in
    and have not ended. A job let in is counted as splitting until its split is done."""
    running = max(0, admitted - splitting - muxing)
    return {
        JobState.QUEUED: queued,
        JobState.SPLITTING: splitting,
        JobState.RUNNING: running,
        JobState.MUXING: muxing,
    }
