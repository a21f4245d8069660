"""Writes the files of settings: whole or not at all, one writer at a time."""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shared.errors import ErrorCode, PermanentError

FOR_OWNER = 0o600
"""Of a new file: addresses in it may have passwords."""


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Make the folder, and be the only one who writes into it. Blocks while another does, for
    milliseconds. Raises PermanentError OUTPUT_UNWRITABLE."""
    with _explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        # The folder itself is locked: nothing is left behind.
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with _explained(folder):
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def write_whole(path: Path, text: str) -> None:
    """Replace the file, keeping its mode; a link stays one, and where it leads is replaced. Whoever
    reads meanwhile, and a power cut, find either the old file or the new one.

    Raises PermanentError OUTPUT_UNWRITABLE, with the old file as it was.
    """
    with _explained(path):
        target = path.resolve()
        mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else FOR_OWNER
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(text.encode())
                file.flush()
                os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
            os.replace(name, target)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(name)
            raise


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PermanentError(
            ErrorCode.OUTPUT_UNWRITABLE,
            f"{path} can't be written ({error.strerror}); set DUALFACE_CONFIG_DIR to a folder "
            "that can.",
        ) from error
