"""The file of an arena in a tmpfs: its owner's lock, its writers' locks, what owners left behind.

In a POSIX arena the file is the memory; a CUDA arena's is empty and only locked, as GPU memory has
no locks that end with their holder.
"""

from __future__ import annotations

import fcntl
import os
import struct
import uuid
from pathlib import Path
from types import TracebackType

from shared.arena.base import ArenaDescriptor, Pool
from shared.errors import DeferredError, ErrorCode, PermanentError

MIB = 1024 * 1024
PREFIX = "dualface-arena-"
KEEP_FREE_BYTES = 16 * MIB
"""Left to others in the tmpfs: one filled to the last page makes every other user of it fail."""


LEAST_SLOTS = 3
"""One decoded and one being decoded, so that none waits for itself; and one composed."""

_FLOCK = "hhqqi"
"""`struct flock` of fcntl(2): type, whence, start, length, pid (0 for open file descriptions)."""


class SlotClaim:
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

    def __enter__(self) -> SlotClaim:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def file_name(name: str) -> tuple[str, str]:
    """A new generation of the arena `name`, and what its file is called."""
    generation = uuid.uuid4().hex[:12]
    return generation, f"{PREFIX}{os.getuid()}-{name}-{generation}"


def is_file_of(path: str, name: str) -> bool:
    """True for the file of any generation of the arena `name`, removed or not."""
    file = path.rpartition("/")[2].removesuffix(" (deleted)")
    prefix = f"{PREFIX}{os.getuid()}-{name}-"
    return file.startswith(prefix) and "-" not in file.removeprefix(prefix)


def create_file(path: Path, size: int) -> int:
    """Make the file, locked by this process for as long as it lives; its descriptor.

    It is sparse: no page is used yet. Raises PermanentError NO_SPACE when it can't be made.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise PermanentError(
            ErrorCode.NO_SPACE,
            f"The folder {path.parent} for shared memory can't be written ({error.strerror}); set "
            "DUALFACE_SHM_DIR to another folder on a tmpfs.",
        ) from error
    # Until it is locked it is a leftover to who looks for these: he may hold the lock just now.
    fcntl.flock(fd, fcntl.LOCK_EX)
    if is_removed(fd):
        os.close(fd)
        return create_file(path, size)
    os.ftruncate(fd, size)
    return fd


def is_removed(fd: int) -> bool:
    """Whether an open file has no name any more, so that nobody else can open it."""
    return os.fstat(fd).st_nlink == 0


def open_file(descriptor: ArenaDescriptor) -> int:
    """The file of an arena that another process owns. DeferredError when it is not there."""
    try:
        return os.open(descriptor.path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise DeferredError(
            ErrorCode.BUSY, f"The arena {descriptor.name} is gone; its owner restarts it.", 1.0
        ) from error


def lost_owner(descriptor: ArenaDescriptor) -> DeferredError:
    """Its memory went with it; a successor announces another."""
    return DeferredError(ErrorCode.BUSY, f"The arena {descriptor.name} has lost its owner.", 0.5)


def is_owned(fd: int) -> bool:
    """Whether the owner of the file lives, by the kernel's word."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False


def claim_slot(fd: int, descriptor: ArenaDescriptor, pool: Pool, slot: int) -> SlotClaim | None:
    """As `Arena.claim`, on the slot's range of the file."""
    start = descriptor.offset(pool, slot)
    try:
        return SlotClaim(fd, start, descriptor.slot_bytes)
    except BlockingIOError:
        return None


def counts(size: int, decoded: int, composed: int, needed: int, align: int) -> tuple[int, int]:
    """How many slots a slab of `size` bytes has, of each pool: as many as asked for, or fewer and
    larger ones, if such as have `needed` bytes leave two and one. All sizes in bytes."""
    asked = decoded + composed
    fitting = size // max(1, -(-needed // align) * align)
    if not LEAST_SLOTS <= fitting < asked:
        return decoded, composed
    fewer = min(max(1, composed * fitting // asked), fitting - 2)
    return fitting - fewer, fewer


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
        raise no_space(folder, needed, free)


def no_space(folder: Path, needed: int, free: int) -> PermanentError:
    return PermanentError(
        ErrorCode.NO_SPACE,
        f"{folder} has {free // MIB} MiB free, but the frames on their way need "
        f"{(needed + KEEP_FREE_BYTES) // MIB} MiB; make {folder} larger or set DUALFACE_ARENA_MIB "
        "to less.",
    )
