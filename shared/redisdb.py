"""The one door to Redis: connections with bounded waits, and atomic scripts kept in files.

`ledger` and `leases` take what this module gives; nothing else imports the `redis` package.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from typing import Any, TypeVar

import redis
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.retry import Retry

from shared.errors import ErrorCode, PermanentError, RedisAwayError

T = TypeVar("T")

Connection = redis.Redis
RedisError = redis.RedisError

SOCKET_TIMEOUT_S = 10.0
"""Longer than any blocking pop this project makes (2 s), short enough to notice a dead server."""


RETRIES = 5
"""Of a call, until its caller hears of it: a minute for a server that is silent, 3 s where there is
none."""


class _PatientRetry(Retry):
    """Says after every try that failed that Redis is waited for."""

    def __init__(self, on_wait: Callable[[], None]) -> None:
        super().__init__(ExponentialBackoff(cap=1.0, base=0.05), RETRIES)
        # A function: each connection has a deep copy of this, which for a method is one of its
        # object, too.
        self._on_wait: Callable[[], None] = lambda: on_wait()

    # What else there is to be told differs from release to release of the library.
    def call_with_retry(
        self, do: Callable[[], T], fail: Callable[..., object], *args: Any, **more: Any
    ) -> T:
        def failed(*what: object) -> object:
            self._on_wait()
            return fail(*what)

        return super().call_with_retry(do, failed, *args, **more)


def connect(url: str, on_wait: Callable[[], None] = lambda: None) -> Connection:
    """A connection pool for `url`; answers are str. Does no I/O until first used.

    `on_wait` is called whenever Redis did not answer, every SOCKET_TIMEOUT_S at least, by the
    thread that waits. Raises PermanentError BAD_OPTION when it is no Redis URL.
    """
    try:
        return _connect(url, on_wait)
    except ValueError as error:
        raise PermanentError(
            ErrorCode.BAD_OPTION,
            f"DUALFACE_REDIS_URL is not like redis://:PASSWORD@HOST:6379/0 ({error}).",
        ) from error


def _connect(url: str, on_wait: Callable[[], None]) -> Connection:
    return redis.Redis.from_url(
        url,
        decode_responses=True,
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=3.0,
        health_check_interval=15,
        retry=_PatientRetry(on_wait),
        retry_on_error=[redis.ConnectionError, redis.TimeoutError],
    )


def connect_once(url: str, within_s: float) -> Connection:
    """Like `connect`, for who would rather know at once: no call is repeated, none blocks longer
    than `within_s` for connecting and as long again for the answer."""
    return redis.Redis.from_url(
        url,
        decode_responses=True,
        socket_timeout=within_s,
        socket_connect_timeout=within_s,
        retry=Retry(NoBackoff(), retries=0),
    )


def check_writes(connection: Connection) -> None:
    """Raises RedisError where the server is away, or answers and can't write: a ping is answered by
    one whose memory is full. It changes nothing: a list that is not there is not pushed to."""
    connection.lpushx("df:probe", "")


def answers(url: str, within_s: float) -> bool:
    """True when the server answers a ping on a connection of its own; asked once, blocks no longer
    than `within_s` for connecting and as long again for the answer."""
    connection = connect_once(url, within_s)
    try:
        return bool(connection.ping())
    except redis.RedisError:
        return False
    finally:
        connection.close()


async def listen(url: str, channel: str) -> AsyncIterator[str | None]:
    """What is published on `channel`, for an event loop; first None, when the subscription stands.

    Raises RedisError when the server goes away.
    """
    import redis.asyncio

    connection = redis.asyncio.Redis.from_url(
        url,
        decode_responses=True,
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=3.0,
        health_check_interval=5,
    )
    async with connection, connection.pubsub(ignore_subscribe_messages=True) as heard:
        await heard.subscribe(channel)
        yield None
        while True:
            message = await heard.get_message(timeout=2.0)
            if message is not None:
                yield str(message["data"])


def may_pass(error: RedisError) -> bool:
    """True for what the server's surroundings cause: it is away, it starts, its disk or memory is
    full, it lacks its main server or replicas."""
    away = isinstance(error, redis.ConnectionError | redis.TimeoutError)
    refuses = isinstance(error, redis.ReadOnlyError | redis.OutOfMemoryError)
    return away or refuses or str(error).startswith(("MISCONF", "NOREPLICAS", "MASTERDOWN"))


def explained(error: RedisError) -> RedisAwayError:
    """The error of the house for one that may pass."""
    if isinstance(error, redis.OutOfMemoryError):
        return RedisAwayError(
            ErrorCode.NO_SPACE,
            "Redis is full: raise its maxmemory, or keep ended jobs for less long "
            "(DUALFACE_RETENTION_S).",
            5.0,
        )
    if str(error).startswith("MISCONF"):
        return RedisAwayError(
            ErrorCode.NO_SPACE,
            "Redis can't write its append-only file; free some space on the disk that it is on.",
            5.0,
        )
    return RedisAwayError(ErrorCode.BUSY, f"Redis did not answer ({error}).", 1.0)


@contextmanager
def explaining() -> Iterator[None]:
    """Around calls: an error that may pass is raised as RedisAwayError."""
    try:
        yield
    except redis.RedisError as error:
        if not may_pass(error):
            raise
        raise explained(error) from error


class Script:
    """A Lua script whose first argument names the operation; run atomically by the server.

    Several files are joined in their order: an error's line is counted over all of them.
    """

    def __init__(self, connection: Connection, package: str, *files: str) -> None:
        folder = resources.files(package)
        parts = [folder.joinpath(file).read_text(encoding="utf-8") for file in files]
        self._run = connection.register_script("\n".join(parts))

    def call(self, operation: str, keys: Sequence[str], *args: str | int | float) -> list[str]:
        """Run `operation`; the answer is a flat list of strings.

        Safe to repeat after a lost answer: nothing is lost by that, nor done twice that matters.
        What may count twice are calls of webhooks and figures of a job's report; and what only
        the lost answer named (work that was due, a batch whose turn had come) the coordinator has
        done when nobody took it up for `unclaimed_after_s`.
        Raises RedisAwayError when Redis stays out of reach.
        """
        with explaining():
            answer = self._run(keys=list(keys), args=[operation, *args])
        return [] if answer is None else [str(item) for item in answer]
