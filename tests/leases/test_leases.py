"""Facts about leases, on a real server."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from typing import Any

import pytest

from shared.errors import TemporaryError
from shared.leases import PARTS, Lease, Leases, Occupancy
from shared.redisdb import Connection, connect
from tests.leases.clock import CAP_S, jump, pass_time
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
        lease = Leases(connect(redis_url), 30).acquire("gpu", name, wait_s=90)
        return None if lease is None else lease.unit

    with ThreadPoolExecutor() as pool:
        first = pool.submit(wait, "c")
        wait_until(lambda: leases.look("gpu").waiting == 1, "c waits")
        second = pool.submit(wait, "d")
        wait_until(lambda: leases.look("gpu").waiting == 2, "d waits")
        leases.release(held)
        assert first.result(timeout=60) == held.unit
        assert not second.done()
        leases.resize("gpu", 3)
        assert second.result(timeout=60) == 2


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


def queue(leases: Leases, holder: str, priority: int = 5, reserve: int = 0) -> list[str]:
    """Ask as a waiter that does not block; [] when it waits now."""
    return leases._call("gpu", "acquire", holder, 30000, 1000, 9 - priority, reserve)


def holders(leases: Leases) -> set[str]:
    return {lease.holder for lease in leases.look("gpu").leases}


def bells(redis: Connection) -> set[str]:
    """Waiters whose bell rang and was not heard yet."""
    return {str(key).rpartition(":")[2] for key in redis.keys("df:lease:gpu:bell:*")}


@pytest.mark.parametrize("seconds", [3600.0, -3600.0])
def test_a_jump_of_the_clock_ends_no_lease(
    redis: Connection, leases: Leases, seconds: float
) -> None:
    lease = leases.acquire("gpu", "a")
    queue(leases, "b")
    assert lease is not None
    for _ in range(5):
        jump(redis, "gpu", seconds)
        assert leases.renew(lease)
    assert holders(leases) == {"a", "b"}


@pytest.mark.parametrize("seconds", [3600.0, -3600.0])
def test_after_a_jump_of_the_clock_a_dead_holders_unit_still_comes_free(
    redis: Connection, seconds: float
) -> None:
    short = Leases(redis, ttl_s=0.3)
    short.resize("gpu", 1)
    assert short.acquire("gpu", "dead") is not None
    jump(redis, "gpu", seconds)
    wait_until(lambda: short.look("gpu").used == 0, "the lease ends")


def test_an_hour_in_which_nobody_asks_delays_the_end_by_a_few_calls(
    redis: Connection, leases: Leases
) -> None:
    dead = leases.acquire("gpu", "dead")
    assert dead is not None
    calls = 0
    while leases.look("gpu").used:
        jump(redis, "gpu", 3600)
        calls += 1
        assert calls <= 30 / CAP_S
    assert not leases.renew(dead)


def test_a_jump_backwards_rings_every_bell(redis: Connection, leases: Leases) -> None:
    # A blocking pop counts in wall time: it would go on for as long as the clock was put back.
    for name in "abcd":
        queue(leases, name)
    jump(redis, "gpu", -3600)
    leases.look("gpu")
    assert bells(redis) == {"c", "d"}
    first = leases.acquire("gpu", "a")
    assert first is not None
    leases.release(first)
    assert leases.acquire("gpu", "c", wait_s=20) is not None
    assert leases._call("gpu", "cancel", "d") == ["1"]
    assert bells(redis) == set()


def test_a_grant_rings_one_bell(redis: Connection, leases: Leases) -> None:
    held = leases.acquire("gpu", "a")
    assert held is not None
    for name in "bcde":
        queue(leases, name)
    leases.release(held)
    assert bells(redis) == {"c"}


def test_a_waiter_whose_bell_was_lost_finds_its_grant_by_asking(
    redis: Connection, leases: Leases
) -> None:
    held = leases.acquire("gpu", "a")
    assert held is not None
    leases.acquire("gpu", "b")
    queue(leases, "c")
    leases.release(held)
    redis.delete("df:lease:gpu:bell:c")
    lease = leases.acquire("gpu", "c", wait_s=20)
    assert lease is not None
    assert leases.renew(lease)


def test_a_blocked_waiter_whose_bell_is_stolen_gets_its_lease(
    redis: Connection, leases: Leases, redis_url: str
) -> None:
    held = leases.acquire("gpu", "a")
    leases.acquire("gpu", "b")
    assert held is not None

    def wait() -> bool:
        own = Leases(connect(redis_url), 30)
        lease = own.acquire("gpu", "c", wait_s=60)
        return lease is not None and own.renew(lease)

    def release_and_steal(pipe: Any) -> None:
        pipe.multi()
        keys = [f"df:lease:gpu:{part}" for part in PARTS]
        script = resources.files("shared").joinpath("leases.lua").read_text()
        arguments = ("release", "a", held.token)
        pipe.eval(script, 8, *keys, "df:lease:gpu:bell:", *arguments)
        pipe.delete("df:lease:gpu:bell:c")

    with ThreadPoolExecutor() as pool:
        waiter = pool.submit(wait)
        wait_until(lambda: leases.look("gpu").waiting == 1, "c waits")
        redis.transaction(release_and_steal)
        assert waiter.result(timeout=60)


def test_an_old_bell_is_no_grant(redis: Connection, leases: Leases) -> None:
    for name in "ab":
        assert leases.acquire("gpu", name) is not None
    queue(leases, "c")
    redis.rpush("df:lease:gpu:bell:c", "")
    assert leases.acquire("gpu", "c", wait_s=0.05) is None
    assert holders(leases) == {"a", "b"}


def test_a_waiter_that_died_keeps_its_grant_for_seconds_only(
    redis: Connection, leases: Leases
) -> None:
    held = leases.acquire("gpu", "a")
    other = leases.acquire("gpu", "b")
    assert held is not None
    assert other is not None
    queue(leases, "dead")
    leases.release(held)
    assert holders(leases) == {"dead", "b"}
    for _ in range(3):
        jump(redis, "gpu", CAP_S)
        assert leases.renew(other)
    assert holders(leases) == {"b"}
    assert bells(redis) == set()


def test_a_waiter_that_is_not_heard_of_leaves_the_queue(redis: Connection, leases: Leases) -> None:
    leases.acquire("gpu", "a")
    leases.acquire("gpu", "b")
    queue(leases, "dead")
    queue(leases, "lives")
    for _ in range(3):
        assert leases.look("gpu").waiting == 2
        jump(redis, "gpu", CAP_S)
        queue(leases, "lives")
    assert leases.look("gpu").waiting == 1
    assert queue(leases, "lives") == []


def test_giving_up_gives_back_a_grant_that_nobody_took_up(
    redis: Connection, leases: Leases
) -> None:
    held = leases.acquire("gpu", "a")
    leases.acquire("gpu", "b")
    assert held is not None
    queue(leases, "c")
    queue(leases, "d")
    leases.release(held)
    leases._call("gpu", "cancel", "c")
    assert bells(redis) == {"d"}
    assert holders(leases) == {"b", "d"}


def test_giving_up_does_not_rob_a_twin_that_holds(leases: Leases) -> None:
    held = leases.acquire("gpu", "a")
    leases.acquire("gpu", "b")
    assert held is not None
    queue(leases, "twin")
    leases.release(held)
    mine = leases.acquire("gpu", "twin")
    leases._call("gpu", "cancel", "twin")
    assert mine is not None
    assert leases.renew(mine)


def test_who_is_told_to_stop_while_waiting_leaves_the_queue(leases: Leases) -> None:
    def stop() -> bool:
        raise SystemExit

    leases.acquire("gpu", "a")
    leases.acquire("gpu", "b")
    with pytest.raises(SystemExit):
        leases.acquire("gpu", "c", wait_s=60, give_up=stop)
    assert leases.look("gpu").waiting == 0


def test_every_call_hands_on_what_has_ended(redis: Connection, leases: Leases) -> None:
    mine = leases.acquire("gpu", "a")
    assert mine is not None
    assert Leases(redis, ttl_s=1).acquire("gpu", "dead") is not None
    queue(leases, "c")
    jump(redis, "gpu", CAP_S)
    assert leases.acquire("gpu", "a") == mine
    assert bells(redis) == {"c"}


def test_a_low_priority_is_overtaken_for_seconds_only(redis: Connection, leases: Leases) -> None:
    held = [leases.acquire("gpu", "a"), leases.acquire("gpu", "b")]
    queue(leases, "low", priority=0)
    for _ in range(22):
        for lease in held:
            assert lease is not None
            assert leases.renew(lease)
        jump(redis, "gpu", CAP_S)
        queue(leases, "low", priority=0)
    queue(leases, "high, in time", priority=9)
    jump(redis, "gpu", CAP_S)
    queue(leases, "high, too late", priority=9)
    for lease in held:
        assert lease is not None
        assert leases.release(lease)
    assert holders(leases) == {"high, in time", "low"}


def test_who_arrives_in_the_same_instant_is_served_in_order_of_arrival(
    redis: Connection, leases: Leases
) -> None:
    held = [leases.acquire("gpu", "x"), leases.acquire("gpu", "y")]
    for name in "cab":
        jump(redis, "gpu", -1)  # the lease clock stands still
        queue(leases, name)
    for lease in held:
        assert lease is not None
        leases.release(lease)
    assert holders(leases) == {"c", "a"}


def test_a_waiter_that_asks_again_keeps_its_place(leases: Leases) -> None:
    held = leases.acquire("gpu", "a")
    leases.acquire("gpu", "b")
    assert held is not None
    for name in ("first", "second", "first"):
        queue(leases, name)
    leases.release(held)
    assert holders(leases) == {"b", "first"}


def test_a_waiter_that_reserves_less_keeps_its_place(leases: Leases) -> None:
    held = leases.acquire("gpu", "a")
    leases.acquire("gpu", "b")
    assert held is not None
    queue(leases, "first", reserve=1)
    queue(leases, "second")
    queue(leases, "first", reserve=0)
    leases.release(held)
    assert holders(leases) == {"b", "first"}


def test_only_meta_remains_when_nothing_is_held_or_waited_for(
    redis: Connection, leases: Leases
) -> None:
    lease = leases.acquire("gpu", "a")
    leases.acquire("gpu", "dead")
    assert lease is not None
    for name in "cdef":
        queue(leases, name)
    leases.release(lease)
    leases._call("gpu", "cancel", "d")
    pass_time(redis, leases, "gpu", 40)
    assert redis.keys("*") == ["df:lease:gpu:meta"]


def test_closing_leaves_no_bell_and_no_holder(redis: Connection, leases: Leases) -> None:
    lease = leases.acquire("gpu", "a")
    assert lease is not None
    leases.acquire("gpu", "b")
    queue(leases, "c")
    leases.release(lease)
    assert bells(redis) == {"c"}
    leases.close("gpu")
    assert redis.keys("*") == ["df:lease:gpu:meta"]


def test_asking_about_an_unknown_thing_leaves_nothing_behind(redis: Connection) -> None:
    leases = Leases(redis, ttl_s=30)
    assert leases.look("nothing") == Occupancy(0, 0, 0, ())
    assert not leases.renew(Lease("nothing", "a", 0, 1))
    assert not leases.release(Lease("nothing", "a", 0, 1))
    with pytest.raises(TemporaryError):
        leases.acquire("nothing", "a")
    assert redis.keys("*") == []


@pytest.mark.parametrize("holder", ["", "two words", "1 2", "a\nb", "ü:*", "bell:x"])
def test_a_holder_may_have_any_name(leases: Leases, holder: str) -> None:
    leases.acquire("gpu", "a")
    held = leases.acquire("gpu", "b")
    assert held is not None
    queue(leases, holder)
    leases.release(held)
    lease = leases.acquire("gpu", holder)
    assert lease is not None
    assert holders(leases) == {"a", holder}
    assert leases.renew(lease)
    assert leases.release(lease)
