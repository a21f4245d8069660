"""A model's file on its way into a folder: there under its name when it is whole, or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from shared.errors import ErrorCode, PermanentError

MODEL_BYTES_MAX = 512 * 1024 * 1024
"""YOLOv8x has some 270 MB in float32; what is longer is no face detector."""

_PREFIX = ".draft-"


class Draft:
    """A file that nobody else looks for until it is placed. Made by `draft`."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path = path
        self._file = file
        self._digest = hashlib.sha256()
        self._size = 0

    @property
    def sha256(self) -> str:
        """Of all that was written."""
        return self._digest.hexdigest()

    @property
    def size_bytes(self) -> int:
        """Of all that was written."""
        return self._size

    def write(self, pieces: Iterable[bytes]) -> None:
        """Add to the file, piece by piece.

        Raises PermanentError: TOO_LARGE beyond MODEL_BYTES_MAX, NO_SPACE.
        """
        for piece in pieces:
            self._size += len(piece)
            if self._size > MODEL_BYTES_MAX:
                raise too_large()
            self._digest.update(piece)
            try:
                self._file.write(piece)
            except OSError as error:
                raise unwritable(self.path.parent, error) from error
        self.flush()

    def flush(self) -> None:
        """Others can read what was written."""
        try:
            self._file.flush()
        except OSError as error:
            raise unwritable(self.path.parent, error) from error

    def place(self, name: str) -> Path:
        """Give the file its name in the same folder, instead of what had it; on disk by then."""
        target = self.path.with_name(name)
        try:
            os.fsync(self._file.fileno())
            os.fchmod(self._file.fileno(), 0o644)
            os.replace(self.path, target)
        except OSError as error:
            raise unwritable(self.path.parent, error) from error
        return target


@contextmanager
def draft(folder: Path) -> Iterator[Draft]:
    """A new file in `folder`, which is made; it is gone at the end unless it was placed.

    Raises PermanentError NO_SPACE where it can't be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        path, file = _locked(folder)
    except OSError as error:
        raise unwritable(folder, error) from error
    try:
        yield Draft(path, file)
    finally:
        path.unlink(missing_ok=True)
        with suppress(OSError):  # a full disk, told before
            file.close()


def too_large() -> PermanentError:
    """What is raised beyond MODEL_BYTES_MAX."""
    mib = MODEL_BYTES_MAX >> 20
    return PermanentError(ErrorCode.TOO_LARGE, f"the model file has more than {mib} MiB")


def unwritable(folder: Path, error: OSError) -> PermanentError:
    """What is raised where the folder can't take a file."""
    return PermanentError(
        ErrorCode.NO_SPACE,
        f"the folder {folder} can't be written ({error.strerror or error}); "
        "free space there or choose another cache folder",
    )


def _locked(folder: Path) -> tuple[Path, IO[bytes]]:
    """A new file, marked by a lock that the kernel takes off when its process ends."""
    while True:
        handle, name = tempfile.mkstemp(dir=folder, prefix=_PREFIX, suffix=".onnx")
        file = os.fdopen(handle, "wb")
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:
            return Path(name), file
        file.close()  # swept away in between


def _sweep(folder: Path) -> None:
    """Remove what killed processes left: nobody holds its lock."""
    for path in folder.glob(f"{_PREFIX}*"):
        with suppress(FileNotFoundError, BlockingIOError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
