"""The coordinator process: one loop that wakes when the ledger rings, or every second."""

from __future__ import annotations

import signal
import sys
import threading
import time

import structlog

from services.coordinator.closing import Closing
from services.coordinator.dispatch import Dispatcher
from services.coordinator.recovery import Recovery
from shared.errors import TemporaryError
from shared.logs import configure_logs
from shared.queues import CeleryOutbox, TaskResults, make_app
from shared.redisdb import RedisError, connect
from shared.runtime import make_runtime
from shared.settings import Settings
from shared.storage.directory import DirectoryStore
from shared.workers import Heartbeat

TICK_S = 1.0


def main(settings: Settings) -> int:
    """Run until SIGTERM; exit code 0."""
    configure_logs(settings.log_level)
    log = structlog.get_logger(stage="coordinator")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    app = make_app(settings.redis_url)
    redis = connect(settings.redis_url)
    beat = Heartbeat(redis, "coordinator", "all", settings.heartbeat_s, settings.dead_after_s)
    store = DirectoryStore(settings.store_path)
    runtime = make_runtime(settings, redis, store, CeleryOutbox(app), beat.record.id)
    dispatcher = Dispatcher(runtime)
    recovery = Recovery(runtime, dispatcher)
    closing = Closing(runtime, TaskResults(app))
    beat.start()
    recovered = 0.0
    while not stop.is_set():
        try:
            dispatcher.step()
            closing.step()
            if time.monotonic() - recovered >= TICK_S:
                recovery.step()
                recovered = time.monotonic()
            runtime.ledger.wait_for_change(TICK_S)
        except (RedisError, TemporaryError) as error:
            log.warning("Redis out of reach", reason=str(error))
            stop.wait(TICK_S)
    beat.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(Settings()))
