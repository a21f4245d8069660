"""The figures of all processes of a host (or pod), in files of one folder. Wraps prometheus_client.

prometheus_client's multiprocess mode: each process maps files of its own, one per kind of metric,
and whoever is asked adds them up. What is done here beside it:

Names. A pid is used again, and two containers may both be process 1: a process is PID-RANDOM, and
holds a lock on NAME.lock that ends with it, whichever way, also across pid namespaces.

Dead processes. Their counters and histograms are added to an archive, their gauges vanish; so the
folder stays small however often a worker dies, and a counter never goes back. An archive is a
folder that says which processes are in it. It becomes valid by a rename, then the one before it
goes, then the dead ones' files: a reader that meets a file that is gone looks again, and one that
sees both archive and file knows which to leave out. So readers need no lock, and whoever folds may
die anywhere.

Space. Files are reserved before they are mapped: a write to a mapped page without space on its disk
ends the process.
"""

from __future__ import annotations

import fcntl
import math
import os
import shutil
import struct
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, values
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.values import MultiProcessValue

from shared.logs import Log
from shared.metrics.catalogue import Metric
from shared.metrics.meter import Instrument

GAUGES = "gauge_mostrecent"
FILES = ("counter", "histogram", GAUGES)
RESERVED_BYTES = 64 * 1024
"""Of each file. A stage's process fills a third of one; the coordinator of ten arenas may
need more, and prometheus_client then lets the file grow, unreserved."""

ENTRY_BYTES = 32
"""What an entry takes at most beside its key: two lengths, padding, value and time."""

ARCHIVE = "archive-"
FOLDED = "folded"
LOOKS = 20
"""A reader looks again when a file has gone meanwhile: it would have to meet as many deaths."""


class FileBook:
    """The files of one process. Not more than one per process: prometheus_client keeps the kind of
    its values, and the folder, for the whole process. Forks get files of their own."""

    def __init__(self, folder: Path) -> None:
        """Takes in what dead processes left. Raises OSError when `folder` can't be written."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not _archives(folder):
            (folder / f"{ARCHIVE}{0:08d}").mkdir(exist_ok=True)
        fold(folder)
        self._folder = folder
        self._registry = CollectorRegistry()
        self._kind = MultiProcessValue(_Identity(folder))  # type: ignore[no-untyped-call]
        self._families: dict[str, Counter | Gauge | Histogram] = {}

    def instrument(self, metric: Metric, labels: tuple[str, ...]) -> Instrument:
        """See `Book`."""
        # What prometheus_client asks whenever it makes a value, in tests of more than one folder.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(self._folder)
        values.ValueClass = self._kind
        family = self._families.get(metric.name)
        if family is None:
            family = self._families[metric.name] = self._make(metric)
        found: Instrument = family.labels(*labels) if labels else family  # type: ignore[assignment]  # each kind has only its own method
        return found

    def _make(self, metric: Metric) -> Counter | Gauge | Histogram:
        names, registry = metric.label_names, self._registry
        if metric.kind == "counter":
            return Counter(metric.name, metric.help, names, registry=registry)
        if metric.kind == "gauge":
            return Gauge(
                metric.name,
                metric.help,
                names,
                registry=registry,
                multiprocess_mode="mostrecent",
            )
        return Histogram(metric.name, metric.help, names, registry=registry, buckets=metric.buckets)


class _Identity:
    """This process's name in the folder; a new one after every fork."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pid = 0
        self._name = ""
        self._lock = -1

    def __call__(self) -> str:
        pid = os.getpid()
        if pid != self._pid:
            name = f"{pid}-{uuid.uuid4().hex[:8]}"
            lock = _enter(self._folder, name)
            if self._lock >= 0:
                os.close(self._lock)  # the parent's, which still holds it
            self._pid, self._name, self._lock = pid, name, lock
        return self._name


def _enter(folder: Path, name: str) -> int:
    """Reserve the files of a process and lock its name; the lock's descriptor."""
    part = folder / f"{name}.part"
    lock = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        part.rename(folder / f"{name}.lock")  # nobody sees it unlocked while we live
        for kind in FILES:
            _reserve(folder / f"{kind}_{name}.db", RESERVED_BYTES)
    except OSError:
        os.close(lock)
        raise
    return lock


def _reserve(path: Path, size: int) -> None:
    """An empty file of figures that has all its blocks. Seen by others only when it is whole."""
    part = path.with_suffix(".part")
    fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError:
        part.unlink()
        raise
    finally:
        os.close(fd)
    part.rename(path)


def fold(folder: Path) -> None:
    """Take what dead processes left into the archive; nothing while another process does that."""
    with _alone(folder) as alone:
        if not alone:
            return
        archives = _archives(folder)
        if not archives:
            return  # the first process is just making it, and none has died yet
        newest = archives[-1]
        # First what one left that died here: once another archive is written, none says that it is
        # in there already.
        _leave_only(folder, newest, _names(newest))
        dead = {name for name in _lock_names(folder) if _is_dead(folder, name)}
        if dead:
            _leave_only(folder, _write_archive(folder, newest, dead), dead)


def _leave_only(folder: Path, newest: Path, done: Iterable[str]) -> None:
    """Remove the archives before the `newest`, and the files of those that are `done` with."""
    gone = folder / "old"
    for old in _archives(folder):
        if old != newest:
            # Away at once: readers must not take what is left of it for all.
            shutil.rmtree(gone, ignore_errors=True)
            old.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)
    for name in done:
        for path in folder.glob(f"*_{name}.*"):
            path.unlink(missing_ok=True)
        (folder / f"{name}.lock").unlink(missing_ok=True)


def _write_archive(folder: Path, before: Path, dead: Iterable[str]) -> Path:
    number = int(before.name.removeprefix(ARCHIVE)) + 1
    fresh, final = folder / "new", folder / f"{ARCHIVE}{number:08d}"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    (fresh / FOLDED).write_text("\n".join(dead))
    for kind in ("counter", "histogram"):
        files = [folder / f"{kind}_{name}.db" for name in dead]
        files.append(before / f"{kind}_archive.db")
        sums: dict[str, float] = defaultdict(float)
        for path in files:
            for key, value in _figures(path):
                sums[key] += value
        size = ENTRY_BYTES + sum(len(key.encode()) + ENTRY_BYTES for key in sums)
        _reserve(fresh / f"{kind}_archive.db", size)
        archive = MmapedDict(str(fresh / f"{kind}_archive.db"))  # type: ignore[no-untyped-call]
        for key, value in sums.items():
            archive.write_value(key, value, 0.0)  # type: ignore[no-untyped-call]
        archive.close()  # type: ignore[no-untyped-call]
    fresh.rename(final)
    return final


def _figures(path: Path) -> list[tuple[str, float]]:
    """What a dead process wrote; nothing when a power cut has spoilt it."""
    try:
        rows = MmapedDict.read_all_values_from_file(path)  # type: ignore[no-untyped-call]
        return [(key, value) for key, value, _, _ in rows]
    except FileNotFoundError:
        return []  # it died before it counted, or it is the first archive
    except (RuntimeError, ValueError, struct.error) as error:
        Log().warning("figures of a dead process are lost", file=path.name, reason=str(error))
        return []


def render(folder: Path) -> tuple[bytes, str]:
    """All figures in Prometheus's text format, and its content type. Empty when nobody counts."""
    registry = CollectorRegistry()
    registry.register(_Collector(folder))
    return generate_latest(registry), CONTENT_TYPE_PLAIN_0_0_4


class _Collector:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def describe(self) -> Iterable[Family]:
        """Nothing: what there is, is known when it is asked for."""
        return []

    def collect(self) -> Iterator[Family]:
        """Living processes and the archive."""
        if not self._folder.is_dir():
            return
        with suppress(OSError):  # a full disk is no reason to show nothing
            fold(self._folder)
        for look in range(LOOKS):
            try:
                merge = MultiProcessCollector.merge
                families = list(merge(_files(self._folder)))  # type: ignore[no-untyped-call]
            except FileNotFoundError:
                if look < LOOKS - 1:
                    continue
                raise
            for family in sorted(families, key=lambda family: family.name):
                # What was forgotten (`Meter.forget`) is still in the file.
                family.samples = [each for each in family.samples if not math.isnan(each.value)]
                if family.samples:
                    yield family
            return


def _files(folder: Path) -> list[str]:
    """What to add up. Raises FileNotFoundError when it changed while it was looked at."""
    entries = sorted(os.listdir(folder))
    archives = [entry for entry in entries if entry.startswith(ARCHIVE)]
    if not archives:
        return []  # nobody has counted yet
    archive = folder / archives[-1]
    done = _names(archive)
    files = [entry for entry in entries if entry.endswith(".db")]
    living = [entry for entry in files if entry.rpartition("_")[2][: -len(".db")] not in done]
    kept = sorted(entry.name for entry in archive.iterdir() if entry.suffix == ".db")
    return [str(folder / entry) for entry in living] + [str(archive / entry) for entry in kept]


def _archives(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{ARCHIVE}*"))


def _names(archive: Path) -> set[str]:
    """Who is in an archive. Raises FileNotFoundError when the archive itself is gone."""
    try:
        return set((archive / FOLDED).read_text().split())
    except FileNotFoundError:
        archive.stat()
        return set()  # the first one, made empty


def _lock_names(folder: Path) -> list[str]:
    return [path.stem for path in folder.glob("*.lock")]


def _is_dead(folder: Path, name: str) -> bool:
    """True when nobody holds the name's lock: it ends with its process, whichever way."""
    try:
        fd = os.open(folder / f"{name}.lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return _locks(fd)
    finally:
        _let_go(fd)


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """True for the only process that folds; whoever holds it may be frozen, so nobody waits."""
    fd = os.open(folder / "fold", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield _locks(fd)
    finally:
        _let_go(fd)


def _let_go(fd: int) -> None:
    """Unlock and close. Closing is not enough: a child that another thread forked meanwhile has the
    file open, too, and would hold the lock for as long as it lives."""
    try:
        fcntl.flock(fd, fcntl.LOCK_UN)
    finally:
        os.close(fd)


def _locks(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
