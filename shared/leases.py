"""The right to hold one unit of a limited thing: an arena slot, a decode or encode session.

Bound to a holder, with a deadline in Redis's time and a fencing token that only ever grows. Atomic
operations in `leases.lua`. A dead holder's unit is free again when its deadline passes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from shared.errors import ErrorCode, TemporaryError
from shared.redisdb import Connection, Script

POLL_S = 1.0
"""A waiter looks up this often: a grant wakes it at once, this only notices expired holders."""


@dataclass(frozen=True, slots=True)
class Lease:
    """`unit` of `thing` (0-based, lowest free) is `holder`'s; `token` grows with every grant."""

    thing: str
    holder: str
    unit: int
    token: int


@dataclass(frozen=True, slots=True)
class Occupancy:
    """How full a thing is: units in all, held, waiters, and the leases held."""

    capacity: int
    used: int
    waiting: int
    leases: tuple[Lease, ...]


class Leases:
    """All leases of one Redis."""

    def __init__(self, connection: Connection, ttl_s: float) -> None:
        self._redis = connection
        self._script = Script(connection, "shared", "leases.lua")
        self._ttl_ms = int(ttl_s * 1000)

    def resize(self, thing: str, capacity: int) -> None:
        """Set the units of `thing`; up wakes waiters, down robs nobody."""
        self._call(thing, "resize", capacity)

    def close(self, thing: str) -> None:
        """Forget all units and holders of `thing`: what they stood for no longer exists."""
        self._call(thing, "close")

    def acquire(
        self,
        thing: str,
        holder: str,
        *,
        wait_s: float = 0.0,
        priority: int = 5,
        reserve: Callable[[], int] = lambda: 0,
        give_up: Callable[[], bool] = lambda: False,
    ) -> Lease | None:
        """A lease, or None after `wait_s`, or as soon as `give_up` says so (asked every second).

        First come, first served within a `priority` (9 first). `reserve` units, asked anew every
        second, are left to those who reserve fewer. Idempotent: a holder that holds gets the same
        lease again. Raises TemporaryError when `thing` is closed.
        """
        deadline = time.monotonic() + wait_s
        while True:
            left = max(0.0, deadline - time.monotonic())
            pause = min(POLL_S, left)
            wait_ms = int(pause * 1000)
            answer = self._call(
                thing, "acquire", holder, self._ttl_ms, wait_ms, 9 - priority, reserve()
            )
            if answer == ["closed"]:
                raise TemporaryError(ErrorCode.BUSY, f"{thing} is not there (yet).", 0.5)
            if answer:
                return Lease(thing, holder, int(answer[0]), int(answer[1]))
            if wait_ms == 0:
                return None
            mail = self._redis.blpop([f"{_mailbox(thing)}{holder}"], timeout=pause)
            if mail:
                unit, token = str(mail[1]).split()
                return Lease(thing, holder, int(unit), int(token))
            if give_up():
                self._call(thing, "cancel", holder)
                return None

    def renew(self, lease: Lease) -> bool:
        """Extend by the time to live; False when it is no longer the holder's."""
        return self._call(lease.thing, "renew", lease.holder, lease.token, self._ttl_ms) == ["1"]

    def release(self, lease: Lease) -> bool:
        """Give back; False (and no harm) when it was no longer the holder's."""
        return self._call(lease.thing, "release", lease.holder, lease.token) == ["1"]

    def look(self, thing: str) -> Occupancy:
        """A consistent picture of `thing`."""
        answer = self._call(thing, "look")
        capacity, used, waiting = (int(value) for value in answer[:3])
        rows = [answer[at : at + 4] for at in range(3, len(answer), 4)]
        leases = tuple(
            Lease(thing, holder, int(unit), int(token)) for unit, token, holder, _ in rows
        )
        return Occupancy(capacity, used, waiting, leases)

    def _call(self, thing: str, operation: str, *args: str | int) -> list[str]:
        parts = ("meta", "held", "holders", "units", "queue", "waiters")
        keys = [f"df:lease:{thing}:{part}" for part in parts]
        return self._script.call(operation, [*keys, _mailbox(thing)], *args)


def _mailbox(thing: str) -> str:
    return f"df:lease:{thing}:mail:"
