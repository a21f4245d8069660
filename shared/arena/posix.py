"""Arena in POSIX shared memory: a file in a tmpfs, its pages reserved, locked by its owner.

A plain file with mmap instead of `multiprocessing.shared_memory`: below Python 3.13 that one's
resource tracker unlinks a live segment when any process that attached it ends.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import struct
import uuid
from pathlib import Path
from types import TracebackType

import numpy as np

from shared.arena.base import ArenaDescriptor, Pool
from shared.errors import ErrorCode, PermanentError, TemporaryError
from shared.media.layout import Plane

MIB = 1024 * 1024
PREFIX = "dualface-arena-"
ALIGN = 4096
KEEP_FREE_BYTES = 16 * MIB
"""Left to others in the tmpfs: one filled to the last page makes every other user of it fail."""


_FLOCK = "hhqqi"
"""`struct flock` of fcntl(2): type, whence, start, length, pid (0 for open file descriptions)."""


class PosixClaim:
    """A lock on the slot's bytes that belongs to this mapping's open file description.

    Not to the process, as older record locks do: those end when any descriptor of the file is
    closed. Unlike the owner's flock(2) on the whole file, which this does not touch.
    """

    def __init__(self, fd: int, start: int, length: int) -> None:
        """Raises BlockingIOError while another process holds it."""
        self._held = (fd, start, length)
        self._set(fcntl.F_WRLCK)
        self._is_held = True

    def release(self) -> None:
        if self._is_held:
            self._is_held = False
            self._set(fcntl.F_UNLCK)

    def _set(self, kind: int) -> None:
        fd, start, length = self._held
        request = struct.pack(_FLOCK, kind, os.SEEK_SET, start, length, 0)
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, request)

    def __enter__(self) -> PosixClaim:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


class PosixArena:
    """The arena as any process but its owner sees it."""

    def __init__(self, descriptor: ArenaDescriptor) -> None:
        """Map `descriptor`. Raises TemporaryError when its file is not (or no longer) there."""
        self._descriptor = descriptor
        try:
            self._fd = os.open(descriptor.path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise TemporaryError(
                ErrorCode.BUSY, f"The arena {descriptor.name} is gone; its owner restarts it.", 1.0
            ) from error
        try:
            self._map = mmap.mmap(self._fd, descriptor.total_bytes)
        except BaseException:
            os.close(self._fd)
            raise

    @property
    def descriptor(self) -> ArenaDescriptor:
        return self._descriptor

    def slot(self, pool: Pool, slot: int) -> Plane:
        start = self._descriptor.offset(pool, slot)
        return np.frombuffer(
            self._map, dtype=np.uint8, count=self._descriptor.slot_bytes, offset=start
        )

    def claim(self, pool: Pool, slot: int) -> PosixClaim | None:
        start = self._descriptor.offset(pool, slot)
        try:
            return PosixClaim(self._fd, start, self._descriptor.slot_bytes)
        except BlockingIOError:
            return None

    def close(self) -> None:
        os.close(self._fd)
        try:
            self._map.close()
        except BufferError:
            # Views are still referenced somewhere; the mapping then ends with the process.
            return


class PosixArenaOwner:
    """Creates the file, reserves its pages, and holds a lock on it for as long as it lives.

    The kernel drops the lock when the owner dies in whatever way, so a file that can be locked by
    somebody else is a leftover (`remove_leftovers`).
    """

    def __init__(self, descriptor: ArenaDescriptor, fd: int) -> None:
        """`fd`: the open file, locked; made by `create` or `take_over`."""
        self.descriptor = descriptor
        self._fd = fd

    @classmethod
    def create(
        cls, name: str, folder: Path, total_bytes: int, decoded: int, composed: int
    ) -> PosixArenaOwner:
        """Raises PermanentError NO_SPACE, before touching memory, when it cannot fit."""
        generation = uuid.uuid4().hex[:12]
        path = folder / f"{PREFIX}{os.getuid()}-{name}-{generation}"
        descriptor = ArenaDescriptor(
            name=name,
            generation=generation,
            path=str(path),
            slot_bytes=total_bytes // (decoded + composed) // ALIGN * ALIGN,
            decoded=decoded,
            composed=composed,
        )
        check_space(folder, descriptor.total_bytes)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise PermanentError(
                ErrorCode.NO_SPACE,
                f"The folder {folder} for shared memory can't be written ({error.strerror}); set "
                "DUALFACE_SHM_DIR to another folder on a tmpfs.",
            ) from error
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(fd, descriptor.total_bytes)
        return cls(descriptor, fd)

    def reserve(self, pool: Pool, slot: int) -> None:
        """Take the pages of a slot from the system, before anybody may use it.

        That turns a later SIGBUS, which cannot be caught, into PermanentError NO_SPACE now.
        """
        offset = self.descriptor.offset(pool, slot)
        try:
            os.posix_fallocate(self._fd, offset, self.descriptor.slot_bytes)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.ENOMEM):
                folder = Path(self.descriptor.path).parent
                raise _no_space(folder, self.descriptor.total_bytes, free_bytes(folder)) from error
            raise

    def close(self) -> None:
        """Remove the file (processes that map it keep their memory) and let go of the lock."""
        Path(self.descriptor.path).unlink(missing_ok=True)
        os.close(self._fd)


def take_over(descriptor: ArenaDescriptor) -> PosixArenaOwner | None:
    """Own the slab of an owner that died; None when it is gone, not whole, or its owner lives."""
    try:
        fd = os.open(descriptor.path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    if os.fstat(fd).st_size != descriptor.total_bytes:
        os.close(fd)
        return None
    return PosixArenaOwner(descriptor, fd)


def remove_leftovers(folder: Path) -> list[Path]:
    """Remove arenas of this user whose owner is dead; returns what was removed."""
    removed = []
    for path in folder.glob(f"{PREFIX}{os.getuid()}-*"):
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue  # gone meanwhile, or not ours
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
            removed.append(path)
        except BlockingIOError:
            continue  # its owner lives
        finally:
            os.close(fd)
    return removed


def free_bytes(folder: Path) -> int:
    """Bytes that can still be written in the file system of `folder`.

    Raises PermanentError NO_SPACE when there is no such folder.
    """
    if not folder.is_dir():
        raise PermanentError(
            ErrorCode.NO_SPACE,
            f"There is no folder {folder} for shared memory on this system; set DUALFACE_SHM_DIR "
            "to a folder on a tmpfs.",
        )
    facts = os.statvfs(folder)
    return facts.f_bavail * facts.f_frsize


def check_space(folder: Path, needed: int) -> None:
    """Raise PermanentError NO_SPACE when `needed` bytes do not fit into `folder`."""
    free = free_bytes(folder)
    if free < needed + KEEP_FREE_BYTES:
        raise _no_space(folder, needed, free)


def _no_space(folder: Path, needed: int, free: int) -> PermanentError:
    return PermanentError(
        ErrorCode.NO_SPACE,
        f"{folder} has {free // MIB} MiB free, but the frames on their way need "
        f"{(needed + KEEP_FREE_BYTES) // MIB} MiB; make {folder} larger or set DUALFACE_ARENA_MIB "
        "to less.",
    )
