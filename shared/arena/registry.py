"""Which arenas there are, kept in Redis; and this process's mappings of them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from shared.arena.base import Arena, ArenaDescriptor
from shared.arena.files import lost_owner
from shared.arena.posix import PosixArena
from shared.cuda.device import Device
from shared.errors import ArenaAwayError, EngineError, ErrorCode
from shared.logs import Log
from shared.messages import SlotRef
from shared.redisdb import Connection

ARENAS = "df:arenas"
BEATS = "df:arenas:beats"


class ArenaRegistry:
    """Descriptors of all arenas by name."""

    def __init__(self, connection: Connection) -> None:
        self._redis = connection

    def publish(self, descriptor: ArenaDescriptor) -> None:
        """Make the arena known (or known anew)."""
        self._redis.hset(ARENAS, descriptor.name, descriptor.model_dump_json())

    def withdraw(self, name: str) -> None:
        """The arena is gone."""
        self._redis.hdel(ARENAS, name)
        self._redis.hdel(BEATS, name)

    def beat(self, name: str) -> None:
        """A sign of life of the arena's owner."""
        self._redis.hincrby(BEATS, name, 1)

    def beats(self) -> dict[str, int]:
        """Signs of life so far, by arena: one whose count stands still has lost its owner."""
        return {str(name): int(count) for name, count in self._redis.hgetall(BEATS).items()}

    def find(self, name: str) -> ArenaDescriptor | None:
        """The arena's descriptor, None when unknown."""
        text = self._redis.hget(ARENAS, name)
        return None if text is None else ArenaDescriptor.read_kept(str(text))

    def all(self) -> list[ArenaDescriptor]:
        """All arenas, by name."""
        rows = self._redis.hgetall(ARENAS)
        return [ArenaDescriptor.read_kept(str(rows[name])) for name in sorted(rows)]


class MappedArenas:
    """The arenas this process has mapped: each once, anew when its generation changes."""

    def __init__(self, registry: ArenaRegistry, device: Callable[[], Device]) -> None:
        """`device` opens this process's GPU; called when the first arena on one is mapped."""
        self._registry = registry
        self._device = device
        self._mapped: dict[str, Arena] = {}
        self._working = threading.Lock()

    @contextmanager
    def working(self) -> Iterator[None]:
        """While a piece of work goes on: `let_go` takes nothing away that it may look at."""
        with self._working:
            yield

    def let_go(self) -> None:
        """Unmap host memory whose owner has removed it, so that the next owner finds room: who has
        no work would keep it until the next message. From any thread, now and then; does nothing
        while a piece of work goes on. (Who holds memory of a GPU is ended: `end_holders`.)"""
        if not self._working.acquire(blocking=False):
            return
        try:
            for name, arena in list(self._mapped.items()):
                descriptor = arena.descriptor
                if descriptor.kind == "posix" and not os.path.exists(descriptor.path):
                    del self._mapped[name]
                    _close(arena)
        finally:
            self._working.release()

    def current(self, name: str) -> Arena:
        """The arena `name`. Raises ArenaAwayError while there is none, DeferredError while one is
        announced whose memory is gone: its owner is restarted, which is nobody's failed try."""
        descriptor = self._registry.find(name)
        if descriptor is None:
            raise ArenaAwayError(ErrorCode.BUSY, f"The arena {name} is not there (yet).", 0.5)
        arena = self._map(descriptor)
        if not arena.lives:
            raise lost_owner(descriptor)
        return arena

    def smallest_slot_bytes(self) -> int:
        """Bytes of a slot that any arena has: batches of a job go to all of them. Raises
        ArenaAwayError while there is none."""
        sizes = [descriptor.slot_bytes for descriptor in self._registry.all()]
        if not sizes:
            raise ArenaAwayError(ErrorCode.BUSY, "There is no arena (yet).", 0.5)
        return min(sizes)

    def of(self, ref: SlotRef) -> Arena | None:
        """The arena a slot lies in; None when its memory no longer exists."""
        mapped = self._mapped.get(ref.arena)
        if mapped is not None and mapped.descriptor.generation == ref.generation:
            return mapped if mapped.lives else None
        current = self.current(ref.arena)
        return current if current.descriptor.generation == ref.generation else None

    def _map(self, descriptor: ArenaDescriptor) -> Arena:
        mapped = self._mapped.get(descriptor.name)
        if mapped is not None and mapped.descriptor == descriptor:
            return mapped
        if mapped is not None:
            # Forgotten first: an error while closing must not keep it for ever.
            del self._mapped[descriptor.name]
            _close(mapped)
        fresh = self._fresh(descriptor)
        self._mapped[descriptor.name] = fresh
        return fresh

    def _fresh(self, descriptor: ArenaDescriptor) -> Arena:
        if descriptor.kind == "posix":
            return PosixArena(descriptor)
        # Only where there are GPUs.
        from shared.arena.cuda import CudaArena

        return CudaArena(descriptor, self._device())


def _close(arena: Arena) -> None:
    """Its owner may be dead and its memory gone, which a driver may say; a device that is lost
    shows in what comes next."""
    try:
        arena.close()
    except EngineError as error:
        descriptor = arena.descriptor
        log = Log(stage="arena")
        log.warning("arena not closed", arena=descriptor.name, reason=error.message)
