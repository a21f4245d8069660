"""A stage of its own for tests, as a process: what its task does is the name of its job."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time

from shared import redisdb
from shared.messages import SplitMessage
from shared.queues import StageWorker
from shared.runtime import Runtime
from shared.settings import Settings

QUEUE = "probe"
TASK = "probe.do"
TRACE = "test:trace"


FREEZES_S = (6.0, 0.9, 0.25)
"""Of Redis, around one piece of work: longer than a call and the giving back after it are patient;
than a call is; than a try of a call is."""


def freeze(server: int, seconds: float) -> None:
    """Redis answers nobody for so long."""
    os.kill(server, signal.SIGSTOP)
    threading.Timer(seconds, os.kill, (server, signal.SIGCONT)).start()


def work_on_ice(runtime: Runtime, message: SplitMessage, began: int) -> None:
    """Take the work up; Redis freezes at some moment of each of the first times."""
    server = runtime.redis.info("server")["process_id"]
    if began in (2, 3):  # as it is taken up
        freeze(server, FREEZES_S[began - 1])
    tries = runtime.ledger.take(message.job, message.item, runtime.worker)
    if began == 1:  # while it is worked on
        freeze(server, FREEZES_S[0])
        while True:
            runtime.checkpoint(message.job)
    runtime.redis.rpush(TRACE, f"try {tries}")


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
    elif message.job == "ice":
        work_on_ice(runtime, message, began)
    runtime.redis.rpush(TRACE, f"end {message.job}")


def main() -> int:
    """The worker's exit code."""
    if "IMPATIENT" in os.environ:  # of a call of Redis: half a second instead of a minute
        redisdb.SOCKET_TIMEOUT_S, redisdb.RETRIES = 0.2, 1
    worker = StageWorker("probe", Settings(), concurrency=1)
    worker.task(TASK, SplitMessage, QUEUE, do)
    return worker.run()


if __name__ == "__main__":
    sys.exit(main())
