"""The right to hold one unit of a limited thing: an arena slot, a decode or encode session.

Bound to a holder, with a deadline and a fencing token that only ever grows. Atomic operations in
`leases.lua`, which explains time, order and wake-ups. A dead holder's unit is free again when its
deadline passes, in a time of Redis's that no jump of a clock moves by more than two seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from shared.errors import DeferredError, ErrorCode, TemporaryError
from shared.redisdb import Connection, RedisError, Script, explaining

POLL_S = 1.0
"""A waiter asks this often. A grant wakes it at once; this notices dead holders and lost bells."""

OPENED = "df:lease:things"
"""Set of things made by `open`, for who looks at all of them."""

PARTS = ("meta", "held", "holders", "units", "ranks", "patience", "reserves")
"""The keys of a thing, as `leases.lua` explains them, beside the bells."""


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

    def __init__(
        self,
        connection: Connection,
        ttl_s: float,
        on_wait: Callable[[str, float], None] = lambda _thing, _seconds: None,
    ) -> None:
        """`on_wait` is told of every `acquire`, given or not: the thing, and how long it took."""
        self._redis = connection
        self._on_wait = on_wait
        self._script = Script(connection, "shared", "leases.lua")
        self._ttl_ms = int(ttl_s * 1000)

    def resize(self, thing: str, capacity: int) -> None:
        """Set the units of `thing`; up wakes waiters, down robs nobody."""
        self._call(thing, "resize", capacity)

    def open(self, thing: str, capacity: int) -> None:
        """Set the units of `thing` unless somebody has; later ones are `resize`'s."""
        self._call(thing, "open", capacity)
        with suppress(RedisError):  # known to `opened` a little later, then
            self._redis.sadd(OPENED, thing)

    def opened(self) -> list[str]:
        """Things that were ever opened by `open`; those of arenas are in their descriptors."""
        return sorted(str(thing) for thing in self._redis.smembers(OPENED))

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

        First come, first served within a `priority` (9 first, then down to 0); 5 s of waiting count
        as much as one step of it, so that none starves. `reserve` units, asked anew every second,
        are left to those who reserve fewer. Idempotent: a holder that holds gets the same lease
        again, with its whole time to live. Raises DeferredError when `thing` is closed, as an arena
        is until its next owner is there; TemporaryError when Redis is out of reach.
        """
        since = time.monotonic()
        try:
            return self._wait(thing, holder, since + wait_s, priority, reserve, give_up)
        except TemporaryError:
            raise  # closed, or Redis is out of reach: for a farewell, too
        except BaseException:
            with suppress(TemporaryError):  # told to stop: nobody would take a grant up
                self._call(thing, "cancel", holder)
            raise
        finally:
            self._on_wait(thing, time.monotonic() - since)

    def _wait(
        self,
        thing: str,
        holder: str,
        deadline: float,
        priority: int,
        reserve: Callable[[], int],
        give_up: Callable[[], bool],
    ) -> Lease | None:
        while True:
            pause_ms = int(1000 * min(POLL_S, max(0.0, deadline - time.monotonic())))
            answer = self._call(
                thing, "acquire", holder, self._ttl_ms, pause_ms, 9 - priority, reserve()
            )
            if answer == ["closed"]:
                raise DeferredError(ErrorCode.BUSY, f"{thing} is not there (yet).", 0.5)
            if answer:
                return Lease(thing, holder, int(answer[0]), int(answer[1]))
            if pause_ms == 0:
                return None
            if not self._hears(thing, holder, pause_ms / 1000) and give_up():
                self._call(thing, "cancel", holder)
                return None

    def renew(self, lease: Lease) -> bool:
        """A whole time to live from now; False when it is no longer the holder's."""
        return self._call(lease.thing, "renew", lease.holder, lease.token, self._ttl_ms) == ["1"]

    def release(self, lease: Lease) -> bool:
        """Give back; False (and no harm) when it is no longer the holder's, or was given back."""
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

    def _hears(self, thing: str, holder: str, wait_s: float) -> bool:
        """Wait for the holder's bell; True when it rang."""
        with explaining():
            return bool(self._redis.blpop([_bell(thing, holder)], timeout=wait_s))

    def _call(self, thing: str, operation: str, *args: str | int) -> list[str]:
        keys = [f"df:lease:{thing}:{part}" for part in PARTS]
        return self._script.call(operation, [*keys, _bell(thing)], *args)


def _bell(thing: str, holder: str = "") -> str:
    return f"df:lease:{thing}:bell:{holder}"
