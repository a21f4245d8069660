"""An arena made anew: for jobs that were cut for the one before it, and after workers that still
have that one open."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.coordinator.dispatch import Dispatcher
from shared.arena.base import ArenaDescriptor
from shared.arena.files import LEAST_SLOTS, MIB, counts, is_file_of
from shared.arena.posix import PosixArenaOwner
from shared.arena.reaper import _has_open, end_holders
from shared.arena.registry import ArenaRegistry, MappedArenas
from shared.errors import EngineError, ErrorCode
from shared.redisdb import Connection
from shared.runtime import queue_of
from shared.workers import PREFIX, WorkerRecord, is_alive
from tests.arena.test_claims import process
from tests.builders import job_spec, output_plan, segment, source_info
from tests.runtimes import runtime

ALIGN = 4096

BEAT_WITH_IT_OPEN = """
import sys
from shared.arena.posix import ArenaDescriptor, PosixArena
from shared.redisdb import connect
from shared.workers import Heartbeat
arena = PosixArena(ArenaDescriptor.model_validate_json(sys.argv[2]))
Heartbeat(connect(sys.argv[1]), "decode", arena.descriptor.name, 0.05, 60).start()
print("beats", flush=True)
sys.stdin.read()
"""


@given(
    size=st.integers(1, 64 * MIB),
    decoded=st.integers(2, 9),
    composed=st.integers(1, 9),
    needed=st.integers(0, 8 * MIB),
)
def test_slots_are_fewer_rather_than_too_small(
    size: int, decoded: int, composed: int, needed: int
) -> None:
    found = counts(size, decoded, composed, needed, ALIGN)
    slot = size // sum(found) // ALIGN * ALIGN
    could = size // LEAST_SLOTS // ALIGN * ALIGN >= needed
    assert (slot >= needed) == could
    assert found[0] >= 2
    assert found[1] >= 1
    if not could or size // (decoded + composed) // ALIGN * ALIGN >= needed:
        assert found == (decoded, composed)


def test_the_file_of_an_arena_is_known_by_its_name(tmp_path: Path) -> None:
    owner = PosixArenaOwner.create("gpu0", tmp_path, 5 * ALIGN, decoded=3, composed=2)
    path = owner.descriptor.path
    owner.close()
    assert is_file_of(path, "gpu0")
    assert is_file_of(f"{path} (deleted)", "gpu0")
    assert not is_file_of(path, "gpu")
    assert not is_file_of(path.replace("gpu0-", "gpu0-slice-"), "gpu0")


def test_workers_that_have_the_lost_memory_open_are_ended_and_no_others(
    redis: Connection, redis_url: str, tmp_path: Path
) -> None:
    owners = [
        PosixArenaOwner.create(name, tmp_path, 5 * ALIGN, decoded=3, composed=2)
        for name in ("gpu0", "gpu1")
    ]
    lost, other = (owner.descriptor for owner in owners)
    with (
        process(BEAT_WITH_IT_OPEN, redis_url, lost.model_dump_json()) as worker,
        process(BEAT_WITH_IT_OPEN, redis_url, other.model_dump_json()) as elsewhere,
    ):
        for owner in owners:
            owner.close()
        fresh = WorkerRecord(id="f", stage="decode", arena="gpu0", pid=os.getpid(), started=1.0)
        redis.set(f"{PREFIX}f", fresh.model_dump_json())
        assert [record.pid for record in end_holders(redis, "gpu0")] == [worker.pid]
        assert elsewhere.is_running()
        assert is_alive(redis, "f")
        assert end_holders(redis, "gpu0") == []


class Deaf:
    """An arena whose driver does not even let it be closed."""

    def __init__(self, descriptor: ArenaDescriptor) -> None:
        self.descriptor = descriptor

    def close(self) -> None:
        raise EngineError("cudaIpcCloseMemHandle: invalid argument")


def test_an_error_while_closing_the_lost_one_does_not_keep_a_worker_from_the_new_one(
    redis: Connection, tmp_path: Path
) -> None:
    registry = ArenaRegistry(redis)
    owner = PosixArenaOwner.create("gpu0", tmp_path, 5 * ALIGN, decoded=3, composed=2)
    registry.publish(owner.descriptor)
    arenas = MappedArenas(registry, lambda: pytest.fail("there is no GPU"))
    before = owner.descriptor.model_copy(update={"generation": "before"})
    arenas._mapped["gpu0"] = Deaf(before)  # type: ignore[assignment]  # all that is asked of it
    assert arenas.current("gpu0").descriptor == owner.descriptor
    owner.close()


def test_who_has_no_work_lets_go_of_memory_that_its_owner_has_removed(
    redis: Connection, tmp_path: Path
) -> None:
    registry = ArenaRegistry(redis)
    owner = PosixArenaOwner.create("mine", tmp_path, 5 * ALIGN, decoded=3, composed=2)
    registry.publish(owner.descriptor)
    arenas = MappedArenas(registry, lambda: pytest.fail("there is no GPU"))
    mapped = arenas.current("mine")
    arenas.let_go()
    assert arenas.current("mine") is mapped
    owner.close()
    with arenas.working():
        arenas.let_go()
        assert _has_open(os.getpid(), "mine")
    arenas.let_go()
    assert not _has_open(os.getpid(), "mine")


def arena(name: str, slot_bytes: int) -> ArenaDescriptor:
    return ArenaDescriptor(
        name=name, generation="g", path="/nowhere", slot_bytes=slot_bytes, decoded=3, composed=2
    )


def test_segments_go_where_their_batches_fit_and_a_job_that_fits_nowhere_says_so(
    redis: Connection, tmp_path: Path
) -> None:
    made, outbox = runtime(redis, tmp_path, segments_in_flight=8, max_concurrent_streams=8)
    registry, ledger = ArenaRegistry(redis), made.ledger
    for each in (arena("large", 8 * MIB), arena("small", 2 * MIB)):
        registry.publish(each)
    for job, needed in (("big", 5 * MIB), ("lesser", MIB)):
        ledger.submit(job, job_spec())
        ledger.take(job, "split", "w")
        ledger.put_facts(job, source_info(), output_plan(), 8, needed)
        for index in range(4):
            ledger.add_segment(job, segment(index))
        ledger.split_done(job, 4, 40)
        ledger.put_down(job, "split", "w")
    assert ledger.largest_slot_bytes() == 5 * MIB
    dispatcher = Dispatcher(made)
    dispatcher.step()
    sent = [(item.partition("/")[0], queue) for task, item, queue in outbox.take() if "seg" in task]
    assert {queue for job, queue in sent if job == "big"} == {queue_of("decode", "large")}
    assert len({queue for job, queue in sent if job == "lesser"}) == 2

    registry.withdraw("large")
    (index, attempt), *_ = ledger.running("big").items()
    ledger.return_segment("big", index, attempt, gave_back=True)
    dispatcher.step()
    view = ledger.view("big")
    assert view is not None
    assert view.code == ErrorCode.NO_SPACE.value
    assert view.message == (
        "The job was begun where a batch of frames may have 5 MiB; now the most is 2 MiB. Set "
        "DUALFACE_ARENA_MIB (or slots and streams) as it was, or submit it again: it then begins "
        "anew with what there is."
    )
    assert ledger.is_live("lesser")
