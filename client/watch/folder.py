"""What lies in a folder, and whether it is whole."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Iterator, Set
from dataclasses import dataclass
from pathlib import Path

from client.api import Stamp

SAMPLE_BYTES = 64 << 10
TEMPORARY = frozenset(
    {
        *(".part", ".partial", ".filepart", ".crdownload", ".download", ".opdownload"),
        *(".tmp", ".temp", ".swp", ".aria2", ".!ut", ".!qb"),
    }
)
"""What programs call a file that they still write."""


@dataclass(frozen=True, slots=True)
class Found:
    """A file in the folder. `hint` changes with anything about it, its name and rights too."""

    path: Path
    stamp: Stamp
    place: tuple[int, int]
    hint: tuple[int, int]

    @property
    def name(self) -> str:
        """Within the folder."""
        return self.path.name

    @property
    def exactly(self) -> Stamp:
        """Of this very file, whatever its name leads to later."""
        return self.stamp._replace(place=self.place)


def is_ignored(name: str) -> bool:
    """True for hidden files and for names that programs give to what is not whole yet."""
    lower = name.lower()
    return lower.startswith((".", "~$")) or lower.endswith("~") or Path(lower).suffix in TEMPORARY


def scan(folder: Path) -> list[Found]:
    """Plain files, oldest first; links are not followed, since they may lead to what whoever drops
    files here may not read. Raises OSError when the folder can't be read."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_ignored(entry.name):
                continue
            try:
                facts = entry.stat(follow_symlinks=False)
            except OSError:
                continue  # gone since
            if stat.S_ISREG(facts.st_mode) and facts.st_size:
                found.append(_found(Path(entry.path), facts))
    return sorted(found, key=lambda each: (each.stamp.mtime_ns, each.name))


def find(path: Path) -> Found | None:
    """One file; None when there is none, or a link."""
    try:
        facts = path.lstat()
    except OSError:
        return None
    return _found(path, facts) if stat.S_ISREG(facts.st_mode) else None


def sample_of(found: Found) -> str | None:
    """Hash of its beginning, middle and end; None when it has changed meanwhile, or can't be
    read: both are looked at again."""
    size = found.stamp.size
    digest = hashlib.sha256()
    starts = sorted({0, max(0, (size - SAMPLE_BYTES) // 2), max(0, size - SAMPLE_BYTES)})
    try:
        fd = os.open(found.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            for start in starts:
                digest.update(os.pread(fd, SAMPLE_BYTES, start))
            facts = os.fstat(file.fileno())
    except OSError:
        return None
    same = _found(found.path, facts).stamp == found.stamp
    return digest.hexdigest()[:32] if same else None


class Settling:
    """Which files have been left alone for long enough."""

    def __init__(self, settle_s: float) -> None:
        self._settle_s = settle_s
        self._since: dict[str, tuple[Found, float]] = {}

    def settled(self, found: list[Found]) -> list[Found]:
        """Those of a scan that haven't changed for `settle_s`: since an earlier scan, or, where
        they were whole before they came here, by their own time."""
        now, clock_s = time.monotonic(), time.time()
        since: dict[str, tuple[Found, float]] = {}
        for each in found:
            before, at = self._since.get(each.name, (None, now))
            since[each.name] = (each, at if before == each else now)
        self._since = since
        return [
            each
            for each in found
            if now - since[each.name][1] >= self._settle_s
            or clock_s - each.stamp.mtime_ns / 1e9 >= self._settle_s
        ]


def being_written(places: Set[tuple[int, int]]) -> set[tuple[int, int]]:
    """Which of these (device, inode) a process has open for writing, as far as /proc shows: other
    users' processes, other machines' and those of other containers are not seen."""
    return {place for place in _written() if place in places} if places else set()


def _written() -> Iterator[tuple[int, int]]:
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal():
            continue
        try:
            names = os.listdir(process / "fd")
        except OSError:
            continue  # not ours, or gone
        for name in names:
            try:
                facts = os.stat(process / "fd" / name)
                if not stat.S_ISREG(facts.st_mode):
                    continue
                text = (process / "fdinfo" / name).read_text()
            except OSError:
                continue
            flags = next((x.split()[1] for x in text.splitlines() if x.startswith("flags:")), "0")
            if int(flags, 8) & os.O_ACCMODE != os.O_RDONLY:
                yield facts.st_dev, facts.st_ino


def _found(path: Path, facts: os.stat_result) -> Found:
    return Found(
        path,
        Stamp(facts.st_size, facts.st_mtime_ns),
        (facts.st_dev, facts.st_ino),
        (facts.st_ctime_ns, facts.st_ino),
    )
