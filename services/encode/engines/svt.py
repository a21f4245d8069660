"""How SVT-AV1 is opened in a process that has other things to do as well."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from av.video.codeccontext import VideoCodecContext

_TASKS = Path("/proc/self/task")


def open_svt(context: VideoCodecContext) -> None:
    """Open `context`, of libsvtav1. Raises what its `open` does."""
    # Else it writes 20 lines about each chunk to stderr, and takes no callback through FFmpeg.
    os.environ.setdefault("SVT_LOG", "0")
    with _ordinary_threads():
        context.open()


@contextmanager
def _ordinary_threads() -> Iterator[None]:
    """Gives the calling thread, and those that begin meanwhile, the scheduling that it has now.

    In a privileged process SVT-AV1 makes them all real-time ones of the highest priority, before
    which the rest of the machine waits, for as long as the process lives.
    """
    policy, priority = os.sched_getscheduler(0), os.sched_getparam(0)
    others = _threads() - {threading.get_native_id()}
    try:
        yield
    finally:
        for thread in _threads() - others:
            with suppress(ProcessLookupError):
                os.sched_setscheduler(thread, policy, priority)


def _threads() -> set[int]:
    return {int(task.name) for task in _TASKS.iterdir()}
