"""Peak memory of a process tree: proportional set sizes, and shared memory that nobody maps."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from types import TracebackType

import psutil

MIB = 1024 * 1024


class Watch:
    """Samples all descendants of this process, several times a second, while in the context.

    PSS counts a shared page once over all who map it, arena pages included; what lies in an arena
    but is mapped by nobody is added.
    """

    EVERY_S = 0.25

    def __init__(self) -> None:
        self.peak_mib = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        me = psutil.Process()
        while not self._stop.wait(self.EVERY_S):
            self.peak_mib = max(self.peak_mib, tree_mib(me))


def tree_mib(root: psutil.Process) -> float:
    """MiB of all descendants of `root` together, and of arena pages that none of them maps."""
    total = mapped = 0
    for process in root.children(recursive=True):
        with contextlib.suppress(psutil.Error, OSError):
            pss, arena = _rollup(process.pid)
            total += pss
            mapped += arena
    reserved = sum(
        path.stat().st_blocks * 512
        for path in Path("/dev/shm").glob(f"dualface-arena-{os.getuid()}-*")
    )
    return (total + max(0, reserved - mapped)) / MIB


def _rollup(pid: int) -> tuple[int, int]:
    """PSS of a process in bytes, and how much of it is shared memory."""
    pss = shared = 0
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        for line in file:
            name, _, rest = line.partition(":")
            if name == "Pss":
                pss = int(rest.split()[0]) * 1024
            elif name == "Pss_Shmem":
                shared = int(rest.split()[0]) * 1024
    return pss, shared
