"""A stage of its own for tests, as a process that can be made to get on no more, by a signal."""

from __future__ import annotations

import signal
import sys
import time
from typing import Any

from celery import signals

from shared.messages import SplitMessage
from shared.queues import StageWorker
from shared.queues import worker as of_celery
from shared.runtime import Runtime
from shared.settings import Settings

QUEUE = "vital"
TASK = "vital.do"
DONE = "test:done"

STAND_STILL, GO_ON = signal.SIGRTMIN, signal.SIGRTMIN + 3
"""The thread that consumes hangs, until told to go on."""
FORGET = signal.SIGRTMIN + 1
"""It goes on, but asks its queues no more: what some releases of Celery did after a lost Redis."""
REMEMBER = signal.SIGRTMIN + 2


def do(runtime: Runtime, message: SplitMessage) -> None:
    """Write down that it was done."""
    runtime.redis.rpush(DONE, message.job)


def prepare(sender: Any, **_: object) -> None:
    """The consumer is ready: the signals above work from here on."""

    def forget(*_: object) -> None:
        sender.connection.transport.cycle.discard(sender.task_consumer.channel)

    def remember(*_: object) -> None:
        sender.connection.transport.cycle.add(sender.task_consumer.channel)

    told: list[int] = []

    def stand_still(*_: object) -> None:
        told.clear()
        while not told:
            time.sleep(0.02)  # the handler of GO_ON runs in between

    signal.signal(STAND_STILL, stand_still)
    signal.signal(GO_ON, lambda number, _: told.append(number))
    signal.signal(FORGET, forget)
    signal.signal(REMEMBER, remember)


def main() -> int:
    """The worker's exit code."""
    # However long a test looks at it while it gets on no more, it does not end itself.
    of_celery.answers = lambda *_: False
    worker = StageWorker("infer", Settings(), concurrency=1)
    worker.task(TASK, SplitMessage, QUEUE, do)
    signals.worker_ready.connect(prepare, weak=False)
    return worker.run()


if __name__ == "__main__":
    sys.exit(main())
