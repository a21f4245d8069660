"""Calls to a server that may be away: each in a thread of its own, repeated for a while.

The thread that wants them waits meanwhile, and looks around several times a second: whatever a call
hangs in, its job can be put down at once. A call that nobody wants any more ends by itself, at the
next bytes that move or with its connection's timeout; nothing waits for it.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Generic, TypeAlias, TypeVar

from shared.errors import ErrorCode, StoreAwayError, StoreRefusedError

T = TypeVar("T")

LOOK_EVERY_S = 0.25
PAGE = 1000
"""Keys that a call lists or deletes at most."""
FIRST_PAUSE_S = 0.1
SILENCE_S = 10.0
"""How long the last try may take for its first bytes, when its time is over."""
LONGEST_PAUSE_S = 3.0
"""Between two tries: short beside any outage, long enough that hundreds of workers do not keep a
server from starting."""


class PassingError(Exception):
    """What a call raises that may succeed a moment later. Its text ends a sentence for people."""


class NotThereError(Exception):
    """There is no such object, or no such upload."""


class OutOfRangeError(Exception):
    """The object ends before the first byte that was asked for."""


class BadPartsError(Exception):
    """The parts are not those that were sent."""


class ForbiddenError(StoreRefusedError):
    """The credentials are good, but not for this."""


class UnwantedError(Exception):
    """Nobody waits for this call any more."""


class Errand:
    """One call on its way, as its own thread sees it."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._unwanted = threading.Event()
        self.gained()

    def moved(self) -> None:
        """Bytes have moved, or a try begins. Raises UnwantedError when nobody wants them."""
        if self._unwanted.is_set():
            raise UnwantedError
        self.moved_s = time.monotonic()

    def gained(self) -> None:
        """Something was done that the next try need not do again: patience begins anew."""
        self.moved_s = time.monotonic()
        self.until_s = self.moved_s + self._patience_s

    def drop(self) -> None:
        """Nobody wants it any more."""
        self._unwanted.set()

    def pause(self, seconds: float) -> None:
        """Wait. Raises UnwantedError as soon as nobody wants the call any more."""
        if self._unwanted.wait(seconds):
            raise UnwantedError


Action: TypeAlias = Callable[[Errand], T]
"""May be called again after a PassingError, and go on where it stood."""


@dataclass(frozen=True)
class _Back(Generic[T]):
    """A call has come back: with its answer, or with what it raised."""

    number: int
    errand: Errand
    answer: T | None = None
    error: BaseException | None = None


class Errands:
    """Runs calls to one server. May be used from several threads if `on_wait` may."""

    def __init__(
        self, server: str, patience_s: float, on_wait: Callable[[], None] = lambda: None
    ) -> None:
        """`patience_s`: how long a call that gets no further is repeated. `on_wait` is called by
        the thread that waits, several times a second; what it raises ends the waiting."""
        self._server = server
        self._patience_s = patience_s
        self.on_wait = on_wait
        self._chance = random.Random()

    def do(
        self,
        action: Action[T],
        on_wait: Callable[[], None] | None = None,
        patience_s: float | None = None,
    ) -> T:
        """What `action` returns. Raises StoreAwayError when it came to nothing for so long."""
        with closing(self.each([action], 1, on_wait, patience_s)) as answers:
            return next(answers)[1]

    def each(
        self,
        actions: Iterable[Action[T]],
        at_once: int,
        on_wait: Callable[[], None] | None = None,
        patience_s: float | None = None,
    ) -> Generator[tuple[int, T], None, None]:
        """The actions' numbers and answers as they come, `at_once` on their way at a time; each is
        taken from `actions` when its turn has come. The first that fails ends all others."""
        look = on_wait or self.on_wait
        patient_s = self._patience_s if patience_s is None else patience_s
        back: SimpleQueue[_Back[T]] = SimpleQueue()
        away: set[Errand] = set()
        waiting = enumerate(actions)
        look_at = time.monotonic() + LOOK_EVERY_S
        try:
            while True:
                while len(away) < at_once and (due := next(waiting, None)) is not None:
                    away.add(self._send(*due, back, patient_s))
                due = None  # it may hold megabytes
                if not away:
                    return
                now = time.monotonic()
                if now >= look_at:
                    look_at = now + LOOK_EVERY_S
                    look()
                    self._check(away, patient_s)
                try:
                    came = back.get(timeout=LOOK_EVERY_S)
                except Empty:
                    continue
                away.remove(came.errand)
                if came.error is not None:
                    raise self._explained(came.error, patient_s)
                yield came.number, came.answer  # type: ignore[misc]  # T may be None itself
        finally:
            for errand in away:
                errand.drop()

    def _send(
        self, number: int, action: Action[T], back: SimpleQueue[_Back[T]], patience_s: float
    ) -> Errand:
        errand = Errand(patience_s)

        def run() -> None:
            try:
                back.put(_Back(number, errand, self._insist(action, errand)))
            except BaseException as error:  # noqa: BLE001 - raised by the thread that waits
                back.put(_Back(number, errand, error=error))

        threading.Thread(target=run, name="store", daemon=True).start()
        return errand

    def _insist(self, action: Action[T], errand: Errand) -> T:
        pause_s = FIRST_PAUSE_S
        while True:
            until_s = errand.until_s
            errand.moved()
            try:
                return action(errand)
            except PassingError:
                left_s = errand.until_s - time.monotonic()
                if left_s <= 0:
                    raise
            if errand.until_s > until_s:
                pause_s = FIRST_PAUSE_S
            errand.pause(min(left_s, pause_s * self._chance.uniform(0.5, 1.0)))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _check(self, away: set[Errand], patience_s: float) -> None:
        """A call may hang for longer than the patience with it lasts."""
        now = time.monotonic()
        for errand in away:
            if now > errand.until_s and now - errand.moved_s > min(patience_s, SILENCE_S):
                raise self._explained(PassingError("no answer"), patience_s)

    def _explained(self, error: BaseException, patience_s: float) -> BaseException:
        if not isinstance(error, PassingError):
            return error
        away = StoreAwayError(
            ErrorCode.BUSY,
            f"The store {self._server} could not be used for {patience_s:g} s ({error}).",
        )
        away.__cause__ = error
        return away
