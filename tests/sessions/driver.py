"""A driver of hardware that opens so many sessions on a machine and no more, and its encoder.

Sessions are locks on files, by the kernel: all processes of the machine share them, and one that is
killed has none any more.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable
from pathlib import Path

from services.encode.engines.base import ChunkInfo, Frame
from services.encode.engines.pyav import PyAvEncoder
from services.encode.plan import QUALITY, RateControl
from shared.cuda.memory import Memory
from shared.errors import EngineBusyError, EngineError, ErrorCode
from shared.jobs import Codec, OutputPlan
from shared.media.layout import FrameLayout
from shared.sessions import SessionKind, SessionNeed

GPU = "GPU-0"


class Driver:
    """As one process sees it; `cap` sessions may be open in all."""

    def __init__(self, folder: Path, cap: int) -> None:
        self._folder = folder
        self._cap = cap
        folder.mkdir(exist_ok=True)

    def open(self) -> int:
        """A session; raises EngineBusyError when `cap` are open."""
        for number in range(self._cap):
            handle = os.open(self._folder / str(number), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                continue
            return handle
        raise EngineBusyError(ErrorCode.BUSY, "The driver has no session left.")

    def close(self, session: int) -> None:
        """Close it."""
        os.close(session)

    def free(self) -> int:
        """How many more could be opened."""
        sessions: list[int] = []
        try:
            while True:
                sessions.append(self.open())
        except EngineBusyError:
            return len(sessions)
        finally:
            for session in sessions:
                self.close(session)


class HardwareEncoder:
    """A ChunkEncoder that needs a session of the driver and keeps it open between chunks."""

    memory: Memory = "host"

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._software = PyAvEncoder()
        self._session: int | None = None
        self.session = SessionNeed(SessionKind.NVENC, GPU, self.close)
        self.opened = 0
        self.rates: list[RateControl] = []

    def name_for(self, codec: Codec) -> str:
        """See ChunkEncoder."""
        return f"hardware-{codec.value}"

    def refusal(self, output: OutputPlan) -> EngineError | None:  # noqa: ARG002
        """See ChunkEncoder."""
        return None

    def close(self) -> None:
        """Close the session, if one is open."""
        session, self._session = self._session, None
        if session is not None:
            self._driver.close(session)

    def encode(
        self,
        frames: Iterable[Frame],
        layout: FrameLayout,
        output: OutputPlan,
        path: Path,
        rate: RateControl = QUALITY,
    ) -> ChunkInfo:
        """See ChunkEncoder."""
        if self._session is None:
            self._session = self._driver.open()
            self.opened += 1
        self.rates.append(rate)
        return self._software.encode(frames, layout, output, path, rate)
