"""Facts about leases, on a real server."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from shared.errors import TemporaryError
from shared.leases import Leases
from shared.redisdb import Connection, connect
from tests.waiting import wait_until


@pytest.fixture
def leases(redis: Connection) -> Leases:
    made = Leases(redis, ttl_s=30)
    made.resize("gpu", 2)
    return made


def test_units_are_numbered_from_zero_and_tokens_grow(leases: Leases) -> None:
    first, second = leases.acquire("gpu", "a"), leases.acquire("gpu", "b")
    assert first is not None
    assert second is not None
    assert (first.unit, second.unit) == (0, 1)
    assert second.token > first.token


def test_a_full_thing_gives_nothing_without_waiting(leases: Leases) -> None:
    leases.acquire("gpu", "a")
    leases.acquire("gpu", "b")
    assert leases.acquire("gpu", "c") is None
    assert leases.look("gpu").waiting == 0


def test_acquiring_again_gives_the_same_lease(leases: Leases) -> None:
    assert leases.acquire("gpu", "a") == leases.acquire("gpu", "a")
    assert leases.look("gpu").used == 1


def test_only_the_holder_renews_and_releases(leases: Leases) -> None:
    lease = leases.acquire("gpu", "a")
    assert lease is not None
    assert leases.release(lease)
    other = leases.acquire("gpu", "b")
    assert other is not None
    assert other.unit == lease.unit
    assert not leases.renew(lease)
    assert not leases.release(lease)
    assert leases.renew(other)


def test_a_dead_holders_unit_comes_free_at_its_deadline(redis: Connection) -> None:
    short = Leases(redis, ttl_s=0.2)
    short.resize("gpu", 1)
    dead = short.acquire("gpu", "dead")
    assert dead is not None
    heir = short.acquire("gpu", "heir", wait_s=5)
    assert heir is not None
    assert heir.token > dead.token
    assert not short.renew(dead)


def test_a_release_wakes_the_first_waiter(leases: Leases, redis_url: str) -> None:
    held = leases.acquire("gpu", "a")
    leases.acquire("gpu", "b")
    assert held is not None

    def wait(name: str) -> int | None:
        lease = Leases(connect(redis_url), 30).acquire("gpu", name, wait_s=20)
        return None if lease is None else lease.unit

    with ThreadPoolExecutor() as pool:
        first = pool.submit(wait, "c")
        wait_until(lambda: leases.look("gpu").waiting == 1, "c waits")
        second = pool.submit(wait, "d")
        wait_until(lambda: leases.look("gpu").waiting == 2, "d waits")
        leases.release(held)
        assert first.result(timeout=10) == held.unit
        assert not second.done()
        leases.resize("gpu", 3)
        assert second.result(timeout=10) == 2


def test_higher_priority_goes_first_and_order_holds_within_one(leases: Leases) -> None:
    held = [leases.acquire("gpu", "a"), leases.acquire("gpu", "b")]
    script = leases._call
    for name, priority in (("low1", 1), ("low2", 1), ("high", 8)):
        script("gpu", "acquire", name, 30000, 60000, 9 - priority, 0)
    for lease in held:
        assert lease is not None
        leases.release(lease)
    assert {lease.holder for lease in leases.look("gpu").leases} == {"high", "low1"}


def test_a_reserving_waiter_leaves_the_last_unit_and_does_not_block_others(leases: Leases) -> None:
    leases.acquire("gpu", "a")
    assert leases.acquire("gpu", "later", reserve=lambda: 1) is None
    assert leases.acquire("gpu", "head") is not None


def test_shrinking_robs_nobody(leases: Leases) -> None:
    held = [leases.acquire("gpu", name) for name in "ab"]
    leases.resize("gpu", 1)
    assert all(lease is not None and leases.renew(lease) for lease in held)
    assert held[0] is not None
    leases.release(held[0])
    assert leases.acquire("gpu", "c") is None


def test_giving_up_leaves_the_queue(leases: Leases) -> None:
    leases.acquire("gpu", "a")
    leases.acquire("gpu", "b")
    assert leases.acquire("gpu", "c", wait_s=10, give_up=lambda: True) is None
    assert leases.look("gpu").waiting == 0


def test_a_closed_thing_is_a_temporary_error_and_voids_its_leases(leases: Leases) -> None:
    lease = leases.acquire("gpu", "a")
    leases.close("gpu")
    with pytest.raises(TemporaryError):
        leases.acquire("gpu", "b")
    leases.resize("gpu", 1)
    assert lease is not None
    assert not leases.renew(lease)
    fresh = leases.acquire("gpu", "b")
    assert fresh is not None
    assert fresh.token > lease.token


def test_many_threads_never_exceed_the_limit(redis: Connection, redis_url: str) -> None:
    Leases(redis, 30).resize("nvenc", 3)
    inside = 0
    most = 0
    lock = threading.Lock()

    def work(name: int) -> int:
        nonlocal inside, most
        leases = Leases(connect(redis_url), 30)
        done = 0
        for turn in range(25):
            lease = leases.acquire("nvenc", f"{name}/{turn}", wait_s=30)
            assert lease is not None
            with lock:
                inside += 1
                most = max(most, inside)
            with lock:
                inside -= 1
            leases.release(lease)
            done += 1
        return done

    with ThreadPoolExecutor(max_workers=8) as pool:
        assert sum(pool.map(work, range(8))) == 200
    assert most <= 3
    assert Leases(redis, 30).look("nvenc").used == 0
