"""The coordinator process: one loop that wakes when the ledger rings, or every second."""

from __future__ import annotations

import signal
import sys
import time
from typing import NoReturn

from services.coordinator.closing import Closing
from services.coordinator.dispatch import Dispatcher
from services.coordinator.recovery import Recovery
from shared.errors import TemporaryError
from shared.logs import Log, configure_logs
from shared.queues import CeleryOutbox, TaskResults, make_app
from shared.redisdb import RedisError, connect
from shared.runtime import Runtime, make_runtime
from shared.settings import Settings
from shared.storage.directory import DirectoryStore
from shared.workers import Heartbeat

TICK_S = 1.0


def main(settings: Settings) -> NoReturn:
    """Run until SIGTERM, which ends it with code 0."""
    configure_logs(settings.log_level)
    for number in (signal.SIGTERM, signal.SIGINT):
        # Out of whatever it does, a blocking wait too: every step is atomic and may be repeated.
        signal.signal(number, lambda *_: sys.exit(0))
    app = make_app(settings.redis_url)
    redis = connect(settings.redis_url)
    beat = Heartbeat(redis, "coordinator", "all", settings.heartbeat_s, settings.dead_after_s)
    store = DirectoryStore(settings.store_path)
    runtime = make_runtime(settings, redis, store, CeleryOutbox(app), beat.record.id)
    dispatcher = Dispatcher(runtime)
    recovery = Recovery(runtime, dispatcher)
    closing = Closing(runtime, TaskResults(app))
    beat.start()
    try:
        while True:
            _step(dispatcher, recovery, closing, runtime)
    finally:
        beat.stop()


def _step(dispatcher: Dispatcher, recovery: Recovery, closing: Closing, runtime: Runtime) -> None:
    try:
        dispatcher.step()
        closing.step()
        recovery.step()
        runtime.ledger.wait_for_change(TICK_S)
    except (RedisError, TemporaryError) as error:
        Log(stage="coordinator").warning("Redis out of reach", reason=str(error))
        time.sleep(TICK_S)


if __name__ == "__main__":
    main(Settings())
