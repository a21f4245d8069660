"""An arena: one slab of memory cut into equal slots, owned by one process, mapped by many."""

from __future__ import annotations

from types import TracebackType
from typing import Literal, Protocol

from shared.cuda.memory import Memory
from shared.jobs import Model
from shared.media.layout import PixelFormat, Plane

Pool = Literal["decoded", "composed"]
"""Decoded and composed frames have pools of their own: a stage waits only for later stages."""

POOLS: tuple[Pool, ...] = ("decoded", "composed")


class ArenaDescriptor(Model):
    """What a process needs to map an arena. `generation` changes when its memory is another.

    `path`: the file whose locks tell who owns the arena and who writes a slot; in a POSIX arena it
    is the memory as well. Of a CUDA arena: `handle`, the allocation's IPC handle in hex, and `gpu`,
    the UUID of the device it lies on.
    """

    name: str
    kind: Literal["posix", "cuda"] = "posix"
    generation: str
    path: str
    handle: str = ""
    gpu: str = ""
    slot_bytes: int
    decoded: int
    composed: int

    def offset(self, pool: Pool, slot: int) -> int:
        """Byte offset of a slot. Raises ValueError for a slot that does not exist."""
        if not 0 <= slot < self.count(pool):
            raise ValueError(f"{self.name} has {self.count(pool)} {pool} slots, no slot {slot}")
        return (slot if pool == "decoded" else self.decoded + slot) * self.slot_bytes

    def count(self, pool: Pool) -> int:
        """How many slots `pool` has."""
        return self.decoded if pool == "decoded" else self.composed

    @property
    def memory(self) -> Memory:
        """Where frames lie in it."""
        return "device" if self.kind == "cuda" else "host"

    @property
    def format(self) -> PixelFormat:
        """How frames lie in it: as NVDEC writes and NVENC reads them, or as software does."""
        return PixelFormat.NV12 if self.kind == "cuda" else PixelFormat.I420

    @property
    def total_bytes(self) -> int:
        """Bytes of the whole slab."""
        return self.slot_bytes * (self.decoded + self.composed)

    def thing(self, pool: Pool) -> str:
        """The name under which the slots of `pool` are leased."""
        return f"slots:{self.name}:{pool}"


class ArenaOwner(Protocol):
    """The process's side that allocated the slab."""

    @property
    def descriptor(self) -> ArenaDescriptor:
        """What others need to map it."""

    def reserve(self, pool: Pool, slot: int) -> None:
        """Have the memory of a slot really there before anybody may use it; blocks for
        milliseconds. Raises PermanentError NO_SPACE when it is not to be had."""

    def close(self) -> None:
        """Free the slab."""


class Claim(Protocol):
    """The right, by the kernel, to write into one slot; ends with `release` or with the process."""

    def release(self) -> None:
        """Let the next writer, and readers, in: blocks until all that this process wrote is there.
        May be called twice."""

    def __enter__(self) -> object: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class Arena(Protocol):
    """A mapped arena. Mapping is done once per process; slots are views, never copies."""

    @property
    def descriptor(self) -> ArenaDescriptor:
        """What is mapped."""

    def slot(self, pool: Pool, slot: int) -> Plane:
        """The bytes of a slot: 1-D uint8 view, writable, valid until `close`. Of a CUDA arena it is
        an array in device memory."""

    @property
    def lives(self) -> bool:
        """False when the memory has gone with its owner; cheap."""

    def claim(self, pool: Pool, slot: int) -> Claim | None:
        """Become the only writer of a slot; None, at once, while another process is it.

        A lease says whose a slot is, and ends by the clock. A process that was stopped, or that
        lost Redis, may not know yet that its lease has ended and may go on writing: the claim keeps
        the slot's next holder from writing until that process is through, or dead.
        """

    def close(self) -> None:
        """Unmap; views handed out before must not be used any more."""
