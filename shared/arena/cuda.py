"""Arena in the memory of a GPU: one allocation, exported once by an IPC handle, opened by each
worker once. Slots are addressed by offset; locks are those of a file of no content."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

from shared.arena.base import ArenaDescriptor, Pool
from shared.arena.files import (
    MIB,
    SlotClaim,
    claim_slot,
    create_file,
    file_name,
    is_owned,
    lost_owner,
    open_file,
)
from shared.cuda.device import Device
from shared.errors import EngineError, ErrorCode, OutOfMemoryError, PermanentError
from shared.media.layout import Plane

ALIGN = 2 * MIB
"""Of slots, bytes. The driver deals out memory in blocks of 2 MiB and exports whole blocks: a slab
that ends within one would show others what lies behind it (CUDA C++ Programming Guide,
Interprocess Communication)."""

SMALLEST_SLOT_BYTES = 8 * MIB
"""Two frames of 1080p: with less, a batch is no batch."""


class CudaClaim:
    """A claim that ends when the device is through: its work is only queued when a call returns."""

    def __init__(self, claim: SlotClaim, device: Device) -> None:
        self._claim = claim
        self._device = device

    def release(self) -> None:
        try:
            self._device.finish()
        finally:
            self._claim.release()

    def __enter__(self) -> CudaClaim:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


class CudaArena:
    """The arena as any process but its owner sees it. For one thread, as its device."""

    def __init__(self, descriptor: ArenaDescriptor, device: Device) -> None:
        """Open the handle. Raises DeferredError when the memory is gone with its owner, EngineError
        when this process's device is not the arena's."""
        if device.uuid != descriptor.gpu:
            raise EngineError(
                f"The arena {descriptor.name} lies on {descriptor.gpu}, but this worker's device "
                f"is {device.uuid}; start it with DUALFACE_GPU_DEVICE={descriptor.gpu}.",
            )
        self._descriptor = descriptor
        self._device = device
        self._fd = open_file(descriptor)
        try:
            if not self.lives:
                raise lost_owner(descriptor)
            self._pointer = device.open(bytes.fromhex(descriptor.handle))
        except BaseException:
            os.close(self._fd)
            raise

    @property
    def descriptor(self) -> ArenaDescriptor:
        return self._descriptor

    def slot(self, pool: Pool, slot: int) -> Plane:
        start = self._descriptor.offset(pool, slot)
        return self._device.view(self._pointer + start, self._descriptor.slot_bytes)

    def claim(self, pool: Pool, slot: int) -> CudaClaim | None:
        claim = claim_slot(self._fd, self._descriptor, pool, slot)
        return None if claim is None else CudaClaim(claim, self._device)

    @property
    def lives(self) -> bool:
        return is_owned(self._fd)

    def close(self) -> None:
        os.close(self._fd)
        self._device.close(self._pointer)


class CudaArenaOwner:
    """Allocates, exports, and stays. When it dies the memory is lost to all; its successor makes
    another generation."""

    def __init__(self, descriptor: ArenaDescriptor, fd: int, device: Device, pointer: int) -> None:
        """Made by `create`."""
        self.descriptor = descriptor
        self._fd = fd
        self._device = device
        self._pointer = pointer

    @classmethod
    def create(
        cls,
        name: str,
        folder: Path,
        device: Device,
        total_bytes: int,
        decoded: int,
        composed: int,
    ) -> CudaArenaOwner:
        """Raises PermanentError NO_SPACE when the GPU has not that much memory free."""
        slot_bytes = total_bytes // (decoded + composed) // ALIGN * ALIGN
        if slot_bytes < SMALLEST_SLOT_BYTES:
            raise no_room(device, total_bytes, decoded + composed)
        generation, file = file_name(name)
        path = folder / file
        size = slot_bytes * (decoded + composed)
        try:
            pointer = device.allocate(size)
        except OutOfMemoryError as error:
            raise no_room(device, total_bytes, decoded + composed) from error
        fd = create_file(path, size)
        descriptor = ArenaDescriptor(
            name=name,
            kind="cuda",
            generation=generation,
            path=str(path),
            handle=device.export(pointer).hex(),
            gpu=device.uuid,
            slot_bytes=slot_bytes,
            decoded=decoded,
            composed=composed,
        )
        return cls(descriptor, fd, device, pointer)

    def reserve(self, pool: Pool, slot: int) -> None:
        """Nothing to do: the whole allocation is there."""
        self.descriptor.offset(pool, slot)

    def close(self) -> None:
        """The memory goes with the process: to free what others have open is undefined (CUDA
        Runtime API, cudaIpcOpenMemHandle)."""
        Path(self.descriptor.path).unlink(missing_ok=True)
        os.close(self._fd)


def slab_bytes(total: int, free: int, share: float, margin: float, wanted: int) -> int:
    """Bytes for the slab of a GPU of `total` bytes of which `free` are free.

    `share` of the card may be used at most, and `margin` of that stays for codecs, models and CUDA
    contexts. What others on the card use counts against what is free, not against the share.
    """
    usable = share * total
    return max(0, int(min(wanted, usable * (1 - margin), free - usable * margin)))


def no_room(device: Device, size: int, slots: int) -> PermanentError:
    return PermanentError(
        ErrorCode.NO_SPACE,
        f"{device.name} has {device.free_bytes() // MIB} of {device.total_bytes // MIB} MiB free, "
        f"which leaves {size // MIB} MiB for {slots} batches of frames beside codecs and models, "
        f"and {slots * SMALLEST_SLOT_BYTES // MIB} MiB are the least; end other programs on it, "
        "set DUALFACE_DECODED_SLOTS, DUALFACE_COMPOSED_SLOTS or DUALFACE_MAX_CONCURRENT_STREAMS to "
        "less, or leave the GPU out by DUALFACE_GPU_DEVICES=none.",
    )
