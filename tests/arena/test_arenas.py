"""What holds for arenas of both kinds, and what differs when their owner dies. Owner, writer and
reader are processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from shared.arena.base import Arena, ArenaDescriptor
from shared.arena.cuda import SMALLEST_SLOT_BYTES, CudaArena, CudaArenaOwner, slab_bytes
from shared.arena.posix import PosixArena
from shared.arena.registry import ArenaRegistry, MappedArenas
from shared.cuda.device import Device
from shared.cuda.memory import Staging
from shared.errors import DeferredError, EngineError, ErrorCode, PermanentError
from shared.leases import Lease
from shared.media.layout import FrameLayout
from shared.redisdb import Connection
from shared.runtime import slot_ref
from tests.conftest import PROJECT
from tests.waiting import wait_until

Environment = Callable[..., dict[str, str]]

MIB = 1 << 20
LAYOUT = FrameLayout(width=34, height=18)

OWN = """
import sys
from pathlib import Path
kind, folder, size = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
if kind == "posix":
    from shared.arena.posix import PosixArenaOwner
    owner = PosixArenaOwner.create("t", folder, size, decoded=3, composed=2)
else:
    from shared.arena.cuda import CudaArenaOwner
    from shared.cuda.device import Device
    owner = CudaArenaOwner.create("t", folder, Device(), size, decoded=3, composed=2)
print(owner.descriptor.model_dump_json(), flush=True)
sys.stdin.read()
owner.close()
"""

FILL = """
import sys
from shared.arena.registry import MappedArenas
from shared.arena.base import ArenaDescriptor
from shared.cuda.device import Device
descriptor = ArenaDescriptor.model_validate_json(sys.argv[1])
arena = MappedArenas(None, Device)._fresh(descriptor)
with arena.claim(sys.argv[2], int(sys.argv[3])):
    arena.slot(sys.argv[2], int(sys.argv[3]))[...] = int(sys.argv[4])
    print("filled", flush=True)
    sys.stdin.read()
"""


@dataclass
class Process:
    """A Python program that has said one line."""

    process: subprocess.Popen[str]
    said: str

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(60) == 0


@contextmanager
def program(text: str, env: dict[str, str], *args: object) -> Iterator[Process]:
    command = [sys.executable, "-c", text, *map(str, args)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=PROJECT, env=env
    ) as made:
        assert made.stdout is not None
        said = made.stdout.readline()
        assert said, "it ended without a word"
        try:
            yield Process(made, said)
        finally:
            made.kill()


@dataclass
class Place:
    """One kind of arena, and how this process reads its slots."""

    kind: str
    folder: Path
    env: Environment
    open_device: Callable[[], Device]

    @contextmanager
    def owner(self) -> Iterator[tuple[Process, ArenaDescriptor]]:
        args = self.kind, self.folder, 5 * SMALLEST_SLOT_BYTES
        with program(OWN, self.env(), *args) as made:
            yield made, ArenaDescriptor.model_validate_json(made.said)

    def opened(self, descriptor: ArenaDescriptor) -> Arena:
        if self.kind == "posix":
            return PosixArena(descriptor)
        return CudaArena(descriptor, self.open_device())

    def read(self, arena: Arena, pool: str, slot: int) -> np.ndarray:
        held = arena.slot(pool, slot)  # type: ignore[arg-type]
        return held if self.kind == "posix" else Staging(self.open_device()).down((held,))[0]


class Contract:
    """Of every kind of arena; `place` says which."""

    def test_what_one_process_writes_another_reads_and_other_slots_stay(self, place: Place) -> None:
        with place.owner() as (_, descriptor):
            arena = place.opened(descriptor)
            fill = partial(program, FILL, place.env(), descriptor.model_dump_json())
            with fill("decoded", 1, 7) as first, fill("composed", 1, 9) as second:
                first.end()
                second.end()
            assert set(place.read(arena, "decoded", 1)) == {7}
            assert set(place.read(arena, "composed", 1)) == {9}
            assert not place.read(arena, "composed", 0).any()
            assert not place.read(arena, "decoded", 2).any()
            arena.close()

    def test_frames_are_cut_from_a_slot_in_the_arenas_own_format(self, place: Place) -> None:
        with place.owner() as (_, descriptor):
            arena = place.opened(descriptor)
            layout = LAYOUT.model_copy(update={"format": descriptor.format})
            planes = layout.planes(arena.slot("decoded", 0), 3)
            assert len(planes) == (3 if place.kind == "posix" else 2)
            assert sum(plane.size for plane in planes) == LAYOUT.frame_bytes
            del planes
            arena.close()

    def test_a_slot_has_one_writer_among_processes(self, place: Place) -> None:
        with place.owner() as (_, descriptor):
            arena = place.opened(descriptor)
            with program(
                FILL, place.env(), descriptor.model_dump_json(), "decoded", 0, 1
            ) as writer:
                assert arena.claim("decoded", 0) is None
                free = arena.claim("decoded", 1)
                assert free is not None
                free.release()
                writer.process.kill()
                wait_until(
                    lambda: arena.claim("decoded", 0), "the kernel lets go of the dead one's"
                )
            arena.close()

    def test_a_closed_arena_leaves_no_file(self, place: Place) -> None:
        with place.owner() as (owner, _):
            owner.end()
        assert list(place.folder.iterdir()) == []

    def test_frames_of_a_dead_owner_stay_in_host_memory_and_are_lost_on_a_gpu(
        self, place: Place, redis: Connection
    ) -> None:
        registry = ArenaRegistry(redis)
        arenas = MappedArenas(registry, place.open_device)
        with place.owner() as (owner, descriptor):
            registry.publish(descriptor)
            ref = slot_ref("t", descriptor.generation, "decoded", Lease("x", "me", 0, 1))
            assert arenas.of(ref) is not None
            owner.process.kill()
            owner.process.wait()
            if place.kind == "posix":
                assert arenas.of(ref) is not None
                return
            assert arenas.of(ref) is None
            for worker in (arenas, MappedArenas(registry, place.open_device)):
                with pytest.raises(DeferredError, match="lost its owner"):
                    worker.current("t")
        with place.owner() as (_, successor):
            registry.publish(successor)
            assert arenas.current("t").descriptor == successor
            assert arenas.of(ref) is None, "another generation"


class TestPosix(Contract):
    """Arenas in host memory."""

    @pytest.fixture
    def place(self, tmp_path: Path) -> Place:
        return Place("posix", tmp_path, lambda **more: {**os.environ, **more}, Device)


@pytest.fixture
def cuda(device: Device, environment: Environment, tmp_path: Path) -> Place:
    return Place("cuda", tmp_path, environment, lambda: device)


class TestCuda(Contract):
    """Arenas on a GPU, or on its double."""

    @pytest.fixture
    def place(self, cuda: Place) -> Place:
        return cuda


def test_a_worker_on_another_gpu_is_told_whose_the_arena_is(cuda: Place) -> None:
    with cuda.owner() as (_, descriptor):
        foreign = descriptor.model_copy(update={"gpu": "GPU-elsewhere"})
        with pytest.raises(EngineError, match="DUALFACE_GPU_DEVICE=GPU-elsewhere"):
            cuda.opened(foreign)


def test_the_next_writer_comes_when_the_device_is_through(
    cuda: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    with cuda.owner() as (_, descriptor):
        arena, twin = cuda.opened(descriptor), PosixArena(descriptor)
        device, others = cuda.open_device(), list[object]()
        finish = device.finish

        def watched() -> None:
            others.append(twin.claim("decoded", 0))
            finish()

        monkeypatch.setattr(device, "finish", watched)
        claim = arena.claim("decoded", 0)
        assert claim is not None
        claim.release()
        assert others == [None], "nobody else writes while the device is at work"
        assert twin.claim("decoded", 0)
        arena.close()
        twin.close()


@pytest.mark.usefixtures("doubles")
def test_a_slab_that_the_gpu_has_no_room_for_is_refused_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOUBLE_VRAM_MIB", "32")
    device = Device()
    for size in (64 * MIB, 1 * MIB):  # more than there is; less than is of any use
        with pytest.raises(PermanentError, match="end other programs on it") as caught:
            CudaArenaOwner.create("t", tmp_path, device, size, decoded=3, composed=2)
        assert caught.value.code is ErrorCode.NO_SPACE
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("total", "free", "wanted", "slab"),
    [
        (80_000, 79_000, 640, 640),  # much room: as much as is asked for
        (6_000, 5_800, 64_000, 4_462),  # 87.5 % of the card, 15 % of that for engines
        (6_000, 2_000, 64_000, 1_212),  # others have the card: what is free less the margin
        (6_000, 500, 64_000, 0),
    ],
)
def test_a_slab_leaves_room_for_engines_and_others(
    total: int, free: int, wanted: int, slab: int
) -> None:
    assert slab_bytes(total, free, 0.875, 0.15, wanted) == slab
