"""The object store: where sources, segments, chunks and results lie. One interface, many stores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol, runtime_checkable

SCRATCH = ".scratch"
"""No part of a key; the directory store has unfinished files there."""

PIECE_BYTES = 1 << 20
"""Most bytes of one piece of `read`."""


class ObjectStore(Protocol):
    """Keys are '/'-separated relative names. An object appears whole or not at all.

    Every method may block for as long as the store was told to be patient with a server that is
    away, and calls its `on_wait` meanwhile; then it raises StoreAwayError. StoreRefusedError comes
    at once, when waiting cannot help; TemporaryError NO_SPACE when a disk or the store is full.
    """

    def check(self) -> None:
        """See that objects can be written, read, listed and deleted."""

    def put(self, key: str, path: Path) -> None:
        """Store the file, replacing an older object; the file may be moved away by it."""

    def adopt(self, key: str, path: Path) -> None:
        """Store somebody else's file, which stays where it is; linked rather than copied if it can.

        Raises PermanentError SOURCE_MISSING when it is not there.
        """

    def write(self, key: str, pieces: Iterable[bytes]) -> int:
        """Store what comes piece by piece, replacing an older object; returns its bytes.

        Memory does not depend on how many. Whatever `pieces` raises passes, and nothing is stored.
        """

    def read(self, key: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """The object's bytes from `start` on, at most `length`, in pieces of at most PIECE_BYTES.

        The first piece raises PermanentError SOURCE_MISSING when there is no such object. Nothing
        stays open when the iterator is closed early.
        """

    def local(self, key: str) -> AbstractContextManager[Path]:
        """A readable local file with the object's bytes, for the time of the `with` block.

        Raises PermanentError SOURCE_MISSING when there is no such object.
        """

    def local_many(self, keys: Sequence[str]) -> AbstractContextManager[list[Path]]:
        """`local` of many objects, some at a time; files in the order of `keys`."""

    def scratch(self) -> AbstractContextManager[Path]:
        """A folder for files about to be `put`; removed with all that is left in it."""

    def exists(self, key: str) -> bool:
        """True when the object is there."""

    def size(self, key: str) -> int | None:
        """Bytes of the object, None when it is not there."""

    def keys(self, prefix: str) -> Iterator[str]:
        """All keys below `prefix`, in the order of their bytes, looked up as they are asked for."""

    def delete(self, prefix: str) -> int:
        """Delete the object `prefix` and all below `prefix`/; returns how many. Idempotent.

        Goes on when `on_wait` raises WorkOverError: what a job left is removed when it has ended.
        """

    def link(self, key: str, valid_s: int, name: str) -> str | None:
        """An address where anybody may download the object for so long, as a file called `name`;
        None where the store has no such thing."""

    def clear_leftovers(self, older_than_s: float) -> int:
        """Remove what writers that died left unfinished so long ago; returns how many."""


@dataclass(frozen=True, slots=True)
class OpenUpload:
    """An upload in parts that was begun and not completed. `begun` with its time zone."""

    key: str
    upload: str
    begun: datetime


@runtime_checkable
class DirectUploads(Protocol):
    """A store that clients may send an object to, part by part, past this service."""

    def begin(self, key: str) -> str:
        """Begin an upload; its id. Nothing shows under `key` until it is complete."""

    def part_link(self, key: str, upload: str, number: int, valid_s: int) -> str:
        """Where to PUT part `number` (from 1; all but the last at least 5 MiB), for so long. The
        answer's ETag belongs to `complete`."""

    def complete(self, key: str, upload: str, parts: Sequence[tuple[int, str]]) -> None:
        """Make the object of its parts: (number, ETag) in order. Idempotent once it succeeded.

        Raises PermanentError BAD_OPTION when they are not what was sent, SOURCE_MISSING when there
        is no such upload.
        """

    def abort(self, key: str, upload: str) -> None:
        """Drop the upload and its parts. Idempotent."""

    def open_uploads(self, prefix: str, older_than: datetime) -> Iterator[OpenUpload]:
        """Uploads to keys below `prefix` that were begun before `older_than` and are still open."""


def key_parts(key: str) -> list[str]:
    """The names that a key is made of. Raises ValueError for what is no key."""
    parts = key.split("/")
    if any(part in ("", ".", "..", SCRATCH) for part in parts) or "\0" in key:
        raise ValueError(f"not a key: {key!r}")
    return parts
