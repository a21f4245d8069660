"""Facts about sending messages."""

from __future__ import annotations

import uuid

import pytest
from celery.events import EventDispatcher
from kombu.exceptions import OperationalError
from kombu.transport.redis import Channel

from shared.errors import TemporaryError
from shared.messages import SplitMessage
from shared.queues import CeleryOutbox, TaskEvents, make_app
from shared.queues.app import SEND_RETRIES
from shared.redisdb import Connection
from tests.servers import free_port


def test_a_broker_that_is_away_is_an_error_that_may_pass_and_every_try_is_told_of() -> None:
    app, said = make_app(f"redis://127.0.0.1:{free_port()}/0"), list[str]()
    app.conf.task_publish_retry_policy |= {"interval_max": 0}
    outbox = CeleryOutbox(app, on_wait=lambda: said.append("waits"))
    with pytest.raises(TemporaryError, match="refused"):
        outbox.send("decode.split", SplitMessage(job="j"), "split")
    assert len(said) > SEND_RETRIES
    app.close()


def test_who_tells_of_jobs_minds_no_broker_that_is_away_from_the_start(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        """As kombu does, after seconds, where there is no connection yet."""
        raise OperationalError("refused")

    monkeypatch.setattr(EventDispatcher, "send", refused)
    app = make_app(redis_url)
    TaskEvents(app).progress("j", "25.0 %")
    app.close()


def test_a_broker_that_goes_away_while_a_queue_is_made_known_to_it_takes_the_message_all_the_same(
    redis: Connection, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, queue, lost = make_app(redis_url), uuid.uuid4().hex, list[str]()
    bind = Channel._queue_bind

    def lost_once(channel: Channel, *args: object) -> object:
        if not lost:
            lost.append(queue)
            raise ConnectionError("gone")
        return bind(channel, *args)

    monkeypatch.setattr(Channel, "_queue_bind", lost_once)
    CeleryOutbox(app).send("decode.split", SplitMessage(job="j"), queue)
    assert lost == [queue]
    assert redis.llen(queue) == 1
    app.close()
