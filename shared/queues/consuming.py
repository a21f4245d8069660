"""Does a Celery worker really consume? Looked at from within its loop, once a second.

A worker may live, beat and answer pings, and yet take no message any more, after its broker was
away (celery#8030, celery#8091, celery#9054). What proves that it consumes is that it asks its
queues, with a blocking pop that it renews every second, or that every process it has is at work.

One that does not is ended: whoever supervises it starts another. Nothing is lost by that, what its
processes had is done again.

Of kombu's Redis transport one private attribute is read, and a test says when it is gone. Without
it only the loop and the processes are watched: a change in Celery ends no worker.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from celery.worker import state

from shared.health.vitals import RedisSight, Vitals
from shared.logs import Log
from shared.processes import started_ticks

LOOK_EVERY_S = 1.0
ASKED_AT = "_brpop_sent_at"
"""Of a channel of kombu.transport.redis: when it sent its last BRPOP, seconds, monotonic."""
ANSWER_WITHIN_S = 1.0
RENEWED_WITHIN_S = 2.0
"""A blocking pop ends after a second without a message."""


class Lookout:
    """Looks at one worker again and again, and ends it when only a new one can mend it."""

    def __init__(
        self,
        processes: int,
        vitals: Vitals,
        answers: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`processes`: how many the worker should have. `answers` says whether Redis does, and is
        asked when there is a suspicion; `clock`: seconds, monotonic."""
        self._processes = processes
        self._vitals = vitals
        self._answers = answers
        self._clock = clock
        self._steady_since: float | None = None

    def look(self, consumer: Any) -> None:
        """Note the signs of life that `consumer` (Celery's) gives; where one has been missing for
        too long, while Redis answered all the time, end this process."""
        look(consumer, self._processes, self._vitals)
        if self._vitals.verdict(RedisSight(0.0, float("inf"))).alive:
            self._steady_since = None
            return
        now = self._clock()
        if not self._answers():
            self._steady_since = None
            return
        if self._steady_since is None:
            self._steady_since = now
        verdict = self._vitals.verdict(RedisSight(0.0, now - self._steady_since))
        if not verdict.alive:
            Log().error("takes no more work, so it ends", reason=" ".join(verdict.reasons))
            os._exit(os.EX_UNAVAILABLE)


def look(consumer: Any, processes: int, vitals: Vitals) -> None:
    """Note which signs of life `consumer` (Celery's; its worker has so many `processes`) gives."""
    vitals.seen("loop")
    if asks(consumer) or is_busy(processes):
        vitals.seen("fetch")
    alive = [pid for pid in consumer.pool.info["processes"] if started_ticks(pid)]
    if len(alive) >= processes:
        vitals.seen("children")


def asks(consumer: Any) -> bool:
    """True when the consumer has asked its queues just now, or nobody can tell."""
    asked_s = getattr(consumer.task_consumer.channel, ASKED_AT, time.monotonic())
    return asked_s is not None and time.monotonic() - asked_s < RENEWED_WITHIN_S


def is_busy(processes: int) -> bool:
    """True when every process is at work: then nothing is asked for, and nothing should be."""
    at_work = [each for each in state.active_requests if _is_at_work(each)]
    return len(at_work) >= processes


def _is_at_work(request: Any) -> bool:
    """False for a request whose process is gone."""
    pid = request.worker_pid
    return pid is None or bool(started_ticks(pid))
