"""Faults on purpose: a stage that crashes, hangs or fails at a certain frame of a certain item.

What recovery promises can only be shown by real faults in real workers. Off unless set; the chaos
program and the tests set it, an operator may for a rehearsal.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import Literal

from pydantic import Field

from shared.errors import ErrorCode, TemporaryError
from shared.jobs import Model

Kind = Literal["crash", "hang", "stop", "error", "full", "slow"]

KEPT_S = 86400
FOREVER_S = 10 * 365 * 86400


class Drill(Model):
    """One fault: in `stage`, on `item` (as messages name it; "*": any), once `at` frames are done.

    `times` in all, over all processes. Kinds: `crash` is a segmentation fault, `hang` never comes
    back, `stop` freezes the whole process, `error` is a bug in Python, `full` a disk without space;
    `slow` takes `pause_s` longer for every frame, at all times.
    """

    stage: str
    item: str = "*"
    kind: Kind
    times: int = Field(default=1, ge=1)
    at: int = Field(default=0, ge=0)
    pause_s: float = Field(default=0.1, ge=0, le=60)


class Driller:
    """The faults of one process. `count` adds one to a counter that all processes share."""

    def __init__(self, drills: Sequence[Drill], stage: str, count: Callable[[str], int]) -> None:
        self._drills = [(number, d) for number, d in enumerate(drills) if d.stage == stage]
        self._count = count
        self._armed: list[tuple[int, Drill]] = []
        self._steps = 0

    def begin(self, item: str) -> None:
        """Work on `item` begins."""
        self._armed = [(n, drill) for n, drill in self._drills if drill.item in (item, "*")]
        self._steps = 0

    def step(self) -> None:
        """A frame is about to be worked on; what is due strikes."""
        for entry in list(self._armed):
            number, drill = entry
            if drill.kind == "slow":
                time.sleep(drill.pause_s)
            elif self._steps >= drill.at:
                self._armed.remove(entry)
                if self._count(f"df:drill:{number}") <= drill.times:
                    _strike(drill.kind)
        self._steps += 1


def _strike(kind: Kind) -> None:
    if kind == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(FOREVER_S)  # until it has arrived
    elif kind == "hang":
        time.sleep(FOREVER_S)
    elif kind == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif kind == "full":
        raise TemporaryError(ErrorCode.NO_SPACE, "A drill: there is no space left.", 0.1)
    else:
        raise RuntimeError("a drill")
