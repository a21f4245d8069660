"""The one door to Redis: connections with bounded waits, and atomic scripts kept in files.

`ledger` and `leases` take what this module gives; nothing else imports the `redis` package.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from importlib import resources

import redis
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.retry import Retry

from shared.errors import ErrorCode, PermanentError, TemporaryError

Connection = redis.Redis
RedisError = redis.RedisError

SOCKET_TIMEOUT_S = 10.0
"""Longer than any blocking pop this project makes (2 s), short enough to notice a dead server."""


def connect(url: str) -> Connection:
    """A connection pool for `url`; answers are str. Does no I/O until first used.

    Raises PermanentError BAD_OPTION when it is no Redis URL.
    """
    try:
        return _connect(url)
    except ValueError as error:
        raise PermanentError(
            ErrorCode.BAD_OPTION,
            f"DUALFACE_REDIS_URL is not like redis://:PASSWORD@HOST:6379/0 ({error}).",
        ) from error


def _connect(url: str) -> Connection:
    return redis.Redis.from_url(
        url,
        decode_responses=True,
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=3.0,
        health_check_interval=15,
        retry=Retry(ExponentialBackoff(cap=1.0, base=0.05), retries=5),
        retry_on_error=[redis.ConnectionError, redis.TimeoutError],
    )


def answers(url: str, within_s: float) -> bool:
    """True when the server answers a ping on a connection of its own; asked once, blocks no longer
    than `within_s` for connecting and as long again for the answer."""
    connection = redis.Redis.from_url(
        url,
        socket_timeout=within_s,
        socket_connect_timeout=within_s,
        retry=Retry(NoBackoff(), retries=0),
    )
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
    """True for what the server's surroundings cause: it is away, it starts, its disk is full."""
    passing = (redis.ConnectionError, redis.TimeoutError, redis.ReadOnlyError)
    return isinstance(error, passing) or str(error).startswith("MISCONF")


def explained(error: RedisError) -> TemporaryError:
    """The error of the house for one that may pass."""
    if str(error).startswith("MISCONF"):
        return TemporaryError(
            ErrorCode.NO_SPACE,
            "Redis can't write its append-only file; free some space on the disk that it is on.",
            5.0,
        )
    return TemporaryError(ErrorCode.BUSY, f"Redis did not answer ({error}).", 1.0)


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
        What may count twice are tries of work, calls of webhooks and figures of a job's report;
        and what only the lost answer named (work that was due, a batch whose turn had come) the
        coordinator has done when nobody took it up for `unclaimed_after_s`.
        Raises TemporaryError when Redis stays out of reach.
        """
        try:
            answer = self._run(keys=list(keys), args=[operation, *args])
        except redis.RedisError as error:
            if not may_pass(error):
                raise
            raise explained(error) from error
        return [] if answer is None else [str(item) for item in answer]
