"""Jobs from any Celery client: sent by name, followed by `AsyncResult`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from celery import Celery
from celery.result import AsyncResult
from pydantic import SecretStr

from services.coordinator.closing import Closing
from services.coordinator.requests import Requests
from services.coordinator.telling import Telling
from shared.errors import ErrorCode, PermanentError, TemporaryError
from shared.jobs import JobSpec, JobState
from shared.ledger import JobResult
from shared.queues import DeadLetters, RequestConsumer, TaskResults, make_app
from shared.queues.requests import SUBMIT
from shared.redisdb import Connection
from shared.runtime import Runtime, make_runtime
from shared.settings import Settings
from shared.storage.directory import DirectoryStore
from tests.coordinator.fleet import Fleet
from tests.waiting import wait_until

SPEC = {"source": "https://videos.example.com/talk.mp4", "name": "talk.mp4"}


@pytest.fixture
def runtime(redis: Connection, redis_url: str, tmp_path: Path) -> Runtime:
    """A coordinator's; sources may come from one host."""
    settings = Settings(redis_url=redis_url, source_hosts=("videos.example.com",))
    store = DirectoryStore(tmp_path)
    return make_runtime(settings, redis, store, Fleet(None), "c")  # type: ignore[arg-type]


@pytest.fixture
def clients(redis_url: str) -> Celery:
    """An app that knows the broker and nothing of this project."""
    return Celery("elsewhere", broker=redis_url, backend=redis_url)


@contextmanager
def consuming(
    runtime: Runtime,
    handle: Callable[[str, str, Mapping[str, object]], None],
    refuse: Callable[[str, str], None] = lambda *_: None,
) -> Iterator[None]:
    """Take requests meanwhile."""
    ended = threading.Event()
    app = make_app(runtime.settings.redis_url)
    letters = DeadLetters(runtime.redis)
    queues = runtime.settings.submit_queues
    consumer = RequestConsumer(app, queues, handle, refuse, letters)
    thread = threading.Thread(target=consumer.run, args=(ended.is_set,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=60)
        assert not thread.is_alive()


taken = pytest.mark.usefixtures("taking")
"""While the coordinator takes requests."""


@pytest.fixture
def taking(runtime: Runtime) -> Iterator[Requests]:
    """The coordinator's consumer."""
    results = TaskResults(make_app(runtime.settings.redis_url))
    requests = Requests(runtime, results)
    with consuming(runtime, requests.handle, requests.refuse):
        yield requests


@taken
def test_any_celery_client_submits_a_job_and_follows_it_to_its_result(
    runtime: Runtime, clients: Celery
) -> None:
    clients.send_task("dualface.submit", kwargs=SPEC, task_id="job-1")
    wait_until(lambda: runtime.ledger.state("job-1"), "the job is in the ledger")
    assert runtime.ledger.spec("job-1").source == SPEC["source"]
    closing = Closing(runtime, Telling(runtime.ledger, make_app(runtime.settings.redis_url)))
    result = AsyncResult("job-1", app=clients)
    closing.step()
    assert result.state == "PROGRESS"
    assert result.info["state"] == "queued"
    runtime.ledger.finish("job-1", JobResult(key="k", frames=3))
    closing.step()
    assert result.get(timeout=60)["frames"] == 3


@taken
def test_a_failed_job_raises_its_code_and_sentence_at_the_client(
    runtime: Runtime, clients: Celery
) -> None:
    clients.send_task("dualface.submit", kwargs=SPEC, task_id="job-1")
    wait_until(lambda: runtime.ledger.state("job-1"), "the job is in the ledger")
    runtime.ledger.fail("job-1", ErrorCode.TOO_DAMAGED, "Broken beyond use.")
    Closing(runtime, Telling(runtime.ledger, make_app(runtime.settings.redis_url))).step()
    with pytest.raises(Exception, match="Broken beyond use"):
        AsyncResult("job-1", app=clients).get(timeout=60)


@taken
@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({"source": "https://elsewhere.example.org/a.mp4"}, "HOSTS"),
        ({"source": "jobs/another/source.mp4"}, "source"),
        (SPEC | {"crf": 99}, "crf"),
        (SPEC | {"size": [33, 33]}, "33x33"),
        (SPEC | {"detector": "nope"}, "no detector 'nope'"),
        ({"source": "upload:" + "0" * 32}, "upload"),
        (SPEC | {"webhook": "https://hooks.example.com/x"}, "DUALFACE_WEBHOOK_SECRET is empty"),
    ],
)
def test_what_can_not_be_made_is_told_to_who_asked(
    runtime: Runtime, clients: Celery, kwargs: dict[str, object], says: str
) -> None:
    sent = clients.send_task("dualface.submit", kwargs=kwargs)
    with pytest.raises(Exception, match=says):
        sent.get(timeout=60)
    assert runtime.ledger.state(sent.id) is None


@taken
def test_a_celery_client_cancels_a_job(runtime: Runtime, clients: Celery) -> None:
    clients.send_task("dualface.submit", kwargs=SPEC, task_id="job-1", queue="dualface")
    wait_until(lambda: runtime.ledger.state("job-1"), "the job is in the ledger")
    clients.send_task("dualface.cancel", kwargs={"job": "job-1"})
    wait_until(lambda: runtime.ledger.state("job-1") is JobState.CANCELLED, "it is cancelled")


@taken
def test_messages_of_others_become_dead_letters_and_hold_up_nobody(
    runtime: Runtime, clients: Celery
) -> None:
    letters = DeadLetters(runtime.redis)
    clients.send_task("somebody.elses", args=[1])
    clients.send_task("dualface.submit", args=["https://videos.example.com/a.mp4"])
    clients.send_task("dualface.submit", kwargs=SPEC, task_id="job-1")
    wait_until(lambda: runtime.ledger.state("job-1"), "the job is in the ledger")
    assert sorted(letter.task for letter in letters.all()) == ["dualface.submit", "somebody.elses"]
    assert all(letter.reason for letter in letters.all())


@taken
@pytest.mark.parametrize(
    ("task", "args", "says"),
    [
        ("dualface.submit", ["https://videos.example.com/a.mp4"], "send them as kwargs"),
        ("dualface.nope", [], "dualface.nope is none of dualface.submit"),
    ],
)
def test_who_sent_what_is_no_request_is_told_so(
    clients: Celery, task: str, args: list[str], says: str
) -> None:
    with pytest.raises(PermanentError, match=says) as told:
        clients.send_task(task, args=args).get(timeout=60)
    assert told.value.code is ErrorCode.BAD_OPTION


@taken
@pytest.mark.parametrize("task_id", ["job-1", "job-1:events"])
def test_what_is_no_request_changes_nothing_of_a_job_whose_id_it_has(
    runtime: Runtime, clients: Celery, task_id: str
) -> None:
    runtime.ledger.submit("job-1", JobSpec.model_validate(SPEC))
    clients.send_task("dualface.nope", task_id=task_id)
    wait_until(lambda: len(DeadLetters(runtime.redis)), "it was put away")
    assert AsyncResult("job-1", app=clients).state == "PENDING"


def test_a_celery_job_s_webhook_is_signed_by_the_setting_of_when_it_came(runtime: Runtime) -> None:
    settings = runtime.settings.model_copy(update={"webhook_secret": SecretStr("of then")})
    requests = Requests(
        replace(runtime, settings=settings), TaskResults(make_app(settings.redis_url))
    )
    requests.handle(SUBMIT, "job-1", SPEC | {"webhook": "https://hooks.example.com/x"})
    assert runtime.ledger.webhook_secret("job-1") == "of then"


def test_a_request_that_can_not_be_entered_now_is_delivered_again(
    runtime: Runtime, clients: Celery
) -> None:
    seen: list[str] = []

    def busy_once(_: str, task_id: str, __: Mapping[str, object]) -> None:
        seen.append(task_id)
        if len(seen) == 1:
            raise TemporaryError(ErrorCode.BUSY, "Not now.", 0.1)

    with consuming(runtime, busy_once):
        clients.send_task("dualface.submit", kwargs=SPEC, task_id="job-1")
        wait_until(lambda: len(seen) == 2, "it came twice")
    assert seen == ["job-1", "job-1"]
    assert not len(DeadLetters(runtime.redis))
