"""The Celery side of every worker: the app, the error policy of a task, the worker process.

Messages are JSON, acknowledged late. What a task may raise is settled here for all stages.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from celery import Celery, signals
from celery.exceptions import OperationalError

from shared.errors import ErrorCode, PermanentError, TemporaryError
from shared.logs import Log, configure_logs
from shared.messages import LARGEST_BYTES, Message, parse
from shared.processes import die_with_parent
from shared.redisdb import RedisError, connect, explained, may_pass
from shared.runtime import Runtime, make_runtime
from shared.settings import Settings
from shared.storage.directory import DirectoryStore
from shared.workers import Heartbeat

M = TypeVar("M", bound=Message)

SETTLE_PATIENCE_S = 60.0

VISIBILITY_TIMEOUT_S = 4 * 3600
"""Longer than any task: redelivery of a dead worker's messages is the coordinator's work."""


def make_app(redis_url: str) -> Celery:
    """The Celery app of this project on `redis_url`; does no I/O."""
    app = Celery("dualface", broker=redis_url, backend=redis_url, set_as_current=False)
    app.conf.update(
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_ignore_result=True,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_enable_remote_control=True,
        broker_connection_retry_on_startup=True,
        broker_transport_options={
            "visibility_timeout": VISIBILITY_TIMEOUT_S,
            "socket_timeout": 15,
            "socket_connect_timeout": 5,
            "health_check_interval": 15,
        },
        result_expires=86400,
    )
    return app


class CeleryOutbox:
    """Sends stage messages through Celery."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def send(self, task: str, message: Message, queue: str) -> None:
        body = message.model_dump(mode="json")
        size = len(message.model_dump_json())
        if size > LARGEST_BYTES:
            raise ValueError(f"a {task} message of {size} bytes exceeds {LARGEST_BYTES}")
        self._app.send_task(task, args=[body], queue=queue, ignore_result=True)


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
        self._heartbeat: Heartbeat | None = None
        self._queues: dict[str, None] = {}
        self._warm_up: Callable[[Runtime], None] = lambda _: None
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

        def run(body: object) -> None:
            runtime = self._child()
            try:
                message = parse(kind, body)
            except PermanentError as error:
                self._log.error("message refused", task=name, reason=error.message)
                return
            self._settle(runtime, name, queue, message, lambda: work(runtime, message))

        self.app.task(run, name=name)

    def run(self) -> int:
        """Consume the tasks' queues until told to stop; the exit code."""
        configure_logs(self.settings.log_level)
        signals.worker_process_init.connect(self._start_child, weak=False)
        signals.worker_process_shutdown.connect(self._stop_child, weak=False)
        worker = self.app.Worker(
            hostname=f"{self.stage}@{self.settings.arena}",
            queues=list(self._queues),
            concurrency=self._concurrency,
            pool="prefork",
            without_gossip=True,
            without_mingle=True,
            loglevel=self.settings.log_level,
            optimization="fair",
        )
        worker.start()
        return int(worker.exitcode or 0)

    def _start_child(self, **_: object) -> None:
        die_with_parent(signal.SIGKILL)
        self._child()

    def _stop_child(self, **_: object) -> None:
        if self._heartbeat is not None:
            self._heartbeat.stop()

    def _child(self) -> Runtime:
        if self._runtime is None:
            settings = self.settings
            redis = connect(settings.redis_url)
            beat = Heartbeat(
                redis, self.stage, settings.arena, settings.heartbeat_s, settings.dead_after_s
            )
            outbox = CeleryOutbox(self.app)
            store = DirectoryStore(settings.store_path)
            runtime = make_runtime(settings, redis, store, outbox, beat.record.id)
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

    def _settle(
        self,
        runtime: Runtime,
        task: str,
        queue: str,
        message: Message,
        work: Callable[[], None],
    ) -> None:
        """Run `work`: permanent errors end the job, temporary and unknown ones repeat the task."""
        job = message.job
        log = self._log.bind(task=task, job=job, item=message.item)
        started = time.process_time()
        try:
            work()
        except PermanentError as error:
            log.error("job failed", code=error.code.value, reason=error.message)
            code, reason = error.code, error.message
            self._surely(lambda: runtime.ledger.fail(job, code, reason))
        except TemporaryError as error:
            log.warning("repeated later", code=error.code.value, reason=error.message)
            self._again(runtime, task, queue, message, error)
        except Exception as error:
            # The edge: whatever else a stage raises is logged, and bounded like any other failure.
            log.exception("unexpected error, repeated later")
            self._again(runtime, task, queue, message, _unexpected(task, message, error))
        spent_ms = (time.process_time() - started) * 1000
        with suppress(TemporaryError):
            runtime.ledger.add(job, **{f"cpu_ms_{self.stage}": round(spent_ms, 1)})

    def _again(
        self, runtime: Runtime, task: str, queue: str, message: Message, error: TemporaryError
    ) -> None:
        """Wait a little here (bounded: prefetch is one, nothing waits behind) and send once more.

        How often is bounded by the ledger, which counts every time work is taken up.
        """
        time.sleep(min(error.delay_s, 5.0))
        ledger, worker = runtime.ledger, runtime.worker
        self._surely(lambda: ledger.let_go(message.job, message.item, worker, error))
        self._surely(lambda: runtime.outbox.send(task, message, queue))

    def _surely(self, action: Callable[[], object]) -> None:
        """Repeat `action` until Redis has taken it; after a minute end this process instead.

        A child that lived on without it would hold its item for ever: its signs of life say that
        somebody works on it. Its silence gives the item to another.
        """
        deadline = time.monotonic() + SETTLE_PATIENCE_S
        while True:
            try:
                action()
                return
            except (RedisError, TemporaryError, OperationalError) as error:
                self._log.warning("Redis out of reach", reason=str(error))
            if time.monotonic() > deadline:
                os._exit(os.EX_UNAVAILABLE)
            time.sleep(0.5)


def _unexpected(task: str, message: Message, error: Exception) -> TemporaryError:
    if isinstance(error, RedisError) and may_pass(error):
        return explained(error)
    return TemporaryError(
        ErrorCode.STAGE_FAILED,
        f"{task} of {message.item} fails every time ({type(error).__name__}: {error}); "
        "the logs of the workers say where.",
        1.0,
    )


class TaskResults:
    """What `AsyncResult(job)` tells, kept in the result backend."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def store(self, job: str, result: dict[str, object], state: str) -> None:
        """Make `AsyncResult(job)` tell `state` and `result`."""
        self._app.backend.store_result(job, result, state)
