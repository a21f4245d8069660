"""The arena owner: a small process that allocates the slab, makes it known, and stays.

Workers come and go without losing frames. A successor takes over the slab of an owner that died.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from queue import Empty, SimpleQueue

from shared.arena.base import POOLS, ArenaOwner
from shared.arena.files import counts, free_bytes
from shared.arena.posix import ALIGN, PosixArenaOwner, take_over
from shared.arena.reaper import LOOK_EVERY_S, Reaper, end_holders
from shared.arena.registry import ArenaRegistry
from shared.cuda.own import OwnDevice
from shared.errors import EngineError, ErrorCode, PermanentError
from shared.gpu import GpuBoard, watch_gpus
from shared.health.vitals import Vitals, serve_health
from shared.leases import Leases
from shared.ledger import Ledger
from shared.logs import Log, configure_logs
from shared.metrics import Meter, open_meter
from shared.metrics.catalogue import REDIS_ERRORS
from shared.metrics.disk import DiskSampler
from shared.redisdb import RedisError, connect
from shared.sessions import host_of
from shared.settings import MIB, Settings
from shared.starting import start

DEFAULT_MIB = 640
"""Of each stream that is worked on at a time."""


def budget_bytes(settings: Settings) -> int:
    """Bytes for the slab in host memory: as set, else the default, bounded by memory and by what is
    free of shared memory."""
    if settings.arena_mib is not None:
        return settings.arena_mib * MIB
    bounds = (
        DEFAULT_MIB * MIB,
        os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4,
        free_bytes(settings.shm_dir) // 2,
    )
    return min(bounds)


def own(
    settings: Settings, registry: ArenaRegistry, device: OwnDevice, needed: int = 0
) -> ArenaOwner:
    """The slab of a dead predecessor if it is still whole, else a new one: of the GPU's memory,
    where this arena has one. `needed`: bytes of a slot that jobs were cut for. Raises
    PermanentError when it can't be had."""
    if settings.gpu_device:
        try:
            return own_on_gpu(settings, device, needed)
        except EngineError as error:
            if settings.gpu_devices != "auto":
                raise PermanentError(
                    ErrorCode.STACK_FAILED,
                    f"The GPU {settings.gpu_device} can't be used: {error.message} Set "
                    "DUALFACE_GPU_DEVICES=none to work without one.",
                ) from error
            Log(stage="arena").error("no GPU, the CPU works instead", reason=error.message)
    known = registry.find(settings.arena)
    if known is not None and known.kind == "posix":
        heir = take_over(known)
        if heir is not None:
            return heir
    size = budget_bytes(settings)
    decoded, composed = counts(size, settings.decoded_slots, settings.composed_slots, needed, ALIGN)
    return PosixArenaOwner.create(settings.arena, settings.shm_dir, size, decoded, composed)


def own_on_gpu(settings: Settings, device: OwnDevice, needed: int = 0) -> ArenaOwner:
    """A new slab on the GPU; a predecessor's went with its process. Raises EngineError where there
    is no GPU to be used, PermanentError NO_SPACE where it is full."""
    # CuPy: only where there is a GPU.
    from shared.arena.cuda import ALIGN as BLOCK
    from shared.arena.cuda import CudaArenaOwner, slab_bytes

    gpu = device()
    streams = settings.max_concurrent_streams
    size = slab_bytes(
        gpu.total_bytes,
        gpu.free_bytes(),
        settings.gpu_memory_share,
        settings.gpu_engine_margin,
        (settings.arena_mib or DEFAULT_MIB * streams) * MIB,
    )
    decoded, composed = settings.decoded_slots * streams, settings.composed_slots * streams
    decoded, composed = counts(size, decoded, composed, needed, BLOCK)
    return CudaArenaOwner.create(settings.arena, settings.shm_dir, gpu, size, decoded, composed)


def announce(owner: ArenaOwner, registry: ArenaRegistry, leases: Leases) -> None:
    """Make the arena known, then open its slots for lease one by one, as their pages are reserved:
    the first frames need not wait for the last page. Leases of another generation are void."""
    descriptor = owner.descriptor
    known = registry.find(descriptor.name)
    if known is None or known.generation != descriptor.generation:
        for pool in POOLS:
            leases.close(descriptor.thing(pool))
    registry.publish(descriptor)
    for slot in range(max(descriptor.decoded, descriptor.composed)):
        for pool in POOLS:
            if slot < descriptor.count(pool):
                owner.reserve(pool, slot)
                leases.resize(descriptor.thing(pool), slot + 1)


def retire(owner: ArenaOwner, registry: ArenaRegistry, leases: Leases) -> None:
    """The arena goes, and all that lies in it: who looks after it learns that at once, also where
    no successor comes. Nothing when one is announced already."""
    descriptor = owner.descriptor
    if registry.find(descriptor.name) == descriptor:
        registry.withdraw(descriptor.name)
        for pool in POOLS:
            leases.close(descriptor.thing(pool))


class Stop:
    """Whether a signal has said that it is time to go.

    No `threading.Event`: a handler runs between any two steps of the main thread, also while that
    holds the event's lock, and would wait for it for ever. The queue's `put` may come at any time.
    """

    def __init__(self) -> None:
        self._said: SimpleQueue[None] = SimpleQueue()

    def say(self, *_: object) -> None:
        """A signal's handler."""
        self._said.put(None)

    def wait(self, seconds: float) -> bool:
        """True, at once, when it is said; False after so long."""
        try:
            self._said.get(timeout=seconds)
        except Empty:
            return False
        return True


def main(settings: Settings) -> int:
    """Own the arena until SIGTERM; exit code 0, or 2 with one line on standard error."""
    configure_logs(settings.log_level)
    log = Log(stage="arena")
    stop = Stop()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop.say)
    redis = connect(settings.redis_url)
    registry, leases = ArenaRegistry(redis), Leases(redis, settings.lease_s)
    meter = open_meter(settings, "arena")
    vitals = Vitals("loop", patience_s=settings.health_patience_s)
    try:
        serve_health(settings, vitals, meter)
        if settings.gpu_device:
            end_holders(redis, settings.arena)
        needed = Ledger(redis, settings.retention_s, settings.attempts).largest_slot_bytes()
        owner = own(settings, registry, OwnDevice(settings, Meter()), needed)
        try:
            announce(owner, registry, leases)
            log.info("arena ready", **owner.descriptor.model_dump())
            reaper = Reaper(redis, settings.arena, settings.dead_after_s)
            # Here, as there is one of it on every host.
            board = GpuBoard(redis, host_of(settings), settings.arena)
            watch_gpus(meter, settings.gpu_memory_mib, board)
            disks = DiskSampler(meter, settings)
            while not stop.wait(LOOK_EVERY_S):
                vitals.seen("loop")
                try:
                    registry.beat(settings.arena)
                except RedisError:  # silence is what others see
                    meter.count(REDIS_ERRORS, stage="arena")
                reaper.step()
                disks.step()
        finally:
            with suppress(RedisError):  # it may have gone first
                retire(owner, registry, leases)
            owner.close()
    except PermanentError as error:
        print(error.message, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    start(main)
