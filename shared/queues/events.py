"""Events as Celery's workers send them, for tasks that are no messages: jobs."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError

HOST = "jobs@coordinator"
"""What Flower shows as the worker of jobs."""
BEAT_EVERY_S = 5.0
TYPES = {"SUCCESS": "task-succeeded", "FAILURE": "task-failed", "REVOKED": "task-revoked"}


class TaskEvents:
    """A sender of events; when nobody listens they are nothing but a PUBLISH each.

    Never raises for a broker that is away: events are for looking on, the ledger has the truth.
    """

    def __init__(self, app: Celery) -> None:
        """Does no I/O until the first event."""
        self._app = app
        self._events: Any = None
        self._beaten_s = -BEAT_EVERY_S

    def begin(self, task_id: str, name: str, kwargs: Mapping[str, object], at_s: float) -> None:
        """A task that was received; `at_s`: when, seconds since 1970."""
        told = json.dumps(kwargs, default=str)
        self._send("task-received", uuid=task_id, name=name, args="()", kwargs=told, retries=0,
                   eta=None, timestamp=at_s)  # fmt: skip
        self._send("task-started", uuid=task_id)

    def progress(self, task_id: str, standing: str) -> None:
        """How it gets on, in words."""
        self._send("task-progress", uuid=task_id, result=standing)

    def end(self, task_id: str, state: str, outcome: str, seconds: float) -> None:
        """It has ended; `state` is Celery's."""
        if state == "SUCCESS":
            self._send("task-succeeded", uuid=task_id, result=outcome, runtime=seconds)
        elif state == "FAILURE":
            self._send("task-failed", uuid=task_id, exception=outcome, traceback="")
        else:
            self._send("task-revoked", uuid=task_id, terminated=True, signum=None, expired=False)

    def beat(self) -> None:
        """The sign of life of a worker, at most every BEAT_EVERY_S."""
        now = time.monotonic()
        if now - self._beaten_s >= BEAT_EVERY_S:
            self._beaten_s = now
            self._send("worker-heartbeat", freq=BEAT_EVERY_S, sw_ident="dualface", active=0)

    def _send(self, kind: str, **fields: object) -> None:
        try:
            if self._events is None:
                self._events = self._app.events.Dispatcher(
                    self._app.connection_for_write(),
                    hostname=HOST,
                    # What is missed is old news by the time that the broker is back.
                    buffer_while_offline=False,
                )
            self._events.send(kind, **fields)
        except (
            *self._app.connection_for_write().recoverable_connection_errors,
            OperationalError,  # where the connection was to be made first
            OSError,
        ):
            self._events = None  # made anew for the next one
