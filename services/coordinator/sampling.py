"""Figures of the whole cluster, which one process may tell: queues, jobs, leases, workers, letters.

Sampled every few seconds, never when somebody asks; what it costs depends on the number of arenas
and of jobs that were let in, and not on how many are queued.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from services.coordinator.progress import Progress
from shared.arena.base import POOLS, ArenaDescriptor
from shared.arena.registry import ArenaRegistry
from shared.jobs import JobState
from shared.ledger.base import INDEX
from shared.metrics import kind_of
from shared.metrics.catalogue import (
    DEAD_LETTERS,
    JOB_IDLE,
    JOBS,
    LEASE_WAITERS,
    LEASES_CAPACITY,
    LEASES_IN_USE,
    QUEUE_MESSAGES,
    QUEUE_SAMPLES,
    STAGES,
    UNACKNOWLEDGED,
    WORKERS,
    Metric,
)
from shared.queues.dead import ORDER
from shared.runtime import Runtime, queue_of

EVERY_S = 5.0
BLIND_S = 3 * EVERY_S
"""Longer than from one look to the next while Redis is there."""

UNACKED = "unacked"
"""kombu's hash of the messages that are with a worker."""

Told = tuple[Metric, tuple[tuple[str, str], ...]]
"""A gauge's series."""


class Sampler:
    """What it remembers is what it told last, so that what is not there any more is told no longer,
    and since when jobs have not got on; a successor begins anew."""

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
        self._progress = Progress(runtime.ledger, BLIND_S, clock)
        self._sampled_s = clock() - EVERY_S
        self._told: dict[Told, None] = {}
        self._telling: dict[Told, None] = {}

    def step(self) -> None:
        """Look, if it is time. Raises RedisError, TemporaryError while Redis is away."""
        now = self._clock()
        if not self._runtime.meter.on or now - self._sampled_s < EVERY_S:
            return
        self._sampled_s = now
        self._telling = {}
        arenas = self._registry.all()
        self._count(arenas)
        self._leases(arenas)
        for state, seconds in self._progress.look().items():
            self._tell(JOB_IDLE, seconds, state=state.value)
        alive = self._workers()
        for stage in {*STAGES, *alive}:
            self._tell(WORKERS, alive.get(stage, 0), stage=stage)
        for metric, labels in self._told.keys() - self._telling.keys():
            self._runtime.meter.forget(metric, **dict(labels))
        self._told = self._telling

    def _tell(self, metric: Metric, value: float, **labels: str) -> None:
        """Set a gauge, for as long as it is told of at every look."""
        self._runtime.meter.set(metric, value, **labels)
        told = metric, tuple(sorted(labels.items()))
        self._told[told] = self._telling[told] = None  # also of a look that breaks off

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
            self._tell(QUEUE_MESSAGES, depth, queue=queue)
            meter.observe(QUEUE_SAMPLES, depth, queue=queue.partition(".")[0])
        unacked, letters, *jobs = found[len(queues) :]
        meter.set(UNACKNOWLEDGED, unacked)
        meter.set(DEAD_LETTERS, letters)
        for state, count in job_states(*jobs).items():
            meter.set(JOBS, count, state=state.value)

    def _leases(self, arenas: list[ArenaDescriptor]) -> None:
        things = {arena.thing(pool): arena.name for arena in arenas for pool in POOLS}
        things |= {thing: thing.rpartition(":")[2] for thing in self._runtime.leases.opened()}
        for thing, where in things.items():
            now, labels = self._runtime.leases.look(thing), {"kind": kind_of(thing), "arena": where}
            self._tell(LEASES_IN_USE, now.used, **labels)
            self._tell(LEASES_CAPACITY, now.capacity, **labels)
            self._tell(LEASE_WAITERS, now.waiting, **labels)


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
