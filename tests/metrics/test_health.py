"""What real processes say of themselves while Redis, their loop and their queues come and go."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.errors import RedisAwayError
from shared.health.vitals import REDIS_FRESH_S, RedisWatch
from shared.jobs import JobSpec
from shared.ledger import Ledger
from shared.metrics import Meter
from shared.metrics.catalogue import REDIS_SILENT
from shared.redisdb import answers, connect, connect_once, explaining
from shared.workers import heard
from tests.metrics.conftest import PATIENCE_S, Answering, Server, answering
from tests.metrics.notes import Notes
from tests.metrics.stage import FORGET, GO_ON, REMEMBER, STAND_STILL
from tests.waiting import wait_until

STAGE = "tests.metrics.stage"


@pytest.fixture(scope="module")
def worker(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Answering]:
    """A worker that is ready; each test leaves it so."""
    folder = tmp_path_factory.mktemp("worker")
    with answering(STAGE, server.url, folder, HEALTH_PATIENCE_S="5") as running:
        wait_until(running.ready, "the worker is ready", PATIENCE_S)
        yield running


@pytest.fixture(autouse=True)
def ready_before(request: pytest.FixtureRequest) -> None:
    """Where a test uses the shared worker, it finds it ready."""
    if "worker" in request.fixturenames:
        running = request.getfixturevalue("worker")
        wait_until(running.ready, "the worker is ready", PATIENCE_S)


def test_a_worker_is_not_ready_while_redis_is_frozen_and_then_consumes_again(
    worker: Answering, server: Server
) -> None:
    server.process.suspend()
    try:
        wait_until(lambda: "Redis has not answered" in worker.reasons(), "it is known", PATIENCE_S)
        assert worker.alive()
        assert not worker.ready()
        assert not answers(server.url, 0.2)
        assert worker.command().returncode == 0  # a new one would fare no better
    finally:
        server.process.resume()
    wait_until(worker.ready, "it is ready again", PATIENCE_S)
    assert worker.does("after-the-frost")
    assert answers(server.url, PATIENCE_S)


def test_redis_whose_memory_is_full_is_away_though_it_answers_pings(server: Server) -> None:
    redis = connect(server.url)
    watch = RedisWatch(connect_once(server.url, 5.0))
    watch.start()
    ledger = Ledger(redis, 60, 3)
    ledger.submit("full", JobSpec(source="s"))
    try:
        wait_until(lambda: watch.sight().silent_s < 1, "it takes writes", PATIENCE_S)
        assert not redis.exists("df:probe")
        redis.config_set("maxmemory", 1)
        assert redis.ping()
        wait_until(lambda: watch.sight().silent_s > REDIS_FRESH_S, "it is told", PATIENCE_S)
        for call in (lambda: heard(redis), lambda: ledger.take("full", "split", "w")):
            with pytest.raises(RedisAwayError, match="maxmemory"), explaining():
                call()
    finally:
        redis.config_set("maxmemory", 0)
        wait_until(lambda: watch.sight().silent_s < 1, "it takes writes again", PATIENCE_S)
        watch.close()
        redis.flushdb()
        redis.close()


def test_how_long_redis_has_hung_is_told_while_it_does(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.health.vitals.REDIS_EVERY_S", 0.05)
    notes = Notes()

    def silent_s() -> float:
        return notes.value(REDIS_SILENT, "coordinator") or 0.0

    watch = RedisWatch(connect_once(server.url, 0.1), Meter("coordinator", notes))
    watch.start()
    try:
        wait_until(lambda: notes.value(REDIS_SILENT, "coordinator") == 0, "it answers", PATIENCE_S)
        server.process.suspend()
        try:
            wait_until(lambda: silent_s() > 0.5, "it is told", PATIENCE_S)
            before = silent_s()
            wait_until(lambda: silent_s() > before, "it is told again", PATIENCE_S)
        finally:
            server.process.resume()
        wait_until(lambda: silent_s() == 0, "it answers again", PATIENCE_S)
    finally:
        watch.close()


def test_a_worker_consumes_again_after_redis_was_restarted(
    worker: Answering, server: Server
) -> None:
    assert worker.does("before")
    server.child.kill()
    server.child.start()
    assert worker.does("after-the-restart")
    wait_until(worker.ready, "it is ready again", PATIENCE_S)


def test_a_worker_whose_loop_stands_still_is_not_alive(worker: Answering) -> None:
    worker.process.send_signal(STAND_STILL)
    try:
        wait_until(lambda: not worker.alive(), "it is not alive", PATIENCE_S)
        assert "its loop has stood still" in worker.reasons()
        said = worker.command()
        assert said.returncode == 1
        assert "its loop has stood still" in said.stderr
    finally:
        worker.process.send_signal(GO_ON)
    wait_until(worker.ready, "it is ready again", PATIENCE_S)


def test_a_worker_that_has_forgotten_its_queues_is_not_alive(worker: Answering) -> None:
    worker.process.send_signal(FORGET)
    try:
        wait_until(lambda: not worker.alive(), "it is not alive", PATIENCE_S)
        assert "it has not asked its queues" in worker.reasons()
        assert "its loop" not in worker.reasons()  # it beats, and answers pings
    finally:
        worker.process.send_signal(REMEMBER)
    wait_until(worker.ready, "it is ready again", PATIENCE_S)


def test_a_worker_tells_what_its_processes_counted(worker: Answering) -> None:
    assert worker.does("counted")
    done = 'dualface_tasks_total{outcome="done",task="other"}'
    wait_until(lambda: done in worker.metrics(), "the task is counted", PATIENCE_S)
    # Its thread that asks Redis counts nothing: a fork might need the lock of that.
    assert "dualface_redis_silent_seconds" not in worker.metrics()


def test_without_a_port_the_command_says_so(worker: Answering) -> None:
    environment = {k: v for k, v in worker.environment.items() if k != "DUALFACE_HTTP_PORT"}
    said = Answering(worker.process, 0, "", environment).command()
    assert said.returncode == 1
    assert "DUALFACE_HTTP_PORT" in said.stderr


def test_coordinator_and_arena_answer_for_themselves(server: Server, tmp_path: Path) -> None:
    """And what the one counts is told by the other: they share a folder."""
    arena = answering(
        "shared.arena", server.url, tmp_path, ARENA_MIB="8", SHM_DIR=str(tmp_path), ARENA="vital"
    )
    redis = connect(server.url)
    with (
        arena as owner,
        answering("services.coordinator", server.url, tmp_path) as coordinator,
    ):
        for process in (owner, coordinator):
            wait_until(process.ready, "it is ready", PATIENCE_S)
        beats = "df:arenas:beats"
        wait_until(lambda: redis.hget(beats, "vital"), "the arena is heard", PATIENCE_S)
        wait_until(lambda: "dualface_jobs{" in owner.metrics(), "jobs are told of", PATIENCE_S)
        assert 'dualface_disk_free_ratio{place="state"}' in coordinator.metrics()
        for stage in ("arena", "coordinator"):
            told = f'dualface_redis_silent_seconds{{stage="{stage}"}}'
            wait_until(lambda told=told: told in owner.metrics(), "Redis is told of", PATIENCE_S)
        for process in (coordinator, owner):
            process.process.send_signal(signal.SIGTERM)
            assert process.process.wait(PATIENCE_S) in (0, None)
    assert redis.hget("df:arenas", "vital") is None
    assert redis.hget(beats, "vital") is None
    redis.close()
