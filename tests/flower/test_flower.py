"""Flower, as operators see it: a job is one row, with its progress, beside the stages' tasks."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest
from celery import Celery
from playwright.sync_api import Page

from services.coordinator.telling import Telling
from shared.errors import ErrorCode
from shared.ledger import JobResult, Ledger
from shared.queues import CeleryOutbox, make_app
from shared.queues.flower import JOBS_PAGE
from shared.redisdb import Connection
from tests.browser import chromium
from tests.builders import batch_message, job_spec, output_plan, source_info
from tests.servers import free_port
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(300)

PASSWORD = "not a secret"

MANY_NAMES = """
import gc, json, prometheus_client
from shared.queues.flower import forget_names, make_server
from shared.settings import Settings

state = make_server(Settings(redis_url="redis://127.0.0.1:1/0"), "a:b").events.state
state.max_tasks_in_memory = state.tasks.limit = 10
for clock in range(60):
    for kind in ("task-received", "task-started", "task-succeeded"):
        state.event({"type": kind, "uuid": f"job-{clock}", "name": f"dualface.job {clock}.mp4",
            "hostname": "jobs@coordinator", "timestamp": clock, "local_received": clock,
            "clock": clock, "pid": 1, "utcoffset": 0, "runtime": 1.0})
gc.collect()  # Celery's tasks refer to themselves
forget_names(state)
told = prometheus_client.generate_latest().decode()
print(json.dumps([len(state.tasks), state.task_types(), list(state.tasks_by_type), told]))
"""


@contextmanager
def flower(redis_url: str, **settings: str) -> Iterator[tuple[str, psutil.Process]]:
    """Flower as a process of its own; its address."""
    port = free_port()
    own = {key: value for key, value in os.environ.items() if not key.startswith("DUALFACE_")}
    mine = {"DUALFACE_REDIS_URL": redis_url, "DUALFACE_FLOWER_PORT": str(port)}
    command = [sys.executable, "-m", "shared.queues.flower"]
    with subprocess.Popen(
        command,
        cwd=Path(__file__).parents[2],
        env={**own, **mine, **settings},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield f"http://127.0.0.1:{port}", psutil.Process(process.pid)
        finally:
            process.terminate()
            process.communicate(timeout=30)


def answers(url: str) -> bool:
    """True once it listens."""
    try:
        return httpx.get(url).status_code > 0
    except httpx.TransportError:
        return False


def let_a_stage_work(app: Celery, tasks: int) -> None:
    """Its worker tells of tasks that have just come: more than a page has rows."""
    with app.connection() as connection:
        told = app.events.Dispatcher(connection, hostname="infer@cpu0")
        for each in range(tasks):
            about = {"name": "infer.batch", "args": f"batch {each}, job job-1", "kwargs": ""}
            told.send("task-received", uuid=f"job-1:0:{each}", **about)


def wait_for_row(page: Page, name: str, *words: str) -> None:
    """Until one row has the name, and these words; Flower's tables do not fill by themselves with
    what it hears later."""
    row = page.locator("tbody tr", has_text=name)

    def told() -> bool:
        page.reload(wait_until="networkidle")
        return row.count() == 1 and all(word in row.inner_text() for word in words)

    wait_until(told, f"{name}: {words}", 60)


def test_a_job_is_one_row_whose_progress_can_be_read_from_the_page(
    redis: Connection, redis_url: str
) -> None:
    ledger, app = Ledger(redis, 60, 4), make_app(redis_url)
    telling = Telling(ledger, app)

    def tell(job: str) -> None:
        view = ledger.view(job)
        assert view is not None
        telling.tell(view)

    guarded = {"DUALFACE_FLOWER_PASSWORD": PASSWORD}
    with chromium() as browser, flower(redis_url, **guarded) as (url, process):
        wait_until(lambda: answers(url), "Flower listens", 60)
        assert httpx.get(f"{url}/tasks").status_code == 401
        line = " ".join(process.cmdline())
        assert PASSWORD not in line
        assert "redis://" not in line
        # Celery's events are not kept: until its receiver is there, nobody hears them.
        wait_until(lambda: redis.pubsub_numpat() or redis.pubsub_channels("*celeryev*"), "it hears")

        for job, name in (("job-1", "talk.mp4"), ("job-2", "<b>bad</b>.mp4")):
            ledger.submit(job, job_spec().model_copy(update={"name": name}))
            ledger.take(job, "split", "w")
            ledger.put_facts(job, source_info(), output_plan(), 8)
            redis.hset(f"df:job:{job}", mapping={"frames_expected": 400, "frames_encode": 100})
            tell(job)
        page = browser.new_context(
            http_credentials={"username": "dualface", "password": PASSWORD}
        ).new_page()
        let_a_stage_work(app, tasks=20)
        page.goto(f"{url}/tasks")
        wait_for_row(page, "job-1:0:19")  # the latest first
        assert page.locator("tbody tr", has_text="dualface.job").count() == 0
        page.goto(f"{url}{JOBS_PAGE}")
        wait_for_row(page, "dualface.job talk.mp4", "PROGRESS", "25.0 %", "100 of 400 frames")
        assert page.locator("tbody tr").count() == 2
        redis.hset("df:job:job-1", "frames_encode", 300)
        tell("job-1")
        wait_for_row(page, "dualface.job talk.mp4", "PROGRESS", "75.0 %")
        ledger.finish("job-1", JobResult(key="k", frames=400))
        ledger.fail("job-2", ErrorCode.TOO_DAMAGED, "Broken beyond use.")
        for job in ("job-1", "job-2"):
            tell(job)
        wait_for_row(page, "dualface.job talk.mp4", "SUCCESS")
        wait_for_row(page, "<b>bad</b>.mp4", "FAILURE")
        telling.beat()
        page.goto(url)
        wait_for_row(page, "jobs@coordinator", "Online")


def test_without_the_password_flower_tells_of_its_health_and_of_nothing_else(
    redis_url: str,
) -> None:
    from flower.urls import handlers

    patterns = [getattr(each, "regex", None) or re.compile(each[0]) for each in handlers]
    paths = {re.sub(r"\(.*\)|[.?*]+", "x", each.pattern.rstrip("$")) for each in patterns}
    assert {"/metrics", "/api/workers", "/task/x", "/healthcheck", "x"} <= paths
    with (
        flower(redis_url, DUALFACE_FLOWER_PASSWORD=PASSWORD) as (url, _),
        httpx.Client(base_url=url, timeout=30) as stranger,
        httpx.Client(base_url=url, timeout=30, auth=("dualface", PASSWORD)) as operator,
    ):
        wait_until(lambda: answers(url), "Flower listens", 60)
        told = {
            (method, path)
            for path in paths
            for method in ("GET", "POST", "OPTIONS")
            if stranger.request(method, path).status_code != 401
        }
        assert {path for _, path in told} == {"/healthcheck"}
        assert ("GET", "/healthcheck") in told
        assert stranger.get("/tasks", auth=("dualface", "wrong")).status_code == 401
        assert "Basic" in stranger.get("/tasks").headers["www-authenticate"]
        assert operator.get("/api/task/types").status_code == 200
        assert operator.get("/static/css/flower.css").status_code == 200
        assert operator.get("/metrics").status_code == 404


def test_what_flower_keeps_does_not_grow_with_the_names_of_jobs() -> None:
    own = {key: value for key, value in os.environ.items() if not key.startswith("DUALFACE_")}
    done = subprocess.run(
        [sys.executable, "-c", MANY_NAMES],
        cwd=Path(__file__).parents[2],
        env=own,
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=True,
    )
    tasks, types, by_type, told = json.loads(done.stdout)
    assert tasks == 10
    assert types == sorted(by_type) == [f"dualface.job {each}.mp4" for each in range(50, 60)]
    assert "flower_task" not in re.sub("(?m)^#.*$", "", told)
    assert ".mp4" not in told


def test_stage_tasks_show_which_piece_of_which_job_they_are(
    redis: Connection, redis_url: str
) -> None:
    CeleryOutbox(make_app(redis_url)).send("infer.batch", batch_message("2:7"), "infer.cpu0")
    sent = str(redis.lindex("infer.cpu0", 0))
    assert "segment 2, batch 7, job j" in sent


def test_flower_is_not_started_without_a_password(redis_url: str) -> None:
    with flower(redis_url) as (_, process):
        assert process.wait(timeout=60) == 2
