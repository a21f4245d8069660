"""A stage of its own for tests, as a process: what its task does is the name of its job."""

from __future__ import annotations

import ctypes
import sys
import time

from shared.messages import SplitMessage
from shared.queues import StageWorker
from shared.runtime import Runtime
from shared.settings import Settings

QUEUE = "probe"
TASK = "probe.do"
TRACE = "test:trace"


def do(runtime: Runtime, message: SplitMessage) -> None:
    """Write down that it began, misbehave as told (the first time), write down that it is done."""
    began = int(runtime.redis.hincrby("test:began", message.job, 1))
    runtime.redis.rpush(TRACE, f"begin {message.job}")
    if message.job == "hang" and began == 1:
        time.sleep(3600)
    elif message.job == "hang-native" and began == 1:
        ctypes.PyDLL(None).sleep(3600)  # keeps Python's lock, as a library that hangs does
    elif message.job == "long":
        while not runtime.guard.is_draining():
            runtime.guard.is_due()
            time.sleep(0.01)
    elif message.job == "cancelled":
        while True:
            runtime.checkpoint(message.job)
            time.sleep(0.01)
    runtime.redis.rpush(TRACE, f"end {message.job}")


def main() -> int:
    """The worker's exit code."""
    worker = StageWorker("probe", Settings(), concurrency=1)
    worker.task(TASK, SplitMessage, QUEUE, do)
    return worker.run()


if __name__ == "__main__":
    sys.exit(main())
