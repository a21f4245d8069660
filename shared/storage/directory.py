"""The object store of a single machine: a folder. Atomic by rename within one file system."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.errors import ErrorCode, PermanentError, TemporaryError

SCRATCH = ".scratch"


class DirectoryStore:
    """Objects are files below `root`; scratch folders lie below `root`/.scratch."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, key: str, path: Path) -> None:
        target = self._path(key)
        with self._writing():
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.replace(path, target)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                with self.scratch() as folder:
                    copy = folder / "object"
                    shutil.copyfile(path, copy)
                    os.replace(copy, target)

    def adopt(self, key: str, path: Path) -> None:
        if not path.is_file():
            raise PermanentError(ErrorCode.SOURCE_MISSING, f"There is no file {path}.")
        target = self._path(key)
        with self._writing():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            try:
                os.link(path.resolve(), target)
            except OSError:
                # Another file system, or a file of another user: point at it instead.
                target.symlink_to(path.resolve())

    @contextmanager
    def local(self, key: str) -> Iterator[Path]:
        path = self._path(key)
        if not path.is_file():
            raise PermanentError(ErrorCode.SOURCE_MISSING, f"The object {key} is not in the store.")
        yield path

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        base = self._root / SCRATCH
        with self._writing():
            base.mkdir(parents=True, exist_ok=True)
            made = tempfile.TemporaryDirectory(dir=base, ignore_cleanup_errors=True)
        with made as folder:
            yield Path(folder)

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def keys(self, prefix: str) -> Iterator[str]:
        base = self._path(prefix)
        files = sorted(path for path in base.rglob("*") if path.is_file() or path.is_symlink())
        for path in files:
            yield path.relative_to(self._root).as_posix()

    def delete(self, prefix: str) -> int:
        path = self._path(prefix)
        if path.is_symlink() or path.is_file():
            path.unlink(missing_ok=True)
            return 1
        count = sum(1 for _ in self.keys(prefix)) if path.is_dir() else 0
        shutil.rmtree(path, ignore_errors=True)
        return count

    def clear_scratch(self) -> None:
        """Remove what dead writers left; only while no other process uses the store."""
        shutil.rmtree(self._root / SCRATCH, ignore_errors=True)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """The errors of the house for those of the file system."""
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise TemporaryError(
                    ErrorCode.NO_SPACE,
                    f"The disk of {self._root} is full; free some space and repeat.",
                    5.0,
                ) from error
            raise PermanentError(
                ErrorCode.OUTPUT_UNWRITABLE,
                f"The store {self._root} can't be written ({error.strerror}).",
            ) from error

    def _path(self, key: str) -> Path:
        parts = Path(key).parts
        if not parts or any(part in ("..", "/", SCRATCH) for part in parts):
            raise ValueError(f"not a key: {key!r}")
        return self._root.joinpath(*parts)
