"""Facts about the arena in POSIX shared memory, with real processes where it counts."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import sys
import threading
from pathlib import Path
from types import FrameType

import pytest

from shared.arena import posix
from shared.arena.__main__ import Stop, announce, retire
from shared.arena.files import remove_leftovers
from shared.arena.posix import PosixArena, PosixArenaOwner, take_over
from shared.arena.registry import ArenaRegistry, MappedArenas
from shared.cuda.device import Device
from shared.errors import ArenaAwayError, DeferredError, ErrorCode, PermanentError, TemporaryError
from shared.leases import Lease, Leases
from shared.redisdb import Connection
from shared.runtime import slot_ref
from tests.waiting import wait_until

CONTEXT = multiprocessing.get_context("spawn")


def no_gpu() -> Device:
    raise AssertionError("no GPU is needed")


def make(folder: Path, total: int = 10 * 4096) -> PosixArenaOwner:
    return PosixArenaOwner.create("t", folder, total, decoded=3, composed=2)


def _fill(descriptor: str, value: int) -> None:
    arena = PosixArena(posix.ArenaDescriptor.model_validate_json(descriptor))
    arena.slot("composed", 1)[:] = value


def _own_and_die(folder: str, pipe: object) -> None:
    owner = make(Path(folder))
    pipe.send(owner.descriptor.model_dump_json())  # type: ignore[attr-defined]
    os._exit(9)


def test_slots_are_equal_and_do_not_overlap(tmp_path: Path) -> None:
    owner = make(tmp_path)
    arena = PosixArena(owner.descriptor)
    slots = [arena.slot("decoded", i) for i in range(3)] + [
        arena.slot("composed", i) for i in (0, 1)
    ]
    assert {slot.size for slot in slots} == {2 * 4096}
    for number, slot in enumerate(slots):
        slot[:] = number
    assert [int(slot[0]) + int(slot[-1]) for slot in slots] == [0, 2, 4, 6, 8]
    owner.close()


def test_another_process_sees_the_same_bytes(tmp_path: Path) -> None:
    owner = make(tmp_path)
    arena = PosixArena(owner.descriptor)
    process = CONTEXT.Process(target=_fill, args=(owner.descriptor.model_dump_json(), 77))
    process.start()
    process.join(100)
    assert set(arena.slot("composed", 1)) == {77}
    assert set(arena.slot("composed", 0)) == {0}
    owner.close()


def test_a_slot_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    owner = make(tmp_path)
    with pytest.raises(ValueError, match="no slot 3"):
        PosixArena(owner.descriptor).slot("decoded", 3)
    owner.close()


def test_an_arena_that_does_not_fit_is_refused_with_the_numbers(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match="DUALFACE_ARENA_MIB") as caught:
        make(tmp_path, total=1 << 60)
    assert caught.value.code is ErrorCode.NO_SPACE
    assert list(tmp_path.iterdir()) == []


def test_a_missing_shared_memory_folder_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match="DUALFACE_SHM_DIR"):
        make(tmp_path / "nowhere")


def test_a_living_owners_arena_is_no_leftover(tmp_path: Path) -> None:
    owner = make(tmp_path)
    assert remove_leftovers(tmp_path) == []
    owner.close()
    assert list(tmp_path.iterdir()) == []


def test_a_dead_owners_arena_is_taken_over_with_its_bytes_or_removed(tmp_path: Path) -> None:
    here, there = CONTEXT.Pipe()
    process = CONTEXT.Process(target=_own_and_die, args=(str(tmp_path), there))
    process.start()
    descriptor = posix.ArenaDescriptor.model_validate_json(here.recv())
    process.join(100)
    PosixArena(descriptor).slot("decoded", 0)[:] = 5
    heir = take_over(descriptor)
    assert heir is not None
    assert set(PosixArena(heir.descriptor).slot("decoded", 0)) == {5}
    assert take_over(descriptor) is None
    os.close(heir._fd)
    assert [path.name for path in remove_leftovers(tmp_path)] == [Path(descriptor.path).name]
    assert take_over(descriptor) is None


def swept_before_the_next_lock(folder: Path) -> None:
    """Another stack that starts takes what nobody has locked for a leftover, just then."""
    lock, patch = fcntl.flock, pytest.MonkeyPatch()

    def locked(fd: int, how: int) -> None:
        patch.undo()
        assert len(remove_leftovers(folder)) == 1
        lock(fd, how)

    patch.setattr(fcntl, "flock", locked)


def test_an_arena_is_made_though_another_process_just_took_it_for_a_leftover(
    tmp_path: Path,
) -> None:
    """Its file is there a moment before its owner has locked it."""
    swept_before_the_next_lock(tmp_path)
    owner = make(tmp_path)
    assert remove_leftovers(tmp_path) == []
    PosixArena(owner.descriptor).close()
    owner.close()
    assert list(tmp_path.iterdir()) == []


def test_an_arena_that_another_process_just_removed_is_not_taken_over(
    tmp_path: Path,
) -> None:
    dead = make(tmp_path)
    os.close(dead._fd)
    swept_before_the_next_lock(tmp_path)
    assert take_over(dead.descriptor) is None


def test_mapping_an_arena_that_is_gone_is_a_temporary_error(tmp_path: Path) -> None:
    owner = make(tmp_path)
    owner.close()
    with pytest.raises(TemporaryError):
        PosixArena(owner.descriptor)


def test_an_owner_may_be_told_to_stop_between_any_two_steps_of_its_waiting() -> None:
    stop, answers, told = Stop(), list[bool](), list[str]()

    def at_every_step(frame: FrameType, event: str, _: object) -> object:
        told.append(f"{frame.f_code.co_name} {event}")
        stop.say()
        return at_every_step

    def wait() -> None:
        sys.settrace(at_every_step)
        try:
            answers.append(stop.wait(60))
        finally:
            sys.settrace(None)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    wait_until(lambda: answers or not thread.is_alive(), "it does not wait for itself")
    assert answers == [True]
    assert "wait line" in told


def test_a_slot_of_an_earlier_generation_is_lost(tmp_path: Path, redis: Connection) -> None:
    registry = ArenaRegistry(redis)
    arenas = MappedArenas(registry, no_gpu)
    with pytest.raises(TemporaryError):
        arenas.current("t")
    first, lease = make(tmp_path), Lease("slots:t:decoded", "h", 0, 1)
    registry.publish(first.descriptor)
    ref = slot_ref("t", first.descriptor.generation, "decoded", lease)
    assert arenas.of(ref) is arenas.current("t")
    second = make(tmp_path)
    registry.publish(second.descriptor)
    arenas.current("t")
    assert arenas.of(ref) is None
    first.close()
    second.close()


def test_an_arena_that_is_stopped_takes_all_leases_with_it_and_who_needs_it_waits(
    tmp_path: Path, redis: Connection
) -> None:
    owner, registry, leases = make(tmp_path), ArenaRegistry(redis), Leases(redis, 20)
    announce(owner, registry, leases)
    slots = owner.descriptor.thing("decoded")
    held = leases.acquire(slots, "j/0:0")
    assert held is not None
    retire(owner, registry, leases)
    owner.close()
    assert not leases.renew(held), "the coordinator learns that its frames are lost"
    with pytest.raises(ArenaAwayError):
        MappedArenas(registry, no_gpu).current("t")
    with pytest.raises(DeferredError):
        leases.acquire(slots, "j/0:1")


def test_an_owner_that_is_stopped_late_leaves_its_successors_arena_alone(
    tmp_path: Path, redis: Connection
) -> None:
    first, second, registry = make(tmp_path), make(tmp_path), ArenaRegistry(redis)
    leases = Leases(redis, 20)
    announce(first, registry, leases)
    announce(second, registry, leases)
    retire(first, registry, leases)
    first.close()
    assert registry.find("t") == second.descriptor
    assert leases.acquire(second.descriptor.thing("decoded"), "j/0:0") is not None
    second.close()
