"""Does a Celery worker really consume? Looked at from within its loop, once a second.

A worker may live, beat and answer pings, and yet take no message any more, after its broker was
away (celery#8030, celery#8091, celery#9054). What proves that it consumes is that it asks its
queues, with a blocking pop that it renews every second, or that every process it has is at work.

Of kombu's Redis transport one private attribute is read, and a test says when it is gone. Without
it only the loop and the processes are watched: a change in Celery ends no worker.
"""

from __future__ import annotations

import time
from typing import Any

from celery.worker import state

from shared.health.vitals import Vitals
from shared.processes import started_ticks

LOOK_EVERY_S = 1.0
ASKED_AT = "_brpop_sent_at"
"""Of a channel of kombu.transport.redis: when it sent its last BRPOP, seconds, monotonic."""
RENEWED_WITHIN_S = 2.0
"""A blocking pop ends after a second without a message."""


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
    return len(state.active_requests) >= processes
