"""The object store: where sources, segments, chunks and results lie. One interface, many stores."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol


class ObjectStore(Protocol):
    """Keys are '/'-separated relative names. An object appears whole or not at all."""

    def put(self, key: str, path: Path) -> None:
        """Store the file, replacing an older object; the file may be moved away by it."""

    def adopt(self, key: str, path: Path) -> None:
        """Store somebody else's file, which stays where it is; linked rather than copied if it can.

        Raises PermanentError SOURCE_MISSING when it is not there.
        """

    def local(self, key: str) -> AbstractContextManager[Path]:
        """A readable local file with the object's bytes, for the time of the `with` block.

        Raises PermanentError SOURCE_MISSING when there is no such object.
        """

    def scratch(self) -> AbstractContextManager[Path]:
        """A folder for files about to be `put`; removed with all that is left in it."""

    def exists(self, key: str) -> bool:
        """True when the object is there."""

    def keys(self, prefix: str) -> Iterator[str]:
        """All keys below `prefix`, in order."""

    def delete(self, prefix: str) -> int:
        """Delete the object `prefix` and all below `prefix`/; returns how many. Idempotent."""
