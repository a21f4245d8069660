"""The object store of a single machine: a folder. Atomic by rename within one file system."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from shared.errors import ErrorCode, PermanentError, TemporaryError
from shared.storage.base import PIECE_BYTES, SCRATCH, key_parts


class DirectoryStore:
    """Objects are files below `root`; scratch folders lie below `root`/.scratch."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def check(self) -> None:
        with self.scratch() as folder, writing(self._root):
            # Not even a page: an empty file can be made on a full disk.
            (folder / "check").write_bytes(bytes(4096))

    def put(self, key: str, path: Path) -> None:
        target = self._path(key)
        with writing(self._root):
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
            raise _no_file(path)
        target = self._path(key)
        with writing(self._root):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            try:
                os.link(path.resolve(), target)
            except OSError:
                # Another file system, or a file of another user: point at it instead.
                target.symlink_to(path.resolve())

    def write(self, key: str, pieces: Iterable[bytes]) -> int:
        self._path(key)
        count = 0
        with self.scratch() as folder:
            path = folder / "object"
            with path.open("wb") as file:
                # Only our own writing is spoken of as such: an OSError of `pieces` is its caller's.
                for piece in pieces:
                    with writing(self._root):
                        file.write(piece)
                    count += len(piece)
                with writing(self._root):
                    file.flush()
            self.put(key, path)
        return count

    def read(self, key: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        path = self._path(key)
        try:
            file = path.open("rb")
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise missing(key) from error
        with file:
            file.seek(start)
            left = length
            while left is None or left > 0:
                piece = file.read(PIECE_BYTES if left is None else min(left, PIECE_BYTES))
                if not piece:
                    return
                left = None if left is None else left - len(piece)
                yield piece

    @contextmanager
    def local(self, key: str) -> Iterator[Path]:
        path = self._path(key)
        if not path.is_file():
            raise missing(key)
        yield path

    @contextmanager
    def local_many(self, keys: Sequence[str]) -> Iterator[list[Path]]:
        with ExitStack() as stack:
            yield [stack.enter_context(self.local(key)) for key in keys]

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        base = self._root / SCRATCH
        with writing(self._root):
            base.mkdir(parents=True, exist_ok=True)
            made = tempfile.TemporaryDirectory(dir=base, ignore_cleanup_errors=True)
        with made as folder:
            yield Path(folder)

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def size(self, key: str) -> int | None:
        path = self._path(key)
        try:
            return path.stat().st_size if path.is_file() else None
        except FileNotFoundError:
            return None  # removed in between

    def keys(self, prefix: str) -> Iterator[str]:
        return _files(self._path(prefix), prefix)

    def delete(self, prefix: str) -> int:
        path = self._path(prefix)
        if path.is_symlink() or path.is_file():
            path.unlink(missing_ok=True)
            return 1
        count = sum(1 for _ in self.keys(prefix)) if path.is_dir() else 0
        shutil.rmtree(path, ignore_errors=True)
        return count

    def link(self, key: str, valid_s: int, name: str) -> str | None:  # noqa: ARG002 - has none
        self._path(key)
        return None

    def clear_leftovers(self, older_than_s: float) -> int:
        count = 0
        oldest = time.time() - older_than_s
        try:
            entries = list(os.scandir(self._root / SCRATCH))
        except FileNotFoundError:
            return 0
        for entry in entries:
            try:
                if entry.stat(follow_symlinks=False).st_mtime > oldest:
                    continue
            except FileNotFoundError:
                continue
            shutil.rmtree(entry.path, ignore_errors=True)
            count += 1
        return count

    def clear_scratch(self) -> None:
        """Remove what dead writers left; only while no other process uses the store."""
        shutil.rmtree(self._root / SCRATCH, ignore_errors=True)

    def _path(self, key: str) -> Path:
        return self._root.joinpath(*key_parts(key))


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """The errors of the house for those of the file system that `folder` is on."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise TemporaryError(
                ErrorCode.NO_SPACE,
                f"The disk of {folder} is full; free some space and repeat.",
                5.0,
            ) from error
        raise PermanentError(
            ErrorCode.OUTPUT_UNWRITABLE,
            f"The folder {folder} can't be written ({error.strerror}).",
        ) from error


def missing(key: str) -> PermanentError:
    """There is no such object."""
    return PermanentError(ErrorCode.SOURCE_MISSING, f"The object {key} is not in the store.")


def _no_file(path: Path) -> PermanentError:
    return PermanentError(ErrorCode.SOURCE_MISSING, f"There is no file {path}.")


def _files(folder: Path, prefix: str) -> Iterator[str]:
    """Keys in the order of their bytes: "a-b" stands before what is below "a", as - does before /.

    What goes away meanwhile is left out.
    """
    try:
        with os.scandir(folder) as found:
            entries = [
                (entry.name + ("/" if entry.is_dir(follow_symlinks=False) else ""))
                for entry in found
            ]
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in sorted(entries, key=os.fsencode):
        if name.endswith("/"):
            yield from _files(folder / name[:-1], prefix + "/" + name[:-1])
        else:
            yield f"{prefix}/{name}"
