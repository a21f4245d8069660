"""The arena owner: a small process that allocates the slab, makes it known, and stays.

Workers come and go without losing frames. A successor takes over the slab of an owner that died.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

import structlog

from shared.arena.base import ArenaDescriptor
from shared.arena.posix import PosixArenaOwner, free_bytes, take_over
from shared.arena.registry import ArenaRegistry
from shared.errors import PermanentError
from shared.leases import Leases
from shared.logs import configure_logs
from shared.redisdb import connect
from shared.settings import MIB, Settings

DEFAULT_MIB = 640


def budget_bytes(settings: Settings) -> int:
    """Bytes for the slab: as set, else the default bounded by memory and free shared memory."""
    if settings.arena_mib is not None:
        return settings.arena_mib * MIB
    bounds = (
        DEFAULT_MIB * MIB,
        os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4,
        free_bytes(settings.shm_dir) // 2,
    )
    return min(bounds)


def own(settings: Settings, registry: ArenaRegistry) -> PosixArenaOwner:
    """The slab of a dead predecessor if it is still whole, else a new one."""
    known = registry.find(settings.arena)
    if known is not None:
        heir = take_over(known)
        if heir is not None:
            return heir
    return PosixArenaOwner.create(
        settings.arena,
        settings.shm_dir,
        budget_bytes(settings),
        settings.decoded_slots,
        settings.composed_slots,
    )


def announce(descriptor: ArenaDescriptor, registry: ArenaRegistry, leases: Leases) -> None:
    """Open the slots for lease. Those of another generation are void."""
    known = registry.find(descriptor.name)
    for pool, count in (("decoded", descriptor.decoded), ("composed", descriptor.composed)):
        thing = f"slots:{descriptor.name}:{pool}"
        if known is None or known.generation != descriptor.generation:
            leases.close(thing)
        leases.resize(thing, count)
    registry.publish(descriptor)


def main(settings: Settings) -> int:
    """Own the arena until SIGTERM; exit code 0, or 2 with one line on standard error."""
    configure_logs(settings.log_level)
    log = structlog.get_logger(stage="arena")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    redis = connect(settings.redis_url)
    registry, leases = ArenaRegistry(redis), Leases(redis, settings.lease_s)
    try:
        owner = own(settings, registry)
    except PermanentError as error:
        print(error.message, file=sys.stderr)
        return 2
    try:
        announce(owner.descriptor, registry, leases)
        log.info("arena ready", **owner.descriptor.model_dump())
        stop.wait()
    finally:
        owner.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(Settings()))
