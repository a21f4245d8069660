"""The pages' Celery examples, taken from them and run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.result import AsyncResult

from services.coordinator.api.app import make_service
from services.coordinator.closing import Closing
from services.coordinator.requests import Requests
from services.coordinator.telling import Telling
from shared.errors import ErrorCode
from shared.jobs import JobState
from shared.keys import Role
from shared.ledger import JobResult
from shared.names import result_key
from shared.queues import TaskResults, make_app
from shared.redisdb import Connection
from shared.runtime import Runtime, make_runtime
from shared.settings import Settings
from shared.storage.directory import DirectoryStore
from tests.api.conftest import Served, served
from tests.coordinator.fleet import Fleet
from tests.docs.pages import DOCS, block
from tests.queues.test_requests import consuming
from tests.waiting import wait_until

RESULT = JobResult(key="jobs/a/result.mp4", frames=9000)


@pytest.fixture
def runtime(redis: Connection, redis_url: str, tmp_path: Path) -> Runtime:
    """A coordinator's; sources may come from the host of the example."""
    settings = Settings(redis_url=redis_url, source_hosts=("videos.example.com",))
    store = DirectoryStore(tmp_path)
    return make_runtime(settings, redis, store, Fleet(None), "c")  # type: ignore[arg-type]


def test_ten_lines_of_any_celery_app_submit_a_job_follow_it_and_get_its_result(
    runtime: Runtime, redis_url: str
) -> None:
    """The example waits by sleeping; here each wait is a step of the job instead."""
    celery = make_app(redis_url)
    closing = Closing(runtime, Telling(runtime.ledger, celery))
    printed: list[Any] = []
    names: dict[str, Any] = {"URL": redis_url, "print": printed.append}

    def wait() -> None:
        job = names["job"].id
        wait_until(lambda: runtime.ledger.state(job) is not None, "the job is in the ledger")
        if len(printed) == 2:
            runtime.ledger.finish(job, RESULT)
        closing.step()

    names["wait"] = wait
    code = block("operations.md", "python", "dualface.submit").text
    assert "time.sleep(1)" in code
    with consuming(runtime, Requests(runtime, TaskResults(celery)).handle):
        exec(code.replace("time.sleep(1)", "wait()"), names)
    names["app"].close()
    assert printed[1]["state"] == "queued"
    assert printed[-1]["frames"] == RESULT.frames
    assert runtime.ledger.state(names["job"].id) is JobState.SUCCEEDED


@contextmanager
def shim(api: Served, broker: str, folder: Path) -> Iterator[Celery]:
    """The page's worker, started as the page says; gives the app of a caller that knows nothing."""
    _, key = api.service.keys.add("ann", (Role.SUBMIT, Role.READ))
    code = block("migration.md", "python", "videos.split_screen").text
    (folder / "shim.py").write_text(f"OLD_BROKER = {broker!r}\n{code}")
    (command,) = re.findall(r"`celery (-A shim [^`]+)`", (DOCS / "migration.md").read_text())
    # It need not look for others of its kind, which takes a second.
    quick = ("--without-mingle", "--without-gossip", "--without-heartbeat")
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "NO_PROXY": "*"}
    with (folder / "worker.log").open("w") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "celery", *command.split(), *quick],
            cwd=folder,
            env=environment | {"DUALFACE_API_URL": api.url, "DUALFACE_API_KEY": key},
            stdout=log,
            stderr=log,
        )
    try:
        with Celery("callers", broker=broker, backend=broker) as callers:
            yield callers
    finally:
        worker.kill()  # it has nothing in hands; to end in peace would take it a second
        worker.wait(timeout=30)


def test_the_shim_has_the_old_task_name_make_the_video_here(
    redis: Connection,  # noqa: ARG001 - empty
    redis_url: str,
    tmp_path: Path,
) -> None:
    source, target = tmp_path / "talk.mp4", tmp_path / "talk-split.mp4"
    source.write_bytes(b"bytes of a video")
    settings = Settings(redis_url=redis_url, state_dir=tmp_path / "state")
    old_broker = redis_url.rpartition("/")[0] + "/1"
    with served(make_service(settings)) as api, shim(api, old_broker, tmp_path) as callers:
        ledger, store = api.service.ledger, api.service.store

        def send(task_id: str) -> AsyncResult[str]:
            arguments = (str(source), str(target))
            return callers.send_task("videos.split_screen", arguments, task_id=task_id)

        def job() -> str:
            wait_until(lambda: ledger.listed("ann", "queued").jobs, "the job is there", 60)
            return ledger.listed("ann", "queued").jobs[0]

        good = send("old-1")
        key = result_key(job(), "mp4")
        store.write(key, [b"split-screen video"])
        wait_until(lambda: good.state == "PROGRESS", "the caller sees progress")
        ledger.finish(job(), JobResult(key=key, frames=3))
        assert good.get(timeout=60) == str(target)
        assert target.read_bytes() == b"split-screen video"

        bad = send("old-2")
        ledger.fail(job(), ErrorCode.STAGE_FAILED, "It failed.")
        with pytest.raises(RuntimeError, match="stage_failed: It failed"):
            bad.get(timeout=60)

        target.unlink()
        good.forget()
        assert send("old-1").get(timeout=60) == str(target)
        assert target.exists()
        assert ledger.count("ann", "any") == 2  # a message that came twice made no third job
