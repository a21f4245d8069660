"""Watching a job: every event, in order, at once, and on from where one was."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from services.coordinator.api import events as events_module
from shared.errors import ErrorCode
from shared.ledger import JobResult
from tests.api.conftest import Served
from tests.api.test_jobs import code_of
from tests.builders import output_plan, source_info
from tests.waiting import wait_until


def read(lines: Iterator[str]) -> Iterator[dict[str, str]]:
    """The events of a stream."""
    event: dict[str, str] = {}
    for line in lines:
        if not line:
            if event:
                yield event
            event = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(": ")
            event[name] = value


@contextmanager
def watching(
    client: httpx.Client, job: str, after: str | None = None
) -> Iterator[list[dict[str, str]]]:
    """A list that fills with what the stream tells; ends with the stream."""
    heard: list[dict[str, str]] = []
    headers = {} if after is None else {"Last-Event-ID": after}
    ready = threading.Event()

    def listen() -> None:
        with client.stream("GET", f"/v1/jobs/{job}/events", headers=headers) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            for event in read(answer.iter_lines()):
                heard.append(event)
                ready.set()

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    yield heard
    thread.join(timeout=60)
    assert not thread.is_alive()


def test_a_watcher_hears_every_state_and_the_stream_ends_with_the_job(api: Served) -> None:
    ledger = api.service.ledger
    job = api.job("a")
    with watching(api.client(), job) as heard:
        wait_until(lambda: heard, "the first event")
        ledger.take(job, "split", "w")
        ledger.put_facts(job, source_info(), output_plan(), 8)
        wait_until(lambda: "splitting" in heard[-1]["data"], "the split")
        ledger.finish(job, JobResult(key="k", frames=1))
    states = [json.loads(e["data"])["state"] for e in heard if e["event"] == "state"]
    assert states == ["queued", "splitting", "succeeded"]
    assert all(event["id"] for event in heard)


def test_a_stream_goes_on_after_the_last_event_one_has(api: Served) -> None:
    client = api.client()
    job = api.job("a")
    api.service.ledger.take(job, "split", "w")
    api.service.ledger.fail(job, ErrorCode.TOO_DAMAGED, "Broken.")
    with watching(client, job) as everything:
        pass
    with watching(client, job, everything[0]["id"]) as rest:
        pass
    assert rest == everything[1:]
    end = client.get(f"/v1/jobs/{job}/events", headers={"Last-Event-ID": everything[-1]["id"]})
    assert end.status_code == 204
    bad = client.get(f"/v1/jobs/{job}/events", headers={"Last-Event-ID": "yesterday"})
    assert bad.status_code == 422


def test_one_watcher_too_many_is_told_so_until_another_one_leaves(
    api: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.coordinator.api.bell.MOST", 1)
    client, job, other = api.client(), api.job("a"), api.job("b")
    with watching(client, job) as heard:
        wait_until(lambda: heard, "the first watcher")
        late = client.get(f"/v1/jobs/{other}/events")
        assert (late.status_code, code_of(late)) == (503, "busy")
        assert int(late.headers["retry-after"]) > 60, "a client looks at the job meanwhile"
        api.service.ledger.cancel(job)
    api.service.ledger.cancel(other)

    def events() -> httpx.Response:
        return client.get(f"/v1/jobs/{other}/events")

    wait_until(lambda: events().status_code == 200, "there is room again")
    assert "cancelled" in events().text


def test_a_silent_stream_says_that_it_is_still_there(
    api: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_module, "KEEP_ALIVE_S", 0.05)
    job = api.job("a")
    with api.client().stream("GET", f"/v1/jobs/{job}/events") as answer:
        comments = (line for line in answer.iter_lines() if line.startswith(":"))
        assert next(comments) == next(comments)
    api.service.ledger.cancel(job)
