"""What becomes of work while Redis is away: it waits, and none of that is a try."""

from __future__ import annotations

import faulthandler
import os
import signal
import threading
from pathlib import Path

import pytest

from shared import redisdb
from shared.errors import RedisAwayError
from shared.guard import Guard
from shared.jobs import JobSpec
from shared.ledger import Ledger
from shared.queues import CeleryOutbox, make_app
from shared.queues.app import SEND_RETRIES
from shared.redisdb import RedisError, connect
from tests.queues.test_worker import PATIENCE_S, job, send, trace, worker
from tests.servers import free_port, redis_server
from tests.waiting import wait_until


def test_redis_that_freezes_again_and_again_around_one_piece_of_work_uses_up_no_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMPATIENT", "1")
    with redis_server(tmp_path) as url, worker(url, tmp_path, ATTEMPTS="1") as process:
        redis = connect(url)
        Ledger(redis, 60, 1).submit("ice", JobSpec(source="s"))
        send(url, job("ice"))
        wait_until(lambda: "end ice" in trace(redis), "it is done", PATIENCE_S)
        assert "try 1" in trace(redis)
        wait_until(lambda: Ledger(redis, 60, 1).hands("ice") == {}, "it is put down")
        assert len(process.children()) == 1
        redis.close()
    log = (tmp_path / "worker.log").read_text()
    assert "Redis out of reach" in log  # also while the work was given back
    assert "Traceback" not in log


def test_a_call_that_waits_for_redis_says_so_at_every_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redisdb, "RETRIES", 1)
    said: list[str] = []
    with pytest.raises(RedisError):
        connect(f"redis://127.0.0.1:{free_port()}/0", lambda: said.append("waits")).ping()
    assert len(said) >= 2


def test_a_message_that_waits_for_redis_says_so_at_every_try(tmp_path: Path) -> None:
    said: list[str] = []
    with redis_server(tmp_path) as url:
        redis, app = connect(url), make_app(url)
        server = redis.info("server")["process_id"]
        app.conf.broker_transport_options |= {"socket_timeout": 0.4}  # instead of 10 s
        app.conf.task_publish_retry_policy |= {"interval_max": 0}
        outbox = CeleryOutbox(app, on_wait=lambda: said.append("waits"))

        def taken() -> bool:
            try:
                outbox.send_body("probe", {"job": "j"}, "probe")
            except RedisAwayError:  # so little time may be too little on a busy machine
                return False
            return True

        wait_until(taken, "a connection stands")
        said.clear()
        os.kill(server, signal.SIGSTOP)
        try:
            with pytest.raises(RedisAwayError):
                outbox.send_body("probe", {"job": "j"}, "probe")
        finally:
            os.kill(server, signal.SIGCONT)
        assert len(said) > SEND_RETRIES
        app.close()
        redis.close()


def test_redis_away_is_no_hang_of_who_works_and_starts_no_watch_over_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fed: list[float] = []
    monkeypatch.setattr(faulthandler, "dump_traceback_later", lambda s, **_: fed.append(s))
    guard = Guard(stall_s=30)
    guard.waits()
    assert fed == []
    guard.begin()
    guard.waits()
    other = threading.Thread(target=guard.waits)
    other.start()
    other.join()
    assert fed == [30, 30]
    guard.end()
    guard.waits()
    assert fed == [30, 30]
