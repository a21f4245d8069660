"""The coordinator process: one loop that wakes when the ledger rings, or every second."""

from __future__ import annotations

import signal
import sys
import time
from threading import Thread
from typing import NoReturn

from services.coordinator.closing import Closing
from services.coordinator.dispatch import Dispatcher
from services.coordinator.recovery import Recovery
from services.coordinator.requests import Requests
from services.coordinator.sampling import Sampler
from services.coordinator.telling import Telling
from services.coordinator.webhooks import Webhooks
from shared.errors import PermanentError, TemporaryError
from shared.health.vitals import Vitals, serve_health
from shared.logs import Log, configure_logs
from shared.metrics import open_meter
from shared.metrics.catalogue import REDIS_ERRORS
from shared.metrics.store import metered
from shared.queues import (
    CeleryOutbox,
    DeadLetters,
    RequestConsumer,
    TaskResults,
    make_app,
)
from shared.redisdb import RedisError, connect
from shared.runtime import Runtime, make_runtime
from shared.settings import Settings
from shared.starting import start
from shared.storage import open_store
from shared.traces import open_traces
from shared.workers import Heartbeat

TICK_S = 1.0
STORE_PATIENCE_S = 2.0
"""Cleaning up is put off when the store is away; everything else goes on."""


def main(settings: Settings) -> NoReturn:
    """Run until SIGTERM, which ends it with code 0."""
    configure_logs(settings.log_level)
    for number in (signal.SIGTERM, signal.SIGINT):
        # Out of whatever it does, a blocking wait too: every step is atomic and may be repeated.
        signal.signal(number, lambda *_: sys.exit(0))
    app = make_app(settings.redis_url)
    redis = connect(settings.redis_url)
    beat = Heartbeat(redis, "coordinator", "all", settings.heartbeat_s, settings.dead_after_s)
    store = open_store(settings, patience_s=STORE_PATIENCE_S)
    meter = open_meter(settings, "coordinator")
    vitals = Vitals("loop", "requests", patience_s=settings.health_patience_s)
    try:
        serve_health(settings, vitals, meter)
    except PermanentError as error:
        print(error.message, file=sys.stderr)
        sys.exit(2)
    outbox = CeleryOutbox(app)
    runtime = make_runtime(
        settings, redis, metered(store, meter), outbox, beat.record.id, meter=meter
    )
    dispatcher = Dispatcher(runtime)
    recovery = Recovery(runtime, dispatcher)
    traces = open_traces(settings, "coordinator")
    closing = Closing(runtime, Telling(runtime.ledger, app), traces=traces)
    requests = Requests(runtime, TaskResults(app))
    consumer = RequestConsumer(
        app, settings.submit_queues, requests.handle, requests.refuse, DeadLetters(redis)
    )
    # A daemon: what it has taken and not acknowledged comes to its successor.
    taking = Thread(target=consumer.run, args=(lambda: False,), name="requests", daemon=True)
    taking.start()
    webhooks = Webhooks(runtime)
    calling = Thread(target=webhooks.run, args=(lambda: False,), name="webhooks", daemon=True)
    calling.start()
    cleaning = Thread(target=closing.run, args=(lambda: False,), name="closing", daemon=True)
    cleaning.start()
    sampler = Sampler(runtime, lambda: recovery.workers)
    beat.start()
    try:
        while True:
            vitals.seen("loop")
            if taking.is_alive():
                vitals.seen("requests")
            if not (cleaning.is_alive() and calling.is_alive()):
                sys.exit(1)  # the traceback has been written; a successor takes it up
            _step(dispatcher, recovery, closing, sampler, runtime)
    finally:
        beat.stop()
        traces.close()


def _step(
    dispatcher: Dispatcher,
    recovery: Recovery,
    closing: Closing,
    sampler: Sampler,
    runtime: Runtime,
) -> None:
    try:
        dispatcher.step()
        closing.wake()
        recovery.step()
        sampler.step()
        runtime.ledger.wait_for_change(TICK_S)
    except (RedisError, TemporaryError) as error:
        Log(stage="coordinator").warning("Redis out of reach", reason=str(error))
        runtime.meter.count(REDIS_ERRORS, stage="coordinator")
        time.sleep(TICK_S)


if __name__ == "__main__":
    start(main)
