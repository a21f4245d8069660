"""What all parts of the ledger stand on: its keys, and its script."""

from __future__ import annotations

from shared.errors import ErrorCode, PermanentError, SpentError
from shared.redisdb import Connection, Script

SCRIPT = ("job", "indexes", "work", "segments", "batches", "lifecycle", "dispatch", "call")
"""Its parts, in the order in which they are joined."""
LIVE = "df:jobs:live"
ENDED = "df:jobs:ended"
INDEX = "df:index:"
WAKE = "df:wake"


class Base:
    """Calls the script. Every operation that changes something is one atomic step."""

    def __init__(self, connection: Connection, retention_s: int, attempts: int) -> None:
        """`attempts`: tries of one piece of work, in all; ended jobs live for `retention_s`."""
        self._redis = connection
        self._attempts = attempts
        self._script = Script(connection, "shared.ledger", *(f"lua/{part}.lua" for part in SCRIPT))
        self._retention_s = retention_s

    def _which_try(self, what: str, answer: list[str]) -> int:
        if answer[0] == "spent":
            code, _, reason = answer[1].partition(" ")
            raise SpentError(
                ErrorCode(code or ErrorCode.STAGE_FAILED),
                reason or f"{what} failed {self._attempts} times; the logs of the workers say why.",
            )
        return int(answer[1]) if answer[0] == "go" else 0

    def _field(self, job: str, field: str) -> str:
        value = self._redis.hget(key_of(job), field)
        if value is None:
            raise PermanentError(ErrorCode.STALE, f"The job {job} is unknown (it has no {field}).")
        return str(value)

    def _call(self, job: str, operation: str, *args: str | int | float) -> list[str]:
        keys = [LIVE, WAKE, key_of(job), f"{key_of(job)}:", ENDED, INDEX, key_of("")]
        return self._script.call(operation, keys, *args)


def key_of(job: str) -> str:
    """Of the job's record; its parts are `KEY:NAME`."""
    return f"df:job:{job}"
