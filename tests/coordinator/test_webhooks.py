"""Receivers learn of the end of every job: signed, at least once, and nobody inside is reached."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from services.coordinator import webhooks
from services.coordinator.webhooks import Webhooks
from shared.errors import ErrorCode
from shared.jobs import JobSpec
from shared.keys import Keys, Role
from shared.ledger import JobResult
from shared.redisdb import Connection
from shared.runtime import Runtime
from shared.settings import Settings
from tests.runtimes import runtime
from tests.waiting import wait_until
from tests.websites import Asked, Authority, Website, Wire, make_authority, website

PATH = "/told?token=secret"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def site(authority: Authority) -> Iterator[Website]:
    with website(authority) as made:
        yield made


@pytest.fixture
def made(redis: Connection, tmp_path: Path, authority: Authority) -> Runtime:
    """A coordinator's, which may reach this machine."""
    settings = Settings(
        source_networks=(IPv4Network("127.0.0.0/8"),),
        source_ca=authority.ca,
    )
    return replace(runtime(redis, tmp_path)[0], settings=settings)


def allowing(made: Runtime, site: Website) -> Runtime:
    """With the receiver's port among those allowed."""
    hosts = (f"https://localhost:{site.port}",)
    return replace(made, settings=made.settings.model_copy(update={"webhook_hosts": hosts}))


@contextmanager
def calling(made: Runtime) -> Iterator[Webhooks]:
    """Webhooks are called meanwhile."""
    ended = threading.Event()
    hooks = Webhooks(made)
    thread = threading.Thread(target=hooks.run, args=(ended.is_set,), daemon=True)
    thread.start()
    try:
        yield hooks
    finally:
        ended.set()
        thread.join(timeout=60)
        assert not thread.is_alive()


def submit(made: Runtime, site: Website, job: str = "j", owner: str = "ann") -> None:
    """A job that tells `site` of its end."""
    hook = f"https://localhost:{site.port}{PATH}"
    spec = JobSpec(source=f"jobs/{job}/source.mp4", name="talk.mp4", webhook=hook)
    made.ledger.submit(job, spec, owner)


def accept(asked: Asked, wire: Wire) -> None:
    """What a receiver does that is content."""
    wire.receive(int(asked.fields["content-length"]))
    wire.answer("200 OK")


def waiting(redis: Connection) -> int:
    """Jobs whose webhook is still to be called."""
    return int(redis.zcard("df:index:hooks"))


def test_a_receiver_can_tell_that_a_call_is_ours_and_which_job_ended(
    made: Runtime, site: Website, redis: Connection
) -> None:
    made = allowing(made, site)
    key, _ = Keys(redis).add("ann", (Role.SUBMIT,))
    got: list[tuple[dict[str, str], bytes]] = []

    def take(asked: Asked, wire: Wire) -> None:
        got.append((asked.fields, wire.receive(int(asked.fields["content-length"]))))
        wire.answer("204 No Content")

    site.scripts[PATH] = take
    submit(made, site)
    made.ledger.finish("j", JobResult(key="k", frames=7))
    with calling(made):
        wait_until(lambda: not waiting(redis), "it was called")
    [(fields, body)] = got
    told = json.loads(body)
    assert (told["type"], told["data"]["result"]["frames"]) == ("job.succeeded", 7)
    signed = f"{fields['webhook-id']}.{fields['webhook-timestamp']}.".encode() + body
    right = hmac.new(key.webhook_secret.encode(), signed, hashlib.sha256).digest()
    assert fields["webhook-signature"] == f"v1,{base64.b64encode(right).decode()}"
    assert redis.hlen("df:index:hook_tries") == 0


def test_a_receiver_that_fails_is_called_again_with_the_same_id_and_given_up_in_the_end(
    made: Runtime, site: Website, redis: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "DELAYS_S", (0.0, 0.0, 0.0))
    made = allowing(made, site)
    ids: list[str] = []

    def fail(asked: Asked, wire: Wire) -> None:
        ids.append(asked.fields["webhook-id"])
        if len(ids) == 1:
            wire.answer("302 Found", location="https://localhost/elsewhere")
        elif len(ids) == 3:
            wire.answer("500 Internal Server Error")

    site.scripts[PATH] = fail
    submit(made, site)
    made.ledger.fail("j", ErrorCode.TOO_DAMAGED, "Broken.")
    with calling(made):
        wait_until(lambda: not waiting(redis), "it was given up")
    assert len(ids) == 4
    assert len(set(ids)) == 1


def test_what_a_dead_coordinator_was_about_to_call_is_called_by_its_successor(
    made: Runtime, site: Website, redis: Connection
) -> None:
    made = allowing(made, site)
    site.scripts[PATH] = accept
    submit(made, site)
    made.ledger.cancel("j")
    assert made.ledger.hooks(90, 8) == [("j", 1)]
    assert made.ledger.hooks(90, 8) == []  # in somebody's hands
    redis.zadd("df:index:hooks", {"j": 0})  # who died over it
    with calling(made):
        wait_until(lambda: not waiting(redis), "it was called")
    assert len(site.asked) == 1


def test_a_receiver_that_trickles_or_hangs_holds_nobody_for_long(
    made: Runtime, site: Website, redis: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "TOTAL_S", 2.0)
    monkeypatch.setattr(webhooks, "DELAYS_S", (0.0,))
    made = allowing(made, site)
    site.scripts[PATH] = lambda _, wire: wire.trickle(b"H")
    submit(made, site)
    made.ledger.cancel("j")
    with calling(made):
        wait_until(lambda: not waiting(redis), "it was given up")
    assert len(site.asked) == 2


def test_nothing_inside_is_reached(made: Runtime, site: Website, redis: Connection) -> None:
    shut = made.settings.model_copy(update={"source_networks": ()})
    hosts = allowing(made, site).settings.webhook_hosts
    made = replace(made, settings=shut.model_copy(update={"webhook_hosts": hosts}))
    submit(made, site)
    made.ledger.cancel("j")
    with calling(made):
        wait_until(lambda: redis.zscore("df:index:hooks", "j"), "it is put off")
        wait_until(lambda: float(redis.zscore("df:index:hooks", "j") or 0) > 0, "later")
    assert site.connections == 0
    made.ledger.drop("j")
    assert waiting(redis) == 0


def test_a_job_submitted_again_is_told_of_anew(
    made: Runtime, site: Website, redis: Connection
) -> None:
    made = allowing(made, site)
    site.scripts[PATH] = accept
    submit(made, site)
    made.ledger.fail("j", ErrorCode.STAGE_FAILED, "Broken.")
    made.ledger.cleaned("j")
    submit(made, site)
    assert waiting(redis) == 0
    made.ledger.cancel("j")
    with calling(made):
        wait_until(lambda: not waiting(redis), "it was called")
    assert len(site.asked) == 1
