"""One writer at a time into a slot, by the kernel's word; and the end of those who are silent."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from shared.arena.files import remove_leftovers
from shared.arena.posix import PosixArena, PosixArenaOwner
from shared.arena.reaper import Reaper
from shared.errors import ErrorCode, RedisAwayError, TemporaryError
from shared.messages import SlotRef
from shared.redisdb import Connection
from shared.runtime import Runtime, slot_ref
from shared.workers import Heartbeat, Watch, WorkerRecord, is_alive
from tests.runtimes import runtime
from tests.waiting import wait_until

HOLD = """
import sys
from shared.arena.posix import PosixArena, ArenaDescriptor
arena = PosixArena(ArenaDescriptor.model_validate_json(sys.argv[1]))
assert arena.claim("decoded", 1)
print("held", flush=True)
sys.stdin.read()
"""

BEAT = """
import sys
from shared.redisdb import connect
from shared.workers import Heartbeat
Heartbeat(connect(sys.argv[1]), "decode", sys.argv[2], 0.05, 60.0).start()
print("beats", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[PosixArenaOwner]:
    made = PosixArenaOwner.create("t", tmp_path, 10 * 4096, decoded=3, composed=2)
    yield made
    made.close()


@contextmanager
def process(program: str, *args: str) -> Iterator[psutil.Process]:
    """A Python process that has said one line; killed at the end."""
    with subprocess.Popen(
        [sys.executable, "-c", program, *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as made:
        assert made.stdout is not None
        assert made.stdout.readline()
        try:
            yield psutil.Process(made.pid)
        finally:
            made.kill()


def test_a_slot_has_one_writer_at_a_time(owner: PosixArenaOwner) -> None:
    a, b = PosixArena(owner.descriptor), PosixArena(owner.descriptor)
    claim = a.claim("composed", 1)
    assert claim is not None
    assert b.claim("composed", 1) is None
    with b.claim("composed", 0) or pytest.fail("another slot is free"):
        claim.release()
    claim.release()
    assert b.claim("composed", 1) is not None
    a.close()
    b.close()


def test_a_claim_ends_with_its_process(owner: PosixArenaOwner) -> None:
    arena = PosixArena(owner.descriptor)
    with process(HOLD, owner.descriptor.model_dump_json()) as other:
        assert arena.claim("decoded", 1) is None
        other.suspend()
        assert arena.claim("decoded", 1) is None, "a stopped process may go on one day"
        other.kill()
        wait_until(lambda: arena.claim("decoded", 1), "the kernel has let go")
    arena.close()


def test_claims_and_the_owners_lock_do_not_touch_each_other(
    owner: PosixArenaOwner, tmp_path: Path
) -> None:
    arena = PosixArena(owner.descriptor)
    assert arena.claim("decoded", 0) is not None
    assert remove_leftovers(tmp_path) == []
    arena.close()
    assert Path(owner.descriptor.path).exists()


def leased(made: Runtime, owner: PosixArenaOwner) -> SlotRef:
    """The arena's first slot, in a batch's hands."""
    descriptor = owner.descriptor
    made.arenas._registry.publish(descriptor)
    made.leases.resize(descriptor.thing("decoded"), 1)
    lease = made.leases.acquire(descriptor.thing("decoded"), "batch")
    assert lease is not None
    return slot_ref("t", descriptor.generation, "decoded", lease)


def test_who_has_lost_the_lease_while_waiting_for_the_claim_writes_nothing(
    redis: Connection, owner: PosixArenaOwner, tmp_path: Path
) -> None:
    made, _ = runtime(redis, tmp_path)
    ref = leased(made, owner)
    other = PosixArena(owner.descriptor)
    with other.claim("decoded", 0) or pytest.fail("nobody writes"), pytest.raises(TemporaryError):
        made.claim(ref, give_up=lambda: True)
    claimed = made.claim(ref)
    assert claimed is not None
    claimed[1].release()
    made.leases.release(ref.lease())
    assert made.claim(ref) is None
    assert other.claim("decoded", 0), "a claim of no use is given back"
    other.close()


def test_a_redis_that_is_away_when_the_lease_is_looked_at_leaves_the_slot_to_others(
    redis: Connection, owner: PosixArenaOwner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _ = runtime(redis, tmp_path)
    ref = leased(made, owner)

    def away(_: object) -> bool:
        raise RedisAwayError(ErrorCode.BUSY, "away")

    monkeypatch.setattr(made.leases, "renew", away)
    with pytest.raises(RedisAwayError):
        made.claim(ref)
    other = PosixArena(owner.descriptor)
    assert other.claim("decoded", 0)
    other.close()


@contextmanager
def beating(redis: Connection, arena: str) -> Iterator[psutil.Process]:
    password = redis.connection_pool.connection_kwargs["password"]
    port = redis.connection_pool.connection_kwargs["port"]
    with process(BEAT, f"redis://:{password}@127.0.0.1:{port}/0", arena) as made:
        yield made


def test_a_stopped_worker_of_the_arenas_host_is_ended_before_it_counts_as_dead(
    redis: Connection,
) -> None:
    with beating(redis, "here") as mine, beating(redis, "elsewhere") as other:
        reaper = Reaper(redis, "here", dead_after_s=1.0)
        assert reaper.step() == []
        for each in (mine, other):
            each.suspend()
        ended: list[WorkerRecord] = []
        wait_until(lambda: ended.extend(reaper.step()) or ended, "the silent one is ended")
        assert [record.pid for record in ended] == [mine.pid]
        wait_until(lambda: mine.status() == psutil.STATUS_ZOMBIE, "it is gone")
        assert other.status() == psutil.STATUS_STOPPED
        assert not is_alive(redis, ended[0].id)


def test_a_process_that_got_the_number_of_a_dead_worker_is_left_alone(redis: Connection) -> None:
    record = Heartbeat(redis, "decode", "here", 1, 100).record
    stranger = record.model_copy(update={"started": record.started - 1, "pid": os.getpid()})
    redis.set(f"df:worker:{record.id}", stranger.model_dump_json())
    reaper = Reaper(redis, "here", dead_after_s=0.0)
    reaper.step()
    assert reaper.step() == []
    assert not is_alive(redis, record.id)


def test_silence_counts_from_when_one_could_hear_again() -> None:
    watch = Watch()
    record = WorkerRecord(id="w", stage="decode", arena="a", pid=1, started=1.0, beat=1)
    watch.look([record], now=10.0)
    watch.look([record], now=14.0)
    assert watch.silent(now=14.0, after_s=5.0) == []
    assert watch.silent(now=15.0, after_s=5.0) == [record]
    watch.start_anew(now=15.0)
    assert watch.silent(now=15.0, after_s=5.0) == []
    watch.look([record.model_copy(update={"beat": 2})], now=19.0)
    assert watch.silent(now=21.0, after_s=5.0) == []
    watch.forget("w")
    assert watch.silent(now=99.0, after_s=5.0) == []
