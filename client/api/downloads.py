"""A file that is being fetched: beside its place until it is whole."""

from __future__ import annotations

import errno
import fcntl
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import httpx

from client.api.bodies import OnProgress
from client.api.errors import elsewhere, unreadable
from client.placing import part_of
from shared.errors import ErrorCode, PermanentError

CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18})")


class Download:
    """Its methods raise PermanentError OUTPUT_UNWRITABLE, NO_SPACE, BUSY (somebody else fetches to
    the same place just now). What is left by a process that was killed is begun anew."""

    def __init__(self, target: Path, on_progress: OnProgress | None) -> None:
        self._target = target
        self._part = part_of(target)
        self._tell = on_progress
        self._file: BinaryIO | None = None
        self._total: int | None = None
        self.bytes = 0

    @property
    def complete(self) -> bool:
        """All bytes are there."""
        return self._total is not None and self.bytes == self._total

    def open(self) -> None:
        """Begin with an empty file, which is ours alone."""
        try:
            if self._target.is_dir():
                raise PermanentError(
                    ErrorCode.OUTPUT_UNWRITABLE, f"{self._target} is a folder; name a file."
                )
            while self._file is None:
                self._file = _ours(self._part)
        except BlockingIOError as error:
            raise PermanentError(
                ErrorCode.BUSY, f"{self._target} is being fetched by another process."
            ) from error
        except OSError as error:
            raise self._unwritable(error) from error

    def headers(self) -> Mapping[str, str]:
        """Of the next request."""
        plain = {"Accept-Encoding": "identity"}
        return {**plain, "Range": f"bytes={self.bytes}-"} if self.bytes else plain

    def begin(self, response: httpx.Response) -> Callable[[bytes], object]:
        """What takes the body of an answer. Raises ApiError when it is not what was asked for."""
        if response.has_redirect_location:
            raise elsewhere(response)
        if response.status_code == httpx.codes.PARTIAL_CONTENT:
            found = CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
            if found is None:
                raise unreadable("a part of a file without its place")
            start, total = int(found[1]), int(found[2])
            if start != self.bytes or (self._total is not None and total != self._total):
                self.again()
                raise unreadable("another part of the file")
            self._total = total
        else:
            self.again()
            length = response.headers.get("content-length", "")
            if not length.isdecimal():
                raise unreadable("a file of no length")
            self._total = int(length)
        return self.write

    def write(self, data: bytes) -> None:
        """Some more."""
        assert self._file is not None
        try:
            self._file.write(data)
        except OSError as error:
            raise self._unwritable(error) from error
        self.bytes += len(data)
        if self._tell is not None and self._total is not None:
            self._tell(self.bytes, self._total)

    def again(self) -> None:
        """Forget what is there."""
        assert self._file is not None
        try:
            self._file.seek(0)
            self._file.truncate()
        except OSError as error:
            raise self._unwritable(error) from error
        self.bytes, self._total = 0, None

    def finish(self) -> None:
        """It is whole: put it in place."""
        assert self._file is not None
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            os.replace(self._part, self._target)
        except OSError as error:
            raise self._unwritable(error) from error
        self._file.close()
        self._file = None

    def close(self) -> None:
        """Nothing is left beside the place."""
        if self._file is not None:
            with suppress(OSError):  # a full disk is not told of twice
                self._part.unlink(missing_ok=True)
                self._file.close()
            self._file = None

    def _unwritable(self, error: OSError) -> PermanentError:
        code = ErrorCode.NO_SPACE if error.errno == errno.ENOSPC else ErrorCode.OUTPUT_UNWRITABLE
        return PermanentError(code, f"{self._target} can't be written ({error.strerror or error}).")


def _ours(path: Path) -> BinaryIO | None:
    """The file, empty and locked; None when it was moved away meanwhile. Raises BlockingIOError."""
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+b", 1 << 20)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _is_at(path, file):
            file.close()
            return None
        file.truncate()
    except BaseException:
        file.close()
        raise
    return file


def _is_at(path: Path, file: BinaryIO) -> bool:
    """False when it was moved away, or removed."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
