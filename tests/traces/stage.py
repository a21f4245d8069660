"""A stage of its own for tests, as a process: what its task does is how its job's name begins."""

from __future__ import annotations

import logging
import sys
import time

from shared.errors import ErrorCode, TemporaryError
from shared.messages import BatchMessage
from shared.queues import StageWorker
from shared.runtime import Runtime
from shared.settings import Settings

QUEUE = "traced"
TASK = "traced.batch"
BEGUN = "test:begun"


def do(runtime: Runtime, message: BatchMessage) -> None:
    """Some library says something; fail once, or go on until the worker drains."""
    logging.getLogger("library").warning("said by a library")
    tries = runtime.redis.hincrby(BEGUN, message.job, 1)
    if tries == 1 and message.job.startswith("fails-once"):
        raise TemporaryError(ErrorCode.BUSY, "Not now.", 0.01)
    while message.job.startswith("long") and not runtime.guard.is_draining():
        time.sleep(0.01)


def main() -> int:
    """The worker's exit code."""
    worker = StageWorker("infer", Settings(), concurrency=1)
    worker.task(TASK, BatchMessage, QUEUE, do)
    return worker.run()


if __name__ == "__main__":
    sys.exit(main())
