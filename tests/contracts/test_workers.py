"""Facts about signs of life."""

from __future__ import annotations

from shared.redisdb import Connection
from shared.workers import PREFIX, Heartbeat, living
from tests.waiting import wait_until


def test_a_worker_is_alive_while_it_beats_and_gone_when_it_stops(redis: Connection) -> None:
    beat = Heartbeat(redis, "infer", "cpu0", every_s=0.05, dead_after_s=60)
    beat.start()
    key = PREFIX + beat.record.id
    redis.delete(key)
    wait_until(lambda: redis.exists(key), "the next beat")
    assert [worker.id for worker in living(redis)] == [beat.record.id]
    beat.stop()
    assert list(living(redis)) == []


def test_silence_is_death(redis: Connection) -> None:
    beat = Heartbeat(redis, "infer", "cpu0", every_s=60, dead_after_s=0.1)
    beat._beat()
    wait_until(lambda: not list(living(redis)), "the key expires")


def test_a_worker_of_another_release_is_passed_over(redis: Connection) -> None:
    redis.set(PREFIX + "x", '{"something": "else"}')
    assert list(living(redis)) == []
