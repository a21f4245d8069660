"""From signs of getting on to a verdict: alive, ready, and why not.

Alive is what restarting could not mend. A process whose Redis is away is not ready, but alive: a
new one would fare no better. One that does not get on although Redis has been answering all the
while is not alive.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from shared.metrics import Meter
from shared.metrics.catalogue import REDIS_SILENT
from shared.redisdb import Connection, RedisError, check_writes, connect_once
from shared.settings import Settings

if TYPE_CHECKING:
    from shared.health.server import HealthServer

Sign = Literal["loop", "fetch", "children", "requests"]

MISSING: Mapping[Sign, str] = {
    "loop": "its loop has stood still",
    "fetch": "it has not asked its queues for work, without being busy",
    "children": "one of its processes has been missing",
    "requests": "nobody has taken up requests",
}
"""What it means that a sign is old; begins with "For N s"."""

FRESH_S = 5.0
"""A sign that is older than this is not there just now; each comes about every second."""
REDIS_EVERY_S = 1.0
REDIS_FRESH_S = 3.0
REDIS_ANSWERS_S = 5.0
"""Longest wait for one answer: as often at least it is told how long there has been none."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`reasons` are sentences for people, empty when all is well."""

    alive: bool
    ready: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RedisSight:
    """Seconds since Redis answered last, and for how long it has been answering without a gap; the
    latter 0 while it does not."""

    silent_s: float
    steady_s: float


class Vitals:
    """When each sign of a process was seen last. Thread-safe."""

    def __init__(
        self, *signs: Sign, patience_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`clock`: seconds, monotonic. Every sign counts as seen now: a start takes its time."""
        self._clock = clock
        self._patience_s = patience_s
        self._born_s = clock()
        self._seen = dict.fromkeys(signs, -1.0)
        self.draining = False

    def seen(self, sign: Sign) -> None:
        """There it is."""
        self._seen[sign] = self._clock()

    def verdict(self, redis: RedisSight) -> Verdict:
        """How the process is, given how Redis is."""
        if self.draining:
            return Verdict(True, False, ("It comes to its end.",))
        if redis.silent_s > REDIS_FRESH_S:
            return Verdict(True, False, (f"Redis has not answered for {redis.silent_s:.0f} s.",))
        ages = {sign: self._age(sign) for sign in self._seen}
        fresh_s = min(FRESH_S, self._patience_s)
        missed = {sign: age for sign, age in ages.items() if age > fresh_s}
        reasons = [f"For {age:.0f} s {MISSING[sign]}." for sign, age in missed.items()]
        starting = [sign for sign, at in self._seen.items() if at < 0]
        # While Redis was away nobody could get on, and it takes a while to find it again.
        alive = all(min(age, redis.steady_s) <= self._patience_s for age in ages.values())
        if starting and alive:
            return Verdict(True, False, ("It starts.",))
        return Verdict(alive, not reasons, tuple(reasons))

    def _age(self, sign: Sign) -> float:
        return self._clock() - max(self._seen[sign], self._born_s)


class RedisWatch:
    """A thread with a connection of its own that asks Redis once a second whether it takes writes.

    `meter` is told how long it has not answered; only in a process that never forks. Without one
    nothing is counted, and no lock is taken that a fork might need.
    """

    def __init__(self, connection: Connection, meter: Meter | None = None) -> None:
        """`connection`: one that repeats nothing, so that silence is told while it lasts."""
        self._redis = connection
        self._meter = meter or Meter()
        self._ended = threading.Event()
        self._answered_s = self._since_s = time.monotonic() - REDIS_FRESH_S
        self._thread = threading.Thread(target=self._run, name="redis-watch", daemon=True)

    def start(self) -> None:
        """Begin to ask, until `close` or the end of the process."""
        self._thread.start()

    def close(self) -> None:
        """Ask no more; at once, also while Redis is silent."""
        self._ended.set()

    def sight(self) -> RedisSight:
        """How Redis is just now; at once."""
        now = time.monotonic()
        silent_s = now - self._answered_s
        steady_s = 0.0 if silent_s > REDIS_FRESH_S else now - self._since_s
        return RedisSight(silent_s, steady_s)

    def _run(self) -> None:
        while not self._ended.is_set():
            self._ask()
            self._ended.wait(REDIS_EVERY_S)
        self._redis.close()

    def _ask(self) -> None:
        try:
            check_writes(self._redis)
        except RedisError:
            silent_s = time.monotonic() - self._answered_s
        else:
            now = time.monotonic()
            if now - self._answered_s > REDIS_FRESH_S:
                self._since_s = now
            self._answered_s, silent_s = now, 0.0
        self._meter.set(REDIS_SILENT, silent_s, stage=self._meter.stage)


def watch_redis(settings: Settings, meter: Meter | None = None) -> RedisWatch:
    """A watch over the Redis of `settings`, not begun; `meter` as it wants it."""
    return RedisWatch(connect_once(settings.redis_url, REDIS_ANSWERS_S), meter)


def serve_health(
    settings: Settings, vitals: Vitals, meter: Meter | None = None
) -> HealthServer | None:
    """Answer for a process with these `vitals` until it ends; None where no port is set.

    `meter`: of a process that never forks. It is told how long Redis has been silent, port or not.
    Raises PermanentError BAD_OPTION when another process has the port.
    """
    counts = meter is not None and meter.on
    if settings.http_port == 0 and not counts:
        return None
    watch = watch_redis(settings, meter)
    if settings.http_port == 0:
        watch.start()
        return None
    # An HTTP server: 30 ms that the embedded stack has no use for.
    from shared.health.server import serve

    return serve(settings, vitals, watch)
