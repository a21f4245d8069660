"""Facts about a worker whose store does not do its work."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path

import pytest

from chaos.proxy import Fault, Proxy
from shared.jobs import JobSpec, JobState
from shared.ledger import Ledger
from shared.messages import SplitMessage
from shared.queues.worker import StageWorker
from shared.redisdb import Connection
from shared.runtime import Runtime
from shared.settings import Settings
from tests.servers import S3Server

QUEUE = "probe"
ATTEMPTS = 2


def run_once(
    redis: Connection,
    redis_url: str,
    folder: Path,
    settings: dict[str, str],
    work: Callable[[Runtime, SplitMessage], None],
) -> Ledger:
    """Have a worker's child do `work` on the message of job "j", as Celery would."""
    chosen = {"redis_url": redis_url, "state_dir": folder, "attempts": ATTEMPTS, "stall_s": 0}
    worker = StageWorker("probe", Settings.model_validate(chosen | settings), 1)
    task = f"probe.{secrets.token_hex(8)}"  # Celery keeps one list for the whole process
    worker.task(task, SplitMessage, QUEUE, work)
    ledger = Ledger(redis, 60, ATTEMPTS)
    worker.app.tasks[task](SplitMessage(job="j").model_dump(mode="json"))
    worker._stop_child()
    return ledger


def take_and(use: Callable[[Runtime], object]) -> Callable[[Runtime, SplitMessage], None]:
    """Work that is taken up in the ledger and needs the store."""

    def work(runtime: Runtime, message: SplitMessage) -> None:
        assert runtime.ledger.take(message.job, message.item, runtime.worker) == 1
        use(runtime)

    return work


def test_a_store_that_refuses_fails_no_job_and_uses_up_no_try(
    redis: Connection,
    redis_url: str,
    tmp_path: Path,
    s3: S3Server,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shared.queues.worker.REFUSED_PAUSE_S", 0.01)
    Ledger(redis, 60, ATTEMPTS).submit("j", JobSpec(source="jobs/j/source.mp4"))
    settings = s3.settings(bucket) | {"s3_secret_key": "guessed"}
    for sent in range(1, ATTEMPTS + 2):
        work = take_and(lambda runtime: runtime.store.write("x", [b"x"]))
        ledger = run_once(redis, redis_url, tmp_path, settings, work)
        assert ledger.state("j") is JobState.SPLITTING
        assert redis.llen(QUEUE) == sent


def test_a_worker_puts_down_a_cancelled_job_while_the_store_hangs(
    redis: Connection, redis_url: str, tmp_path: Path, s3: S3Server, bucket: str, proxy: Proxy
) -> None:
    Ledger(redis, 60, ATTEMPTS).submit("j", JobSpec(source="jobs/j/source.mp4"))
    settings = s3.settings(bucket, port=proxy.port)
    proxy.set(Fault("hang"))

    def cancelled(runtime: Runtime) -> None:
        runtime.ledger.cancel("j")
        runtime.store.write("x", [b"x"])
        raise AssertionError("the store answered")

    ledger = run_once(redis, redis_url, tmp_path, settings, take_and(cancelled))
    assert ledger.state("j") is JobState.CANCELLED
    assert redis.llen(QUEUE) == 0
