"""The Celery worker of one stage: its processes, its tasks, and what a task may raise."""

from __future__ import annotations

import json
import mmap
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

from celery import signals
from celery.utils.log import get_multiprocessing_logger
from celery.worker.consumer import Consumer
from kombu.asynchronous import Hub
from pydantic import ValidationError

from shared.cuda.own import pin
from shared.drill import KEPT_S, Driller
from shared.errors import (
    DeferredError,
    DeviceLostError,
    ErrorCode,
    PermanentError,
    RedisAwayError,
    SpentError,
    StoreAwayError,
    StoreRefusedError,
    TemporaryError,
    WorkOverError,
)
from shared.giving_up import give_up_batch
from shared.guard import Guard
from shared.health.vitals import Vitals, serve_health
from shared.ledger import Ledger
from shared.logs import Log, configure_logs, working_on
from shared.messages import BatchMessage, Message, UnknownVersionError, parse, read_batch
from shared.metrics import Meter, open_meter
from shared.metrics.catalogue import REDIS_ERRORS, REFUSED, TASK_SECONDS, TASKS_DONE
from shared.metrics.store import metered
from shared.processes import die_with_parent
from shared.queues.app import CeleryOutbox, make_app
from shared.queues.consuming import ANSWER_WITHIN_S, LOOK_EVERY_S, Lookout
from shared.queues.dead import DeadLetters
from shared.redisdb import Connection, RedisError, answers, connect, explaining
from shared.runtime import Runtime, make_runtime
from shared.settings import Settings
from shared.storage import open_store
from shared.traces import Traces, open_traces, place_of, watched, watched_meter
from shared.workers import Heartbeat

if TYPE_CHECKING:
    from shared.health.server import HealthServer

M = TypeVar("M", bound=Message)
T = TypeVar("T")

START_PATIENCE_S = 60.0
SETTLE_PATIENCE_S = 60.0
REFUSED_PAUSE_S = 5.0
"""Until a store that refused is asked again: a person mends that."""

MOST_REFUSALS = 34
FIRST_REFUSAL_PAUSE_S = 0.05
REFUSAL_PAUSE_S = 1.0
"""A message of another release is put back so often, with a pause each time that doubles up to the
longest: half a minute in which a worker of that release may take it, longer than its start takes.
"""


class _Received(Protocol):
    """What Celery tells of a message that it could not make a task of."""

    body: bytes | str
    delivery_info: dict[str, str]


class StageWorker:
    """A Celery prefork worker of one stage: tasks are registered on it, children run them.

    A child makes its runtime after the fork (`worker_process_init`); the parent never touches a
    device, so a poisoned device context costs one child.
    """

    def __init__(self, stage: str, settings: Settings, concurrency: int) -> None:
        self.stage = stage
        self.settings = settings
        self.app = make_app(settings.redis_url)
        self._concurrency = concurrency
        self._runtime: Runtime | None = None
        self._job = ""
        self._redis: Connection | None = None
        self._heartbeat: Heartbeat | None = None
        self._queues: dict[str, None] = {}
        self._warm_up: Callable[[Runtime], None] = lambda _: None
        # Shared with all children: one byte that says that the worker comes to its end.
        self._draining = mmap.mmap(-1, 1)
        self._guard = Guard(settings.stall_s, lambda: self._draining[0] != 0)
        self._outbox = CeleryOutbox(self.app, on_wait=self._guard.waits)
        self._driller: Driller | None = None
        self._meter = Meter(stage)
        self._traces = Traces(stage)
        self._vitals = Vitals("loop", "fetch", "children", patience_s=settings.health_patience_s)
        self._health: HealthServer | None = None
        self._log = Log(stage=stage)

    def warm_up(self, action: Callable[[Runtime], None]) -> None:
        """Have every child run `action` before its first task (load a model, say)."""
        self._warm_up = action

    def task(
        self, name: str, kind: type[M], queue: str, work: Callable[[Runtime, M], None]
    ) -> None:
        """Register a task read from `queue`: parse its message as `kind`, call `work`, settle
        errors."""
        self._queues.setdefault(queue)

        def run(body: object, refusals: int = 0) -> None:
            runtime = self._child()
            try:
                message = parse(kind, body)
            except UnknownVersionError as error:
                self._refuse(name, queue, body, refusals, error)
                return
            except PermanentError as error:
                self._bury(name, queue, json.dumps(body), error.message)
                return
            with working_on(**self._facts(name, message)), runtime.arenas.working():
                self._settle(runtime, name, queue, message, lambda: work(runtime, message))

        self.app.task(run, name=name)

    def run(self) -> int:
        """Consume the tasks' queues until told to stop; the exit code.

        SIGTERM drains: what is at work is finished or handed back, then the worker ends with 0.
        """
        configure_logs(self.settings.log_level)
        self._traces = open_traces(self.settings, self.stage)
        self._meter = watched_meter(open_meter(self.settings, self.stage), self._traces)
        try:
            self._health = serve_health(self.settings, self._vitals)
        except PermanentError as error:
            print(error.message, file=sys.stderr)
            return 2
        # A process that hangs while it starts is ended by its guard, which says where it hangs.
        # Celery would by default after 4 s: some GPUs take longer to open.
        self.app.conf.worker_proc_alive_timeout = max(START_PATIENCE_S, 2 * self.settings.stall_s)
        signals.setup_logging.connect(_keep_logs, weak=False)
        signals.worker_process_init.connect(self._start_child, weak=False)
        signals.worker_process_shutdown.connect(self._stop_child, weak=False)
        signals.worker_shutting_down.connect(self._drain, weak=False)
        signals.task_unknown.connect(self._unreadable, weak=False)
        signals.task_rejected.connect(self._unreadable, weak=False)
        worker = self.app.Worker(
            # Several may work on one arena: pods have a host name each, containers of a Compose
            # file have one for all, and process ids of one space.
            hostname=f"{self.stage}@{self.settings.arena}.{socket.gethostname()}.{os.getpid()}",
            quiet=True,  # no banner: every line of the log is of one kind
            queues=list(self._queues),
            concurrency=self._concurrency,
            pool="prefork",
            without_gossip=True,
            without_mingle=True,
            loglevel=self.settings.log_level,
            optimization="fair",
            consumer_cls=self._consumer(),
        )
        worker.start()
        return int(worker.exitcode or 0)

    def _consumer(self) -> type[Consumer]:
        """Celery's consumer, which else drops what it can't decode with a line in the log; and
        looked at for signs of life."""
        unreadable, url = self._unreadable, self.settings.redis_url
        lookout = Lookout(self._concurrency, self._vitals, lambda: answers(url, ANSWER_WITHIN_S))

        class CarefulConsumer(Consumer):  # type: ignore[misc]  # Celery has no types
            def on_decode_error(self, message: _Received, exc: Exception) -> None:
                unreadable(message=message, exc=exc)
                super().on_decode_error(message, exc)

            def register_with_event_loop(self, hub: Hub) -> None:
                """At every start of its loop: Celery drops a lost connection's timers with it."""
                super().register_with_event_loop(hub)
                hub.call_repeatedly(LOOK_EVERY_S, lookout.look, self)

        return CarefulConsumer

    def _drain(self, **_: object) -> None:
        self._draining[0] = 1
        self._vitals.draining = True
        # Children die with this process; what they had is found and done again by others.
        timer = threading.Timer(self.settings.drain_s, os._exit, args=(0,))
        timer.daemon = True
        timer.start()

    def _start_child(self, **_: object) -> None:
        die_with_parent(signal.SIGKILL)
        if self._health is not None:
            self._health.let_go()
        self._guard.begin()
        try:
            self._child()
        finally:
            self._guard.end()
        # Linux counts it by thread: the heartbeat's began before, so a busy machine does not
        # silence who works on it.
        os.nice(self.settings.worker_nice)

    def _stop_child(self, **_: object) -> None:
        if self._runtime is not None:
            self._runtime.sessions.close()
        if self._heartbeat is not None:
            self._heartbeat.stop()
        self._traces.close()

    def _let_go(self) -> None:
        """In the thread of the heartbeat."""
        if self._runtime is not None:
            self._runtime.arenas.let_go()

    def _child(self) -> Runtime:
        if self._runtime is None:
            settings = self.settings
            pin(settings)
            # Redis away is no hang: the end of this process would count as a try of its work.
            redis = connect(settings.redis_url, on_wait=self._guard.waits)
            beat = Heartbeat(
                redis,
                self.stage,
                settings.arena,
                settings.heartbeat_s,
                settings.dead_after_s,
                on_beat=self._let_go,
            )
            store = open_store(settings, on_wait=self._look_around)
            runtime = make_runtime(
                settings,
                redis,
                metered(store, self._meter),
                self._outbox,
                beat.record.id,
                self._guard,
                self._meter,
            )
            runtime = watched(runtime, self._traces)
            if settings.drills:
                self._driller = Driller(settings.drills, self.stage, partial(_count, redis))
                self._guard.on_step = self._driller.step
            try:
                self._warm_up(runtime)
            except Exception:
                # The first task meets it again, and there it ends a job with a reason.
                log = self._log
                log.exception("warm-up failed")
            # Last: without its sign of life a worker's items look abandoned.
            self._surely(beat.start)
            self._runtime, self._heartbeat = runtime, beat
        return self._runtime

    # --- messages that this release can't read ------------------------------------------------

    def _refuse(
        self, task: str, queue: str, body: object, refusals: int, error: UnknownVersionError
    ) -> None:
        """Put a message of another release back, for a worker of that release."""
        self._meter.count(REFUSED, reason="version")
        if refusals >= MOST_REFUSALS:
            if self._surely(lambda: self._is_wanted(body)):
                self._bury(task, queue, json.dumps(body), error.message)
            return
        self._log.warning("message of another release put back", task=task, reason=error.message)
        # Short at first: where both releases are there, the other one takes it at once.
        time.sleep(min(REFUSAL_PAUSE_S, FIRST_REFUSAL_PAUSE_S * 2**refusals))
        self._surely(lambda: self._outbox.send_body(task, body, queue, refusals + 1))

    def _is_wanted(self, body: object) -> bool:
        """False for a batch of another release that has gone another way meanwhile."""
        if not isinstance(body, dict) or "slot" not in body:
            return True
        try:
            message = read_batch(json.dumps(body))
        except ValidationError:
            return True
        if self._redis is None:
            self._redis = connect(self.settings.redis_url)
        ledger = Ledger(self._redis, self.settings.retention_s, self.settings.attempts)
        return ledger.is_bound(message)

    def _bury(self, task: str, queue: str, body: str, reason: str) -> None:
        self._log.error("message refused", task=task, queue=queue, reason=reason)
        self._meter.count(REFUSED, reason="unreadable")
        if self._redis is None:
            self._redis = connect(self.settings.redis_url)
        letters = DeadLetters(self._redis)
        self._surely(lambda: letters.put(task, queue, body, reason))

    def _unreadable(
        self, message: _Received, exc: object, name: str | None = None, **_: object
    ) -> None:
        """In the parent: Celery could not even tell which task a message is for."""
        queue = str(message.delivery_info.get("routing_key", ""))
        body = message.body
        text = body if isinstance(body, str) else bytes(body).decode("utf-8", "backslashreplace")
        self._bury(name or "", queue, text, f"not a task of this worker: {exc!r}")

    # --- what a stage may raise -----------------------------------------------------------------

    def _settle(
        self,
        runtime: Runtime,
        task: str,
        queue: str,
        message: Message,
        work: Callable[[], None],
    ) -> None:
        """Run `work`: permanent errors end the job, temporary and unknown ones repeat the task; no
        try is counted where Redis, or something else that all need, was away."""
        job, log = message.job, self._log
        started, began_s, outcome = time.process_time(), time.monotonic(), "done"
        self._guard.begin()
        self._job = job
        self._meter.begin()
        if self._driller is not None:
            self._driller.begin(message.item)
        try:
            with self._traces.work(task, message), explaining():
                work()
        except WorkOverError:
            outcome = "over"
            log.info("put down: the job has ended")
        except SpentError as error:
            outcome = "spent"
            self._give_up(runtime, message, error, log)
        except StoreRefusedError as error:
            # No job's fault: all wait until somebody has set it right.
            outcome = "deferred"
            log.error("the store refuses", reason=error.message)
            away = StoreAwayError(error.code, error.message, REFUSED_PAUSE_S)
            self._again(runtime, task, queue, message, away)
        except PermanentError as error:
            outcome = "failed"
            log.error("job failed", code=error.code.value, reason=error.message)
            code, reason = error.code, error.message
            self._surely(lambda: runtime.ledger.fail(job, code, reason))
        except DeviceLostError as error:
            log.error("the GPU is lost to this process, which ends", reason=error.message)
            why = TemporaryError(error.code, error.message)
            self._surely(lambda: runtime.ledger.let_go(job, message.item, runtime.worker, why))
            # Not acknowledged: the parent puts the message back, for the next child.
            os._exit(os.EX_UNAVAILABLE)
        except TemporaryError as error:
            outcome = "deferred" if isinstance(error, DeferredError) else "again"
            log.warning("repeated later", code=error.code.value, reason=error.message)
            self._again(runtime, task, queue, message, error)
        except Exception as error:
            # The edge: whatever else a stage raises is logged, and bounded like any other failure.
            outcome = "again"
            log.exception("unexpected error, repeated later")
            self._again(runtime, task, queue, message, _unexpected(task, message, error))
        finally:
            self._guard.end()
            self._job = ""
        self._meter.count(TASKS_DONE, task=task, outcome=outcome)
        self._meter.observe(TASK_SECONDS, time.monotonic() - began_s, task=task)
        spent_ms = (time.process_time() - started) * 1000
        spent = {f"cpu_ms_{self.stage}": round(spent_ms, 1)}
        # What a living worker has in hands nobody else takes up, and keeps an ended job's objects.
        self._surely(lambda: runtime.ledger.put_down(job, message.item, runtime.worker, **spent))

    def _facts(self, task: str, message: Message) -> dict[str, str | int]:
        """What every line in the log says while a message is worked on."""
        facts: dict[str, str | int] = {"task": task, "job": message.job, "item": message.item}
        trace = self._traces.id_of(message.job)
        return facts | place_of(message) | ({"trace": trace} if trace else {})

    def _look_around(self) -> None:
        """While a stage waits for the store: it gets on, unless its job has ended."""
        if self._runtime is not None and self._job:
            self._runtime.look(self._job)

    def _give_up(self, runtime: Runtime, message: Message, error: SpentError, log: Log) -> None:
        """Nobody can do this work: a batch is replaced, anything else ends its job."""
        try:
            if not isinstance(message, BatchMessage):
                raise error
            log.error("frames given up", reason=error.message)
            self._surely(lambda: give_up_batch(runtime, message, error))
        except PermanentError as failure:
            log.error("job failed", code=failure.code.value, reason=failure.message)
            code, reason = failure.code, failure.message
            self._surely(lambda: runtime.ledger.fail(message.job, code, reason))

    def _again(
        self, runtime: Runtime, task: str, queue: str, message: Message, error: TemporaryError
    ) -> None:
        """Wait a little here (bounded: prefetch is one, nothing waits behind) and send once more.

        How often is bounded by the ledger, which counts every time work is taken up. A deferral is
        taken off that again, whether or not the worker ever heard that it had the work.
        """
        self._guard.end()
        time.sleep(0 if self._guard.is_draining() else min(error.delay_s, 5.0))
        ledger, worker = runtime.ledger, runtime.worker
        untried = isinstance(error, DeferredError)
        why = None if untried else error
        self._surely(lambda: ledger.let_go(message.job, message.item, worker, why, untried=untried))
        self._surely(lambda: runtime.outbox.send(task, message, queue))

    def _surely(self, action: Callable[[], T]) -> T:
        """Repeat `action` until Redis has taken it; what it answers.

        While Redis is away there is nothing else to do, for nobody. Only here is it known that a
        try was none: it would count if this process ended. When Redis is there and refuses all the
        same, the process ends after a minute: a child that lived on would hold its item for ever,
        as its signs of life say that somebody works on it. Its silence gives the item to another.
        """
        deadline = time.monotonic() + SETTLE_PATIENCE_S
        while True:
            try:
                with explaining():
                    return action()
            except (RedisError, TemporaryError) as error:
                self._log.warning("Redis out of reach", reason=str(error))
                self._meter.count(REDIS_ERRORS, stage=self.stage)
                if isinstance(error, RedisAwayError):
                    deadline = time.monotonic() + SETTLE_PATIENCE_S
            if time.monotonic() > deadline:
                os._exit(os.EX_UNAVAILABLE)
            time.sleep(0.5)


def _count(redis: Connection, key: str) -> int:
    count = int(redis.incr(key))
    redis.expire(key, KEPT_S)
    return count


def _keep_logs(**_: object) -> None:
    """For Celery, which else sets up handlers of its own: all is to go by those that are there."""
    # Which by itself passes nothing on: who asks for it first is what switches that off.
    get_multiprocessing_logger().propagate = True


def _unexpected(task: str, message: Message, error: Exception) -> TemporaryError:
    return TemporaryError(
        ErrorCode.STAGE_FAILED,
        f"{task} of {message.item} fails every time ({type(error).__name__}: {error}); "
        "the logs of the workers say where.",
        1.0,
    )
