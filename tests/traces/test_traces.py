"""Spans as a collector gets them: from the whole system, and from a worker in trouble."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path

import psutil
import pytest
from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased

from shared.errors import PermanentError
from shared.media.layout import FrameLayout
from shared.messages import BatchMessage, SlotRef
from shared.queues import CeleryOutbox, make_app
from shared.redisdb import Connection
from shared.settings import Settings
from shared.traces import SENT_AT_ONCE, WAITING_SPANS, Traces, ids_of, is_sampled, open_traces
from tests.conftest import PROJECT
from tests.logged import ours
from tests.processes import kill_worker
from tests.servers import free_port
from tests.system.runs import home_in
from tests.traces.collector import collector
from tests.traces.stage import BEGUN, QUEUE, TASK
from tests.videos import CLOSED_GOP_X264, make_video
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(200)
PATIENCE_S = 40.0


def batch(job: str, number: int = 5) -> BatchMessage:
    slot = SlotRef(arena="a", generation="g", pool="decoded", slot=0, token=1, holder="h")
    layout = FrameLayout(width=16, height=16)
    return BatchMessage(job=job, segment=3, batch=number, layout=layout, pts=(1, 2), slot=slot)


@contextmanager
def worker(redis_url: str, folder: Path, **settings: str) -> Iterator[psutil.Process]:
    """A worker of tests.traces.stage; killed at the end if it still lives."""
    chosen = {"REDIS_URL": redis_url, "STATE_DIR": str(folder), **settings}
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DUALFACE_")}
    environment |= {f"DUALFACE_{name}": value for name, value in chosen.items()}
    command = [sys.executable, "-m", "tests.traces.stage"]
    with (folder / "worker.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=PROJECT)
    try:
        yield psutil.Process(process.pid)
    finally:
        kill_worker(process, redis_url)


def send(redis_url: str, job: str) -> None:
    CeleryOutbox(make_app(redis_url)).send(TASK, batch(job), QUEUE)


def test_a_jobs_way_through_all_stages_is_one_trace_with_one_root(tmp_path: Path) -> None:
    video = tmp_path / "talk.mp4"
    make_video(video, replace(CLOSED_GOP_X264, size=(160, 90), frames=20))
    wanted = {"decode.split", "decode.segment", "infer.batch", "compose.batch", "encode.batch"}
    wanted |= {"encode.mux", "job"}
    with (
        collector() as collected,
        home_in(
            tmp_path, traces_endpoint=collected.address, api_port="0", dead_after_s="30"
        ) as home,
    ):
        up = home.start("up")
        wait_until(lambda: "Page and API" in up.said(), "the stack is up", 60)
        ran = home.run("submit", video)
        assert ran.code == 0, ran.said
        wait_until(lambda: wanted <= {s.name for s in collected.spans}, "spans of all stages", 60)
        wait_until(lambda: len(collected.named("encode.batch")) >= 3, "and of all batches", 60)
        up.interrupt(signal.SIGINT)
        assert up.wait().code == 0
        home.wait_until_all_gone()
    (root,) = [span for span in collected.spans if not span.parent]
    job = str(root.facts["job"])
    assert {span.name for span in collected.spans} == wanted
    assert {span.trace for span in collected.spans} == {root.trace} == {ids_of(job).hex}
    assert {span.parent for span in collected.spans if span is not root} == {root.span}
    told = {name: root.facts[name] for name in ("name", "state", "frames")}
    assert told == {"name": "talk.mp4", "state": "succeeded", "frames": 20}
    assert root.service == "dualface-coordinator"
    assert root.start_ns < root.end_ns
    assert all(span.facts["outcome"] == "done" for span in collected.spans if span is not root)
    encoded = {span.facts["batch"]: span for span in collected.named("encode.batch")}
    assert sum(int(span.facts["frames"]) for span in encoded.values()) == 20
    assert {span.facts["engine"] for span in encoded.values()} == {"pyav-libx264"}
    assert all(int(span.facts["try"]) >= 1 for span in encoded.values())


def named(beginning: str, *, sampled: bool) -> str:
    """A job that is or is not one of the half that is traced."""
    names = (f"{beginning}-{number}" for number in count())
    return next(name for name in names if is_sampled(ids_of(name), 0.5) is sampled)


def test_a_repeat_is_another_span_and_a_worker_that_drains_sends_its_last_ones_of_sampled_jobs(
    redis: Connection, redis_url: str, tmp_path: Path
) -> None:
    failing, long = named("fails-once", sampled=True), named("long", sampled=True)
    other = named("other", sampled=False)
    chosen = {"TRACES_SHARE": "0.5", "ARENA": "cpu7"}
    with (
        collector() as collected,
        worker(redis_url, tmp_path, TRACES_ENDPOINT=collected.address, **chosen) as process,
    ):
        send(redis_url, failing)
        wait_until(lambda: redis.hget(BEGUN, failing) == "2", "it was repeated", PATIENCE_S)
        send(redis_url, other)
        send(redis_url, long)
        wait_until(lambda: redis.hexists(BEGUN, long), "the last one has begun", PATIENCE_S)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
    assert redis.hget(BEGUN, other) == "1"
    first, second, last = collected.named(TASK)
    assert [span.facts["outcome"] for span in (first, second, last)] == ["repeated", "done", "done"]
    assert (first.failed, first.facts["code"], second.failed) == (True, "busy", False)
    assert first.trace == second.trace == ids_of(failing).hex != last.trace
    assert first.span != second.span
    facts = {"job": long, "segment": 3, "batch": 5, "frames": 2, "stage": "infer", "arena": "cpu7"}
    assert last.facts == facts | {"outcome": "done"}


def test_what_is_logged_while_a_message_is_worked_on_says_which_one_and_its_trace(
    redis: Connection, redis_url: str, tmp_path: Path
) -> None:
    """Also what a library says, and with a collector that is not there: the work is done."""
    endpoint = f"http://127.0.0.1:{free_port()}"
    with worker(redis_url, tmp_path, TRACES_ENDPOINT=endpoint):
        send(redis_url, "fails-once")
        wait_until(lambda: redis.hget(BEGUN, "fails-once") == "2", "it was repeated", PATIENCE_S)
    log = (tmp_path / "worker.log").read_text().splitlines()
    lines = [json.loads(line) for line in log if line.startswith("{")]
    place = {"task": TASK, "job": "fails-once", "item": "3:5", "segment": 3, "batch": 5}
    about = [line for line in lines if "job" in line]
    assert {line["event"] for line in about} >= {"said by a library", "repeated later"}
    for line in about:
        assert line | place | {"trace": ids_of("fails-once").hex} == line


def test_the_share_of_jobs_is_the_one_that_opentelemetrys_own_sampler_takes() -> None:
    jobs = [f"job-{number}" for number in range(300)]
    standard = TraceIdRatioBased(0.3)
    theirs = [standard.should_sample(None, ids_of(job).trace, "") for job in jobs]
    mine = [is_sampled(ids_of(job), 0.3) for job in jobs]
    assert [each.decision is Decision.RECORD_AND_SAMPLE for each in theirs] == mine
    assert 60 < sum(mine) < 120
    assert [is_sampled(ids_of("a"), share) for share in (0.0, 1.0)] == [False, True]


def test_what_waits_for_a_collector_is_bounded_and_the_newest_are_kept() -> None:
    made = 2 * WAITING_SPANS
    with collector() as collected:
        collected.gate.clear()
        traces = Traces("infer", collected.address)
        for number in range(made):
            with traces.work("infer.batch", batch("a", number)):
                pass
        collected.gate.set()
        newest = made - 1
        wait_until(
            lambda: any(span.facts["batch"] == newest for span in collected.spans), "the newest"
        )
        traces.close()
    # One request may have been on its way, and another taken up meanwhile.
    assert WAITING_SPANS <= len(collected.spans) <= WAITING_SPANS + 2 * SENT_AT_ONCE


def test_a_collector_that_refuses_is_told_of_once_a_minute_without_its_address(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with collector() as collected:
        collected.answer = 400
        endpoint = collected.address.replace("//", "//user:secret@")
        traces = open_traces(Settings(traces_endpoint=endpoint), "infer")
        with caplog.at_level(logging.INFO):
            for number in range(3 * SENT_AT_ONCE):
                with traces.work("infer.batch", batch("a", number)):
                    pass
            wait_until(lambda: collected.requests >= 3, "all were refused")
            traces.close()
    assert [record.message for record in ours(caplog)] == ["the collector takes no traces"]
    assert "secret" not in caplog.text


def test_nothing_is_imported_for_traces_that_are_off() -> None:
    """redis-py takes a part of the SDK where it is installed: that much, and no more."""
    code = (
        "import sys; loaded = lambda: {each for each in sys.modules if 'opentelemetry' in each};"
        "import redis; before = loaded();"
        "from shared.messages import MuxMessage; from shared.settings import Settings;"
        "from shared.traces import open_traces; import services.coordinator.__main__;"
        "import services.decode.tasks, services.infer.tasks, services.encode.tasks;"
        "traces = open_traces(Settings(), 'encode');"
        "traces.work('encode.mux', MuxMessage(job='a')).__enter__(); traces.close();"
        "print(loaded() - before);"
        "sys.exit(loaded() != before or 'google.protobuf' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("endpoint", ["collector:4318", "grpc://collector:4317", "http://"])
def test_an_endpoint_that_is_no_address_is_refused_with_the_settings_name(
    monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    monkeypatch.setenv("DUALFACE_TRACES_ENDPOINT", endpoint)
    with pytest.raises(PermanentError, match="DUALFACE_TRACES_ENDPOINT"):
        Settings.load()
