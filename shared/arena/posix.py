"""Arena in POSIX shared memory: a file in a tmpfs, its pages reserved, locked by its owner.

A plain file with mmap instead of `multiprocessing.shared_memory`: below Python 3.13 that one's
resource tracker unlinks a live segment when any process that attached it ends.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from pathlib import Path

import numpy as np

from shared.arena.base import ArenaDescriptor, Pool
from shared.arena.files import (
    SlotClaim,
    check_space,
    claim_slot,
    create_file,
    file_name,
    free_bytes,
    is_removed,
    no_space,
    open_file,
)
from shared.media.layout import Plane

ALIGN = 4096


class PosixArena:
    """The arena as any process but its owner sees it."""

    def __init__(self, descriptor: ArenaDescriptor) -> None:
        """Map `descriptor`. Raises DeferredError when its file is not (or no longer) there."""
        self._descriptor = descriptor
        self._fd = open_file(descriptor)
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

    def claim(self, pool: Pool, slot: int) -> SlotClaim | None:
        return claim_slot(self._fd, self._descriptor, pool, slot)

    @property
    def lives(self) -> bool:
        """See `Arena.lives`: the pages stay as long as anybody maps them."""
        return True

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
        generation, file = file_name(name)
        descriptor = ArenaDescriptor(
            name=name,
            generation=generation,
            path=str(folder / file),
            slot_bytes=total_bytes // (decoded + composed) // ALIGN * ALIGN,
            decoded=decoded,
            composed=composed,
        )
        check_space(folder, descriptor.total_bytes)
        fd = create_file(Path(descriptor.path), descriptor.total_bytes)
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
                raise no_space(folder, self.descriptor.total_bytes, free_bytes(folder)) from error
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
    if os.fstat(fd).st_size != descriptor.total_bytes or is_removed(fd):
        os.close(fd)
        return None
    return PosixArenaOwner(descriptor, fd)
