"""The right to hold a session of a hardware engine open: a decoder of NVDEC, an encoder of NVENC.

How many may be open at a time is limited from outside (a driver counts NVENC's per system, memory
bounds NVDEC's), so each is a unit of the thing `sessions:KIND:SCOPE` and leased. An engine declares
a `SessionNeed`; whoever runs the engine holds it meanwhile. An engine may keep its session open for
the next piece of work: then the lease stays, too, until the session has been idle for
`session_idle_s` or somebody waits for a unit.

Who renews. A thread of the process that has the session open, and not its checkpoints: the lease
has to last as long as the driver's session does, which is as long as the process lives, through
native calls that take long and while a kept session is idle. No other may: a holder is one process
and one thing, and its fencing token tells its lease from all before and after. Nothing is kept
alive that should not be: a process that hangs is ended by its guard, one that is stopped takes the
thread with it, and is ended by the arena's owner before the lease is over.

A lease that was lost (its process could not reach Redis, or was stopped for too long) is known by
`check`, once a frame: the session is closed and the work repeated.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from platform import node
from typing import NamedTuple

from shared.errors import (
    DeferredError,
    EngineBusyError,
    EngineError,
    ErrorCode,
    RedisAwayError,
    TemporaryError,
    WorkOverError,
)
from shared.guard import Guard
from shared.leases import Lease, Leases
from shared.logs import Log
from shared.settings import Settings

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
LOOK_EVERY_S = 0.25
"""How often the keeper looks whether anybody waits for a kept session."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 5.0
"""Between two tries to open a session that the driver refuses; doubled with each."""
PROMPT_S = 1.0
"""An answer of Redis that takes longer says that it was away."""
SAFE_SHARE = 0.8
"""Of a lease's time to live without a renewal, after which its holder stops: a jump of the server's
clock takes two of its 20 seconds."""


class SessionKind(StrEnum):
    """What is limited."""

    NVDEC = "nvdec"
    NVENC = "nvenc"


@dataclass(frozen=True, slots=True)
class SessionNeed:
    """What an engine declares. `gpu`: UUID of the device.

    `close` closes the engine's session if one is open. It is called when the lease ends: by another
    thread than the one that works, never while the engine is at work, perhaps more than once.
    """

    kind: SessionKind
    gpu: str
    close: Callable[[], None]


@dataclass(slots=True)
class _Held:
    """A lease, and the session of the engine that has it. Times in seconds, monotonic."""

    lease: Lease
    need: SessionNeed
    renewed_s: float
    used_s: float
    asked_s: float = 0.0
    """When a renewal was first asked for that Redis did not answer at once, since it last gave one
    at once; 0: there is none."""
    in_use: bool = True
    lost: bool = False


class _Refusal(NamedTuple):
    """Since when, and when last, a driver has refused sessions; how long to wait next time."""

    first_s: float
    last_s: float
    pause_s: float


def host_of(settings: Settings) -> str:
    """The machine, as all containers on it call it."""
    if settings.host:
        return settings.host
    try:
        return BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return node()


def thing_of(settings: Settings, kind: SessionKind, gpu: str) -> str:
    """The name under which sessions are leased; `Leases.resize` changes how many at run time."""
    scope = settings.nvenc_scope if kind is SessionKind.NVENC else "gpu"
    where = {"gpu": gpu, "host": host_of(settings), "cluster": "cluster"}[scope]
    return f"sessions:{kind}:{where}"


class Sessions:
    """The sessions of one process; for the one thread that works, like its guard."""

    def __init__(
        self,
        leases: Leases,
        settings: Settings,
        worker: str,
        guard: Guard,
        is_live: Callable[[str], bool],
    ) -> None:
        """`is_live` tells whether a job is still wanted. Does no I/O."""
        self._leases = leases
        self._settings = settings
        self._worker = worker
        self._guard = guard
        self._is_live = is_live
        # Guards what follows, and every end of a session: none ends while it is taken up.
        self._lock = threading.Lock()
        self._held: dict[str, _Held] = {}
        self._keeper: threading.Thread | None = None
        self._stop = threading.Event()
        self._opened: set[str] = set()
        self._refused: dict[str, _Refusal] = {}
        self._log = Log()

    def in_use(self, need: SessionNeed) -> int:
        """Sessions held by anybody where `need` is limited, kept ones included."""
        return self._leases.look(self._thing(need)).used

    @contextmanager
    def hold(
        self, need: SessionNeed | None, job: str, priority: int = 5
    ) -> Iterator[Callable[[], None]]:
        """The right to have the session of `need` open (None: needs none). Yields `check`, to be
        called now and then, cheap: it raises TemporaryError once the lease is lost, RedisAwayError
        if that is why.

        Blocks while all are taken, at most `slot_wait_s`; then, or when the worker drains, raises
        DeferredError; WorkOverError within a second of the job's end; EngineError, not able, where
        no session is allowed. Left without an exception, the session may stay open; else it is
        closed.
        """
        if need is None:
            yield lambda: None
            return
        thing = self._thing(need)
        held = self._kept(thing, need) or self._acquired(thing, need, job, priority)
        try:
            yield lambda: self._check(held)
        except BaseException:
            with self._lock:
                self._end(thing, held)
            raise
        self._refused.pop(thing, None)
        with self._lock:
            held.used_s = time.monotonic()
            held.in_use = False
            # At once, or who works without a break would never let a waiter in.
            if self._is_due(thing, held):
                self._end(thing, held)

    def wait_for(self, need: SessionNeed, error: EngineBusyError) -> None:
        """The driver refused `need` a session: raises DeferredError with how long to wait until the
        next try, or, once it has refused for `busy_patience_s`, returns: to the next engine.

        How long the driver has been refusing is counted by device and process, not by piece of
        work: when it is over, those that follow ask once and go on at once.
        """
        thing, now = self._thing(need), time.monotonic()
        patience_s = self._settings.busy_patience_s
        known = self._refused.get(thing)
        if known is None or now - known.last_s > max(patience_s, 2 * LONGEST_PAUSE_S):
            known = _Refusal(now, now, FIRST_PAUSE_S)  # an older one tells nothing of this one
        pause_s = min(2 * known.pause_s, LONGEST_PAUSE_S)
        self._refused[thing] = _Refusal(known.first_s, now, pause_s)
        if now - known.first_s < patience_s:
            raise DeferredError(error.code, error.message, known.pause_s) from error

    def close(self) -> None:
        """Close and give back everything that is kept; what is in use ends with its process."""
        self._stop.set()
        with self._lock:
            for thing, held in list(self._held.items()):
                if not held.in_use:
                    self._end(thing, held)

    # --- getting one ----------------------------------------------------------------------------

    def _thing(self, need: SessionNeed) -> str:
        return thing_of(self._settings, need.kind, need.gpu)

    def _allowed(self, need: SessionNeed) -> int:
        """How many there are by the settings; at run time there may be others."""
        chosen = self._settings
        nvenc = need.kind is SessionKind.NVENC
        return chosen.nvenc_sessions if nvenc else chosen.nvdec_sessions

    def _kept(self, thing: str, need: SessionNeed) -> _Held | None:
        """The lease of an earlier piece of work, if it still holds."""
        with self._lock:
            held = self._held.get(thing)
            if held is None:
                return None
            if held.need != need:
                self._shut(held)  # of another engine, whose unit this one gets
                held.need = need
            self._renew(held)
            if self._is_over(held):
                self._end(thing, held)
                return None
            held.in_use = True
            return held

    def _acquired(self, thing: str, need: SessionNeed, job: str, priority: int) -> _Held:
        if thing not in self._opened:
            self._leases.open(thing, self._allowed(need))
            self._opened.add(thing)
        if self._leases.look(thing).capacity == 0:
            raise EngineError(f"No session of {need.kind} is allowed here.")
        lease = self._leases.acquire(
            thing,
            f"{self._worker}/{need.kind}",
            wait_s=self._settings.slot_wait_s,
            priority=priority,
            give_up=lambda: self._gives_up(job),
        )
        if lease is None:
            if not self._is_live(job):
                raise WorkOverError(job)
            raise DeferredError(ErrorCode.BUSY, f"No session of {need.kind} came free.", 0.1)
        now = time.monotonic()
        held = _Held(lease, need, now, now)
        with self._lock:
            self._held[thing] = held
            if self._keeper is None:
                self._keeper = threading.Thread(target=self._keep, name="sessions", daemon=True)
                self._keeper.start()
        return held

    def _gives_up(self, job: str) -> bool:
        """Asked once a second while waiting."""
        self._guard.feed()
        return self._guard.is_draining() or not self._is_live(job)

    # --- keeping and ending it ------------------------------------------------------------------

    def _check(self, held: _Held) -> None:
        if self._is_over(held):
            if 0.0 < held.asked_s < held.renewed_s + SAFE_SHARE * self._settings.lease_s:
                raise RedisAwayError(ErrorCode.BUSY, "Redis did not renew the session.", 0.5)
            raise TemporaryError(
                ErrorCode.BUSY, f"The right to a session of {held.need.kind} was lost.", 0.5
            )

    def _is_over(self, held: _Held) -> bool:
        safe_s = SAFE_SHARE * self._settings.lease_s
        return held.lost or time.monotonic() - held.renewed_s > safe_s

    def _keep(self) -> None:
        """The keeper's thread: renews what is held, ends what is idle; ends itself when there is
        nothing left."""
        while True:
            self._stop.wait(min(LOOK_EVERY_S, self._settings.lease_s / 6))
            with self._lock:
                for thing, held in list(self._held.items()):
                    if time.monotonic() - held.renewed_s >= self._settings.lease_s / 3:
                        self._renew(held)
                    if not held.in_use and self._is_due(thing, held):
                        self._end(thing, held)
                if not self._held or self._stop.is_set():
                    self._keeper = None
                    return

    def _renew(self, held: _Held) -> None:
        if held.lost:
            return  # why, is known: what is asked later tells nothing of it
        now, unasked = time.monotonic(), not held.asked_s
        held.asked_s = held.asked_s or now
        with suppress(TemporaryError):  # out of reach: another time, until it is over
            renewed = self._leases.renew(held.lease)
            # A refusal after an outage is what became of it, however promptly it is told.
            if (renewed or unasked) and time.monotonic() - now < PROMPT_S:
                held.asked_s = 0.0
            if renewed:
                held.renewed_s = now
            else:
                held.lost = True

    def _is_due(self, thing: str, held: _Held) -> bool:
        """A session that is kept open goes: idle for too long, or wanted by somebody."""
        idle_s = time.monotonic() - held.used_s
        if self._is_over(held) or idle_s >= self._settings.session_idle_s:
            return True
        if self._guard.is_draining():
            return True
        with suppress(TemporaryError):
            now = self._leases.look(thing)
            return now.waiting > 0 or now.used > now.capacity
        return False

    def _end(self, thing: str, held: _Held) -> None:
        """The session first: a unit is free when nothing is open under it."""
        self._held.pop(thing, None)
        self._shut(held)
        with suppress(TemporaryError):  # out of reach: it ends by itself
            self._leases.release(held.lease)

    def _shut(self, held: _Held) -> None:
        try:
            held.need.close()
        except Exception:
            # Whatever a driver may raise: the lease has to be given back all the same.
            log = self._log
            log.exception("a session could not be closed", kind=held.need.kind.value)
