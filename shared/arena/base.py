"""An arena: one slab of memory cut into equal slots, owned by one process, mapped by many."""

from __future__ import annotations

from types import TracebackType
from typing import Literal, Protocol

from shared.jobs import Model
from shared.media.layout import Plane

Pool = Literal["decoded", "composed"]
"""Decoded and composed frames have pools of their own: a stage waits only for later stages."""

POOLS: tuple[Pool, ...] = ("decoded", "composed")


class ArenaDescriptor(Model):
    """What a process needs to map an arena. `generation` changes when its memory is another."""

    name: str
    kind: Literal["posix"] = "posix"
    generation: str
    path: str
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
    def total_bytes(self) -> int:
        """Bytes of the whole slab."""
        return self.slot_bytes * (self.decoded + self.composed)

    def thing(self, pool: Pool) -> str:
        """The name under which the slots of `pool` are leased."""
        return f"slots:{self.name}:{pool}"


class Claim(Protocol):
    """The right, by the kernel, to write into one slot; ends with `release` or with the process."""

    def release(self) -> None:
        """Let the next writer in. May be called twice."""

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
        """The bytes of a slot: 1-D uint8 view, writable, valid until `close`."""

    def claim(self, pool: Pool, slot: int) -> Claim | None:
        """Become the only writer of a slot; None, at once, while another process is it.

        A lease says whose a slot is, and ends by the clock. A process that was stopped, or that
        lost Redis, may not know yet that its lease has ended and may go on writing: the claim keeps
        the slot's next holder from writing until that process is through, or dead.
        """

    def close(self) -> None:
        """Unmap; views handed out before must not be used any more."""
