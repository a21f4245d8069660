"""What a process that does a stage's work asks itself again and again, by the way.

Does it get on? A timer of the C library's own threads ends the process when it does not: also one
that hangs in native code and holds Python's lock. Is it time to look whether the work is still
wanted? And shall the worker come to its end?
"""

from __future__ import annotations

import faulthandler
import threading
import time
from collections.abc import Callable

LOOK_EVERY_S = 0.5


class Guard:
    """One per process. Not thread-safe: for the thread that does the work."""

    def __init__(
        self,
        stall_s: float = 0.0,
        is_draining: Callable[[], bool] = lambda: False,
        on_step: Callable[[], None] = lambda: None,
    ) -> None:
        """`stall_s`: how long nothing may happen before the process ends itself; 0: for ever.
        `on_step` is called for every frame."""
        self._stall_s = stall_s
        self._next_look = 0.0
        self._allowance_s = 0.0
        self._thread: int | None = None
        self.is_draining = is_draining
        self.on_step = on_step

    def begin(self) -> None:
        """A piece of work begins."""
        self._next_look = self._allowance_s = 0.0
        self._thread = threading.get_ident()
        self.feed()

    def waits(self) -> None:
        """What the work needs does not answer; nothing hangs. From any thread: only the one that
        works counts, while it does."""
        if self._thread == threading.get_ident():
            self.feed()

    def allow(self, seconds: float) -> None:
        """Steps of this piece of work may take so much longer than others'."""
        self._allowance_s = seconds
        self.feed()

    def feed(self) -> None:
        """The work gets on.

        The process ends, with its stacks on standard error, unless this is called again in time.
        """
        if self._stall_s > 0:
            faulthandler.dump_traceback_later(self._stall_s + self._allowance_s, exit=True)

    def is_due(self) -> bool:
        """True every half a second: time to look around. Feeds then; costs nothing in between."""
        now = time.monotonic()
        if now < self._next_look:
            return False
        self._next_look = now + LOOK_EVERY_S
        self.feed()
        return True

    def end(self) -> None:
        """The piece of work is through."""
        self._thread = None
        if self._stall_s > 0:
            faulthandler.cancel_dump_traceback_later()
