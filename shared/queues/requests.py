"""What any Celery client may send: `dualface.submit` and `dualface.cancel`, taken off their queues.

No Celery worker, but a consumer of the same messages: the job's id is the task's id, and what
`AsyncResult` tells of it is the coordinator's to write, for as long as the job goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from time import sleep
from typing import Any

from celery import Celery
from kombu import Consumer, Queue
from kombu.message import Message as Delivered

from shared.errors import TemporaryError
from shared.logs import Log
from shared.queues.app import queue_options
from shared.queues.dead import DeadLetters
from shared.redisdb import RedisError

SUBMIT = "dualface.submit"
CANCEL = "dualface.cancel"
WAIT_S = 1.0
PAUSE_S = 1.0
REDELIVERED_AFTER_S = 30
"""What a consumer took and died over comes to the next one after this."""

Handle = Callable[[str, str, Mapping[str, object]], None]
"""Task, task id, keyword arguments. Raises TemporaryError to have it delivered again."""
Refuse = Callable[[str, str], None]
"""Task id, why it is none of ours: to be told to who sent it. Raises like `Handle`."""


class RequestConsumer:
    """Blocks in `run`; for a thread of its own."""

    def __init__(
        self,
        app: Celery,
        queues: Sequence[str],
        handle: Handle,
        refuse: Refuse,
        letters: DeadLetters,
    ) -> None:
        """`refuse`, `letters`: for what is none of our tasks, or can't be read."""
        self._app = app
        self._queues = [Queue(name, routing_key=name) for name in queues]
        self._handle = handle
        self._refuse = refuse
        self._letters = letters
        self._log = Log(stage="coordinator")

    def run(self, ended: Callable[[], bool]) -> None:
        """Take requests until `ended`; a lost connection is made anew."""

        with self._app.connection_for_read() as connection:
            # As the transport names them: for Redis, its client's and the system's.
            passing: tuple[type[Exception], ...] = (
                RedisError,
                TemporaryError,
                OSError,
                *connection.connection_errors,
                *connection.channel_errors,
            )
        while not ended():
            try:
                self._consume(ended)
            except passing as error:
                self._log.warning("requests can't be taken now", reason=str(error))
                sleep(PAUSE_S)

    def _consume(self, ended: Callable[[], bool]) -> None:
        options = queue_options() | {
            # Keys of its own: the workers' messages have hours, these are taken up in a moment.
            "visibility_timeout": REDELIVERED_AFTER_S,
            "unacked_key": "df:requests:unacked",
            "unacked_index_key": "df:requests:index",
            "unacked_mutex_key": "df:requests:mutex",
            "unacked_restore_interval": 5,
            "unacked_restore_throttle": 1,
        }
        with (
            self._app.connection_for_read(transport_options=options) as connection,
            connection.channel() as channel,
            Consumer(
                channel,
                self._queues,
                on_message=self._take,
                accept=["json"],
                prefetch_count=1,
            ),
        ):
            while not ended():
                try:
                    connection.drain_events(timeout=WAIT_S)
                except TimeoutError:
                    continue

    def _take(self, message: Delivered) -> None:
        headers = message.headers or {}
        task, task_id = str(headers.get("task", "")), str(headers.get("id", ""))
        arguments = _arguments(message)
        try:
            if task not in (SUBMIT, CANCEL):
                what = task or "a message without a task"
                self._put_away(message, task, task_id, f"{what} is none of {SUBMIT}, {CANCEL}")
            elif arguments is None:
                reason = "its arguments are no JSON object: send them as kwargs"
                self._put_away(message, task, task_id, reason)
            else:
                self._handle(task, task_id, arguments)
        except (RedisError, TemporaryError):
            message.requeue()
            raise
        message.ack()

    def _put_away(self, message: Delivered, task: str, task_id: str, reason: str) -> None:
        queue = str((message.delivery_info or {}).get("routing_key", ""))
        self._log.warning("message refused", task=task, queue=queue, reason=reason)
        self._refuse(task_id, reason)
        self._letters.put(task, queue, _text(message), reason)


def _arguments(message: Delivered) -> Mapping[str, object] | None:
    """Of protocol 2: `[args, kwargs, embed]`."""
    try:
        body: Any = message.decode()
    except Exception:  # noqa: BLE001 - whatever a serialiser raises: it can't be read
        return None
    if isinstance(body, list | tuple) and len(body) == 3 and not body[0]:
        return body[1] if isinstance(body[1], dict) else None
    return None


def _text(message: Delivered) -> str:
    body = message.body
    text = body.decode(errors="replace") if isinstance(body, bytes) else body
    return text if isinstance(text, str) else json.dumps(text, default=str)
