"""The Celery app of this project, and the two ways in which others use it."""

from __future__ import annotations

import json
from collections.abc import Callable

from celery import Celery
from kombu import Producer
from kombu.exceptions import OperationalError

from shared.errors import DualfaceError, ErrorCode, RedisAwayError
from shared.messages import LARGEST_BYTES, Message
from shared.redisdb import SOCKET_TIMEOUT_S

App = Celery

VISIBILITY_TIMEOUT_S = 4 * 3600
"""Longer than any task: redelivery of a dead worker's messages is the coordinator's work."""

SEND_RETRIES = 5
"""Of a message, until its sender hears of it: a good minute for a broker that is silent, 3 s where
there is none."""


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
        broker_transport_options=queue_options(),
        task_publish_retry_policy={
            "max_retries": SEND_RETRIES,
            "interval_start": 0,
            "interval_step": 0.2,
            "interval_max": 1,
        },
        result_expires=86400,
    )
    return app


def _shown(body: object) -> str:
    """What Flower and logs show of a message: which piece of which job it is about."""
    if not isinstance(body, dict):
        return "(...)"
    segment = body.get("segment")
    number = segment.get("index") if isinstance(segment, dict) else segment
    parts = [] if number is None else [f"segment {number}"]
    parts += [f"{name} {body[name]}" for name in ("batch", "attempt") if name in body]
    return f"({', '.join([*parts, 'job ' + str(body.get('job', '?'))])})"


def queue_options() -> dict[str, float | str]:
    """Of the broker's transport; every wait has an end."""
    return {
        "visibility_timeout": VISIBILITY_TIMEOUT_S,
        "socket_timeout": SOCKET_TIMEOUT_S,
        "socket_connect_timeout": 5,
        "health_check_interval": 15,
    }


class _Producer(Producer):  # type: ignore[misc]  # kombu has no types
    """Where the connection is lost while a queue is declared, all of the publishing is tried again.

    By itself kombu tries the declaration alone, which closes the channel that the message is about
    to be published on: an AttributeError then, though the broker is back.
    """

    def maybe_declare(self, entity: object, retry: bool = False, **_: object) -> object:  # noqa: ARG002
        """As kombu's does when it is not to try again."""
        return super().maybe_declare(entity)


class CeleryOutbox:
    """Sends stage messages through Celery. Raises RedisAwayError while the broker is away, after a
    few tries."""

    def __init__(self, app: Celery, on_wait: Callable[[], None] = lambda: None) -> None:
        """`on_wait` is called whenever a try failed, every 16 s at least (a pause, 5 s to
        connect, SOCKET_TIMEOUT_S for the answer), by the thread that sends."""
        self._app = app
        self._on_wait = on_wait

    def send(self, task: str, message: Message, queue: str) -> None:
        """See `Outbox`."""
        body = message.model_dump(mode="json")
        size = len(message.model_dump_json())
        if size > LARGEST_BYTES:
            raise ValueError(f"a {task} message of {size} bytes exceeds {LARGEST_BYTES}")
        self.send_body(task, body, queue)

    def send_body(self, task: str, body: object, queue: str, refusals: int = 0) -> None:
        """Send a body that this release can't read, on behalf of one that can."""
        options = {"refusals": refusals} if refusals else {}
        # Celery's pool is another one after a fork.
        self._app.amqp.producer_pool.Producer = _Producer
        try:
            self._app.send_task(
                task,
                args=[body],
                kwargs=options,
                queue=queue,
                ignore_result=True,
                retry_policy={"errback": lambda _error, _pause_s: self._on_wait()},
                argsrepr=_shown(body),
                kwargsrepr=json.dumps(options),
            )
        except OperationalError as error:
            self._on_wait()  # of the last try Celery tells nobody else
            raise RedisAwayError(
                ErrorCode.BUSY, f"Redis did not take a message ({error}).", 1.0
            ) from error


class TaskResults:
    """What `AsyncResult(job)` tells, kept in the result backend."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def store(self, job: str, result: dict[str, object], state: str) -> None:
        """Make `AsyncResult(job)` tell `state` and `result`."""
        self._app.backend.store_result(job, result, state)

    def store_failure(self, job: str, error: DualfaceError) -> None:
        """Make `AsyncResult(job)` tell of a job that never came to be."""
        body: dict[str, object] = {"state": "failed"}
        self.store(job, body | failure(error.code.value, error.message), "FAILURE")


def failure(code: str, message: str) -> dict[str, object]:
    """Why a job failed, and what Celery needs to raise something on the waiting side."""
    return {
        "code": code,
        "message": message,
        "exc_type": "PermanentError",
        "exc_message": [code, message],
        "exc_module": "shared.errors",
    }
