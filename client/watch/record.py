"""What a watched folder's files have come to, kept so that no moment's crash has one taken twice.

`.dualface/watch.jsonl` in the folder has a line for every step, written and synced before the step
is taken (`sending` before the first byte goes out) or right after it cannot be undone (`sent`). The
last line of a name counts; a torn last line counts as never written.

| state | on disk since | after a crash |
|---|---|---|
| taken | it was found whole | it is sent |
| sending | its upload had an id | that upload becomes the job, if it arrived or is one already; else it is sent anew: an upload that nobody submits is none |
| sent | its job was accepted | the job is followed |
| done | its result was in place | nothing |
| failed | the service or we refused it | nothing, until it is asked for |
| gone | it was changed or removed before it was sent | what is there now is another file |
"""  # noqa: E501

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from io import FileIO
from pathlib import Path

from client.api import Stamp
from client.placing import fits, split_name
from shared.errors import ErrorCode, PermanentError

FOLDER = ".dualface"
KEPT = timedelta(days=30)
"""How long a file that is not there any more is remembered."""


class State(StrEnum):
    """How far a file is."""

    TAKEN = "taken"
    SENDING = "sending"
    SENT = "sent"
    DONE = "done"
    FAILED = "failed"
    GONE = "gone"

    @property
    def ended(self) -> bool:
        """Nothing more happens by itself."""
        return self in (State.DONE, State.FAILED, State.GONE)


@dataclass(frozen=True, slots=True)
class Entry:
    """One version of a file. `sample`: hash of some of its content. `output`: its result's name in
    the folder of results. `upload`: `upload:ID`; `code`, `message`: why it failed."""

    name: str
    size: int
    mtime_ns: int
    sample: str
    output: str
    state: State = State.TAKEN
    upload: str = ""
    job: str = ""
    code: str = ""
    message: str = ""
    at: str = ""

    @property
    def stamp(self) -> Stamp:
        """As the file showed when it was taken."""
        return Stamp(self.size, self.mtime_ns)

    @property
    def key(self) -> str:
        """The same for the same name, size, time and content: what is never taken twice."""
        text = f"{self.name}\n{self.size}\n{self.mtime_ns}\n{self.sample}"
        return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:32]


class Record:
    """The record of one folder, ours alone; threads may share it. Made by `open_record`."""

    def __init__(self, path: Path, file: FileIO, entries: dict[str, Entry]) -> None:
        self._path = path
        self._file = file
        self._entries = entries
        self._lock = threading.Lock()

    def all(self) -> list[Entry]:
        """The latest of every name."""
        return list(self._entries.values())

    def find(self, name: str) -> Entry | None:
        """The latest of a name."""
        return self._entries.get(name)

    def put(self, entry: Entry, state: State, **facts: str) -> Entry:
        """Write down how it stands now; on disk when this returns."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        made = replace(entry, state=state, at=now, **facts)  # type: ignore[arg-type]
        with self._lock:
            self._append(_line(made))
            self._entries[made.name] = made
        return made

    def _append(self, line: bytes) -> None:
        """Whole or not at all, as far as a full disk goes. Raises PermanentError."""
        fd = self._file.fileno()
        before = os.fstat(fd).st_size
        try:
            if os.write(fd, line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(fd)
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(fd, before)
            raise _unwritable(self._path.parent, error) from error

    def output_for(self, name: str) -> str:
        """NAME-split.mp4, the same for every version of a file, another for every other file."""
        known = self._entries.get(name)
        if known is not None:
            return known.output
        return _output_of(name, self._entries.values())


@contextmanager
def open_record(folder: Path) -> Iterator[Record]:
    """The record of `folder`, locked until the context ends.

    Raises PermanentError BUSY when another watcher has it, OUTPUT_UNWRITABLE when it can't be kept.
    """
    own = folder / FOLDER
    path = own / "watch.jsonl"
    with ExitStack() as opened:
        try:
            own.mkdir(mode=0o700, exist_ok=True)
            lock = opened.enter_context((own / "lock").open("ab"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            entries = _kept(folder, _read(path))
            _rewrite(path, entries)
            file = opened.enter_context(FileIO(path, "ab"))
        except BlockingIOError as error:
            raise PermanentError(
                ErrorCode.BUSY, f"Another `dualface watch` watches {folder} already."
            ) from error
        except OSError as error:
            raise _unwritable(own, error) from error
        yield Record(path, file, entries)


def _output_of(name: str, entries: Iterable[Entry]) -> str:
    """A name that none of them has."""
    return split_name(Path(name).stem, taken={entry.output for entry in entries})


def _unwritable(folder: Path, error: OSError) -> PermanentError:
    return PermanentError(
        ErrorCode.OUTPUT_UNWRITABLE,
        f"What becomes of the files can't be written down in {folder} ({error.strerror}).",
    )


def _read(path: Path) -> dict[str, Entry]:
    """The latest entry of each name. A line that is none is passed over: it was torn."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return {}
    found: dict[str, Entry] = {}
    for line in lines:
        try:
            facts = json.loads(line)
            entry = Entry(**{**facts, "state": State(facts["state"])})
        except (ValueError, TypeError, KeyError):
            continue
        found[entry.name] = entry
    return found


def _kept(folder: Path, entries: dict[str, Entry]) -> dict[str, Entry]:
    limit = (datetime.now(UTC) - KEPT).isoformat(timespec="seconds")
    kept = {
        name: entry
        for name, entry in entries.items()
        if not entry.state.ended or entry.at > limit or (folder / name).exists()
    }
    for name, entry in kept.items():
        if not fits(entry.output):  # as former releases chose it: no file can be called so
            kept[name] = replace(entry, output=_output_of(name, kept.values()))
    return kept


def _rewrite(path: Path, entries: dict[str, Entry]) -> None:
    """One line for each name; so the record does not grow for ever."""
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        for entry in entries.values():
            file.write(_line(entry))
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _line(entry: Entry) -> bytes:
    # Names of files need not be text; in ASCII JSON they survive.
    return json.dumps(asdict(entry)).encode("ascii") + b"\n"
