"""Peak memory of a process tree: proportional set sizes, and shared memory that nobody maps."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import psutil

MIB = 1024 * 1024


class Sample(NamedTuple):
    """All descendants at one moment: seconds since the watch began, MiB.

    `private_mib` counts what is no shared memory, by the name of the log a process writes to
    (decode, infer, ...), so that one that grows shows; processes of one name are added up.
    """

    at_s: float
    total_mib: float
    private_mib: dict[str, float]


class Watch:
    """Samples all descendants of this process, several times a second, while in the context.

    PSS counts a shared page once over all who map it, arena pages included; what lies in an arena
    but is mapped by nobody is added. Arenas of other trees are not looked at.
    """

    EVERY_S = 0.25

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def peak_mib(self) -> float:
        """The most that all processes together ever had."""
        return max((sample.total_mib for sample in self.samples), default=0.0)

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
        me, began = psutil.Process(), time.monotonic()
        while not self._stop.wait(self.EVERY_S):
            self.samples.append(_sample(me, time.monotonic() - began))


@dataclass
class _Seen:
    """One process: bytes of PSS, how much of it is shared memory, what it writes to, its arenas."""

    pss: int
    shared: int
    name: str
    arenas: frozenset[Path]


def _sample(root: psutil.Process, at_s: float) -> Sample:
    seen = list(_processes(root))
    private: dict[str, float] = {}
    for process in seen:
        mib = (process.pss - process.shared) / MIB
        private[process.name] = private.get(process.name, 0.0) + mib
    reserved = 0
    for path in frozenset[Path]().union(*(process.arenas for process in seen)):
        with contextlib.suppress(OSError):
            reserved += path.stat().st_blocks * 512
    unmapped = max(0, reserved - sum(process.shared for process in seen))
    total = sum(process.pss for process in seen) + unmapped
    return Sample(at_s, total / MIB, private)


def _processes(root: psutil.Process) -> Iterator[_Seen]:
    """Descendants of `root`; one that ends meanwhile is left out."""
    for process in root.children(recursive=True):
        with contextlib.suppress(psutil.Error, OSError):
            pss, shared = _rollup(process.pid)
            yield _Seen(pss, shared, _name(process), _open_arenas(process.pid))


def _name(process: psutil.Process) -> str:
    """The log it writes to tells workers apart; their command lines are all the same."""
    path = Path(os.readlink(f"/proc/{process.pid}/fd/1"))
    return path.stem if path.suffix == ".log" else process.name()


def _open_arenas(pid: int) -> frozenset[Path]:
    """An arena's owner keeps its file open, so that each arena is found once."""
    found = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            path = descriptor.readlink()
            if path.name.startswith("dualface-arena-"):
                found.add(path)
    return frozenset(found)


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
