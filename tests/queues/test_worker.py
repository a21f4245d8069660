"""The worker of a stage, as a real process on a real broker."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from shared.jobs import JobSpec
from shared.ledger import Ledger
from shared.messages import VERSION, SplitMessage
from shared.queues import CeleryOutbox, DeadLetters, make_app
from shared.redisdb import Connection
from shared.workers import living
from tests.processes import kill_worker
from tests.queues.stage import QUEUE, TASK, TRACE
from tests.waiting import wait_until

PATIENCE_S = 40.0


@contextmanager
def worker(redis_url: str, folder: Path, **settings: str) -> Iterator[psutil.Process]:
    """A worker of tests.queues.stage, ready to take tasks; killed at the end if it still lives."""
    chosen = {"REDIS_URL": redis_url, "STATE_DIR": str(folder), "DEAD_AFTER_S": "2", **settings}
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DUALFACE_")}
    environment |= {f"DUALFACE_{name}": value for name, value in chosen.items()}
    with (folder / "worker.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.queues.stage"],
            env=environment,
            stdout=log,
            stderr=log,
            cwd=Path(__file__).parents[2],
        )
    try:
        yield psutil.Process(process.pid)
    finally:
        kill_worker(process, redis_url)


def send(redis_url: str, body: object, task: str = TASK) -> None:
    CeleryOutbox(make_app(redis_url)).send_body(task, body, QUEUE)


def job(name: str) -> dict[str, object]:
    return SplitMessage(job=name).model_dump(mode="json")


def trace(redis: Connection) -> list[str]:
    return [str(line) for line in redis.lrange(TRACE, 0, -1)]


@pytest.mark.parametrize("kind", ["hang", "hang-native"])
def test_a_stage_that_hangs_is_ended_and_the_next_piece_of_work_is_done(
    redis: Connection, redis_url: str, tmp_path: Path, kind: str
) -> None:
    """The broker gives the message back, and it is done again (a real stage asks the ledger)."""
    with worker(redis_url, tmp_path, STALL_S="1.5"):
        send(redis_url, job(kind))
        send(redis_url, job("next"))
        wait_until(
            lambda: {f"end {kind}", "end next"} <= set(trace(redis)), "both done", PATIENCE_S
        )
    # Once more, unless this machine keeps even that waiting for so long.
    assert trace(redis).count(f"begin {kind}") >= 2
    lines = (tmp_path / "worker.log").read_text().splitlines()
    assert "Timeout" in "".join(lines)  # and where it hung
    others = [line for line in lines if not line.startswith(("Timeout", "Thread", "  File"))]
    said = [json.loads(line)["event"] for line in others if line]  # all other lines are JSON
    assert any("exited with" in event for event in said), "also what Celery says"


def test_sigterm_lets_the_work_come_to_its_end_and_the_worker_ends_with_zero(
    redis: Connection, redis_url: str, tmp_path: Path
) -> None:
    with worker(redis_url, tmp_path) as process:
        send(redis_url, job("long"))
        wait_until(lambda: "begin long" in trace(redis), "the task has begun", PATIENCE_S)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
    assert trace(redis) == ["begin long", "end long"]
    assert list(living(redis)) == []


def test_sigterm_ends_a_worker_whose_work_does_not_end(
    redis: Connection, redis_url: str, tmp_path: Path
) -> None:
    with worker(redis_url, tmp_path, DRAIN_S="1") as process:
        send(redis_url, job("hang"))
        wait_until(lambda: "begin hang" in trace(redis), "the task has begun", PATIENCE_S)
        children = process.children()
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
        wait_until(lambda: not any(child.is_running() for child in children), "children are gone")


def test_a_cancelled_job_is_put_down_where_it_is_worked_on(
    redis: Connection, redis_url: str, tmp_path: Path
) -> None:
    ledger = Ledger(redis, 60, 4)
    ledger.submit("cancelled", JobSpec(source="s"))
    with worker(redis_url, tmp_path):
        send(redis_url, job("cancelled"))
        wait_until(lambda: "begin cancelled" in trace(redis), "the task has begun", PATIENCE_S)
        ledger.cancel("cancelled")
        send(redis_url, job("next"))
        wait_until(lambda: "end next" in trace(redis), "the worker is free again", PATIENCE_S)
    assert "end cancelled" not in trace(redis)


def test_a_message_of_another_release_is_left_to_a_worker_of_that_release(
    redis: Connection, redis_url: str, tmp_path: Path
) -> None:
    with worker(redis_url, tmp_path):
        send(redis_url, job("later") | {"v": VERSION + 1, "new": "field"})
        send(redis_url, job("now"))
        wait_until(lambda: "end now" in trace(redis), "others are not held up", PATIENCE_S)
        wait_until(lambda: redis.llen(QUEUE) + redis.hlen("unacked"), "it is with the broker")
    assert "begin later" not in trace(redis)
    assert list(DeadLetters(redis).all()) == []


@pytest.mark.parametrize(
    ("body", "task", "reason"),
    [
        ({"v": VERSION, "job": "x", "pixels": "AAAA"}, TASK, "pixels"),
        ("no message", TASK, "SplitMessage"),
        ({"v": VERSION, "job": "x"}, "probe.unheard_of", "probe.unheard_of"),
    ],
)
def test_what_nobody_can_read_becomes_a_dead_letter_with_its_reason(
    redis: Connection, redis_url: str, tmp_path: Path, body: object, task: str, reason: str
) -> None:
    letters = DeadLetters(redis)
    with worker(redis_url, tmp_path):
        send(redis_url, body, task)
        send(redis_url, job("next"))
        wait_until(lambda: "end next" in trace(redis), "others are not held up", PATIENCE_S)
        wait_until(lambda: list(letters.all()), "the letter is there", PATIENCE_S)
    (letter,) = letters.all()
    assert letter.queue == QUEUE
    assert reason in letter.reason
    assert letters.drop(letter.id)
    assert list(letters.all()) == []


def test_bytes_that_are_no_message_at_all_become_a_dead_letter(
    redis: Connection, redis_url: str, tmp_path: Path
) -> None:
    """Well-formed for the broker, but neither a task nor of any type that is accepted."""
    envelope = {
        "body": "gASVDQAAAAAAAACMCXBpY2tsZSBtZZQu",
        "content-type": "application/x-python-serialize",
        "content-encoding": "binary",
        "headers": {},
        "properties": {
            "delivery_mode": 2,
            "delivery_tag": "tag-1",
            "body_encoding": "base64",
            "delivery_info": {"exchange": "", "routing_key": QUEUE},
        },
    }
    with worker(redis_url, tmp_path):
        redis.lpush(QUEUE, json.dumps(envelope))
        send(redis_url, job("next"))
        wait_until(lambda: "end next" in trace(redis), "others are not held up", PATIENCE_S)
        wait_until(lambda: list(DeadLetters(redis).all()), "the letter is there", PATIENCE_S)


def test_a_worker_that_forgot_its_queues_ends_and_another_does_the_work(
    redis: Connection, redis_url: str, tmp_path: Path
) -> None:
    """As after some breaks of its connection: it lives, answers pings, and takes no message."""
    with worker(redis_url, tmp_path, HEALTH_PATIENCE_S="2") as process:
        send(redis_url, job("first"))
        wait_until(lambda: "end first" in trace(redis), "it works", PATIENCE_S)
        make_app(redis_url).control.cancel_consumer(QUEUE)
        assert process.wait(PATIENCE_S) == os.EX_UNAVAILABLE
        send(redis_url, job("second"))
    with worker(redis_url, tmp_path):
        wait_until(lambda: "end second" in trace(redis), "another works", PATIENCE_S)


def test_workers_on_one_arena_and_host_can_be_told_apart_by_their_names(
    redis_url: str, tmp_path: Path
) -> None:
    """Containers of one Compose file have a host name for all, and process ids of one space."""
    with worker(redis_url, tmp_path, ARENA="gpu3") as process:
        control = make_app(redis_url).control
        answers: list[dict[str, object]] = []

        def told() -> bool:
            answers[:] = control.broadcast("ping", reply=True, limit=1, timeout=1) or []
            return bool(answers)

        wait_until(told, "it answers", PATIENCE_S)
        name = f"probe@gpu3.{socket.gethostname()}.{process.pid}"
    assert list(answers[0]) == [name]


def test_work_stands_back_for_others_but_signs_of_life_do_not(
    redis: Connection, redis_url: str, tmp_path: Path
) -> None:
    with worker(redis_url, tmp_path, WORKER_NICE="7") as process:
        send(redis_url, job("first"))
        wait_until(lambda: "end first" in trace(redis), "it works", PATIENCE_S)
        (child,) = process.children()
        threads = {}
        for path in Path(f"/proc/{child.pid}/task").glob("*/stat"):
            with suppress(OSError):  # a thread that ends meanwhile
                facts = path.read_text().rpartition(")")[2].split()
                threads[int(path.parent.name)] = int(facts[16])
    here = os.getpriority(os.PRIO_PROCESS, 0)
    assert threads.pop(child.pid) == min(19, here + 7)
    assert here in threads.values()
