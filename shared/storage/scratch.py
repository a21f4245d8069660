"""Folders on the local disk for files on their way to or from a store that lies elsewhere."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.errors import ErrorCode, PermanentError
from shared.processes import started_ticks
from shared.storage.directory import writing

LATECOMERS = 16
"""More than the downloads that one folder is filled by at a time; each makes at most one file after
nobody wants it any more."""


class Scratch:
    """Folders below `root`, each named after the process that made it: what one that was killed
    left is told from what is in use, also where several stacks share the disk."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """A new folder, removed at the end with all that is in it.

        Raises TemporaryError NO_SPACE, PermanentError OUTPUT_UNWRITABLE.
        """
        with writing(self._root):
            self._root.mkdir(parents=True, exist_ok=True)
            made = tempfile.mkdtemp(prefix=f"{_process(os.getpid())}.", dir=self._root)
        try:
            yield Path(made)
        finally:
            _remove(made)

    def clear(self) -> int:
        """Remove the folders of this host's processes that are gone; returns how many."""
        count = 0
        try:
            names = os.listdir(self._root)
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise PermanentError(
                ErrorCode.OUTPUT_UNWRITABLE,
                f"The scratch folder {self._root} can't be read ({error.strerror}).",
            ) from error
        for name in names:
            if self._is_abandoned(name):
                shutil.rmtree(self._root / name, ignore_errors=True)
                count += 1
        return count

    def _is_abandoned(self, name: str) -> bool:
        process, _, _ = name.rpartition(".")
        host, _, rest = process.partition("!")
        pid, _, _ = rest.partition(".")
        return host == _host() and pid.isdecimal() and process != _process(int(pid))


def _remove(folder: str) -> None:
    """With all that is in it, and what a download that was dropped puts there meanwhile."""
    for _ in range(1 + LATECOMERS):
        shutil.rmtree(folder, ignore_errors=True)
        if not os.path.lexists(folder):
            return


def _host() -> str:
    return socket.gethostname().replace("/", "_")


def _process(pid: int) -> str:
    """Names a process for good: pids are used again."""
    return f"{_host()}!{pid}.{int(started_ticks(pid))}"
