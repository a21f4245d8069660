"""What is sent: pieces of a file, read while they go out, never whole in memory."""

from __future__ import annotations

import json
import os
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from shared.errors import ErrorCode, PermanentError

PIECE_BYTES = 256 << 10

OnProgress = Callable[[int, int], None]
"""Called with bytes so far and bytes in all; perhaps from another thread, never twice at a time."""


class Stamp(NamedTuple):
    """By what a file shows that it was changed. `place` (device, inode): that it was exchanged,
    where it matters whose file a name leads to; None: any."""

    size: int
    mtime_ns: int
    place: tuple[int, int] | None = None


def stamp_of(path: Path) -> Stamp:
    """Raises PermanentError SOURCE_MISSING, SOURCE_UNREADABLE, SOURCE_EMPTY."""
    try:
        facts = path.stat()
        if not path.is_file():
            raise PermanentError(ErrorCode.SOURCE_UNREADABLE, f"{path} is not a file.")
    except FileNotFoundError as error:
        raise PermanentError(ErrorCode.SOURCE_MISSING, f"There is no file {path}.") from error
    except OSError as error:
        raise _unreadable(path, error) from error
    if not facts.st_size:
        raise PermanentError(ErrorCode.SOURCE_EMPTY, f"{path} is empty.")
    return Stamp(facts.st_size, facts.st_mtime_ns)


class Meter:
    """Adds up what several threads send. `on_progress` may be None."""

    def __init__(self, total: int, on_progress: OnProgress | None) -> None:
        self._total = total
        self._tell = on_progress
        self._sent: dict[int, int] = {}
        self._sum = 0
        self._lock = threading.Lock()

    def at(self, start: int, sent: int) -> None:
        """Of the part that begins at `start`, so many bytes have gone out by this try."""
        with self._lock:
            self._sum += sent - self._sent.get(start, 0)
            self._sent[start] = sent
            if self._tell is not None and sent:
                self._tell(self._sum, self._total)


@dataclass(frozen=True)
class FileBody:
    """`length` bytes of a file from `start` on, between `head` and `tail`; may be sent repeatedly.

    `stamp` is the file's as it was announced: once it differs, the last piece is never sent, so no
    mixture of two versions is ever taken for a whole.
    """

    path: Path
    stamp: Stamp
    start: int
    length: int
    meter: Meter
    head: bytes = b""
    tail: bytes = b""

    @property
    def size(self) -> int:
        """Bytes of the body."""
        return len(self.head) + self.length + len(self.tail)

    def pieces(self, halted: Callable[[], bool] = lambda: False) -> Iterator[bytes]:
        """Raises PermanentError SOURCE_CHANGED, SOURCE_UNREADABLE; StoppedError once `halted`."""
        sent = 0
        self.meter.at(self.start, 0)
        try:
            with self.path.open("rb") as file:
                file.seek(self.start)
                if self.head:
                    yield self.head
                while sent < self.length:
                    if halted():
                        raise StoppedError
                    piece = file.read(min(PIECE_BYTES, self.length - sent))
                    if not piece or sent + len(piece) == self.length:
                        self._check(file.fileno(), bool(piece))
                    yield piece
                    sent += len(piece)
                    self.meter.at(self.start, sent)
                if self.tail:
                    yield self.tail
        except OSError as error:
            raise _unreadable(self.path, error) from error

    def _check(self, fd: int, is_last: bool) -> None:
        facts = os.fstat(fd)
        place = (facts.st_dev, facts.st_ino) if self.stamp.place is not None else None
        if not is_last or Stamp(facts.st_size, facts.st_mtime_ns, place) != self.stamp:
            raise PermanentError(
                ErrorCode.SOURCE_CHANGED, f"{self.path} was changed while it was sent."
            )


class StoppedError(Exception):
    """Another part failed; this one is not needed any more."""


def form_of(
    path: Path, stamp: Stamp, name: str, spec: Mapping[str, object], meter: Meter
) -> tuple[FileBody, str]:
    """A multipart/form-data body with the options first and the file last, and its content type."""
    boundary = f"dualface-{secrets.token_hex(16)}"
    # As browsers do (WHATWG, multipart/form-data): no other character needs hiding.
    shown = name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="spec"\r\n\r\n'
        f"{json.dumps(spec)}\r\n"
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{shown}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    tail = f"\r\n--{boundary}--\r\n"
    body = FileBody(path, stamp, 0, stamp.size, meter, head.encode(), tail.encode())
    return body, f"multipart/form-data; boundary={boundary}"


def _unreadable(path: Path, error: OSError) -> PermanentError:
    return PermanentError(
        ErrorCode.SOURCE_UNREADABLE, f"{path} can't be read ({error.strerror or error})."
    )
