"""Receivers learn of the end of every job: signed, at least once, and nobody inside is reached."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import subprocess
import sys
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
from shared.ledger import JobResult, agenda
from shared.redisdb import Connection
from shared.rest import job_of
from shared.runtime import Runtime
from shared.settings import Settings
from tests.conftest import PROJECT
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


def submit(
    made: Runtime,
    site: Website,
    job: str = "j",
    owner: str = "ann",
    *,
    path: str = PATH,
    secret: str = "s",
) -> None:
    """A job that tells `site` of its end."""
    hook = f"https://localhost:{site.port}{path}"
    spec = JobSpec(source=f"jobs/{job}/source.mp4", name="talk.mp4", webhook=hook)
    made.ledger.submit(job, spec, owner, webhook_secret=secret)


def accept(asked: Asked, wire: Wire) -> None:
    """What a receiver does that is content."""
    wire.receive(int(asked.fields["content-length"]))
    wire.answer("200 OK")


def waiting(redis: Connection) -> int:
    """Jobs whose webhook is still to be called."""
    return int(redis.zcard("df:index:hooks"))


def later(redis: Connection, job: str) -> bool:
    """True when the job's webhook was put off after a try, for longer than a claim lasts."""
    now_s, _ = redis.time()
    return float(redis.zscore("df:index:hooks", job) or 0) / 1000 > now_s + webhooks.CLAIM_S


def signs(made: Runtime, job: str = "j") -> str:
    """What the job's webhook is signed with."""
    view = made.ledger.view(job)
    assert view is not None
    return Webhooks(made).delivery(view, "https://hooks.example.com/").secret


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
    submit(made, site, secret=key.webhook_secret)
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
    [call] = made.ledger.hooks(90, 8, 8, {})
    assert (call.job, call.tries, call.owner) == ("j", 1, "ann")
    assert made.ledger.hooks(90, 8, 8, {}) == []  # in somebody's hands
    redis.zadd("df:index:hooks", {"j": 0})  # who died over it
    with calling(made):
        wait_until(lambda: not waiting(redis), "it was called")
    assert len(site.asked) == 1


def test_a_receiver_that_trickles_or_hangs_holds_nobody_for_long(
    made: Runtime, site: Website, redis: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "TOTAL_S", 4.0)
    monkeypatch.setattr(webhooks, "DELAYS_S", (0.0,))
    made = allowing(made, site)
    site.scripts[PATH] = lambda _, wire: wire.trickle(b"H")
    submit(made, site)
    made.ledger.cancel("j")
    with calling(made):
        wait_until(lambda: not waiting(redis), "it was given up")
    assert len(site.asked) == 2


def test_nothing_inside_is_reached(
    made: Runtime, site: Website, redis: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "DELAYS_S", (1000.0,))
    shut = made.settings.model_copy(update={"source_networks": ()})
    hosts = allowing(made, site).settings.webhook_hosts
    made = replace(made, settings=shut.model_copy(update={"webhook_hosts": hosts}))
    submit(made, site)
    made.ledger.cancel("j")
    with calling(made):
        wait_until(lambda: later(redis, "j"), "it was tried, and is put off")
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


@pytest.mark.parametrize("status", ["200 OK", "500 Internal Server Error"])
def test_a_job_made_again_while_its_webhook_is_called_is_told_of_once_more(
    made: Runtime,
    site: Website,
    redis: Connection,
    monkeypatch: pytest.MonkeyPatch,
    status: str,
) -> None:
    monkeypatch.setattr(webhooks, "DELAYS_S", (1000.0,))
    made = allowing(made, site)
    told: list[str] = []

    def retried(asked: Asked, wire: Wire) -> None:
        told.append(json.loads(wire.receive(int(asked.fields["content-length"])))["type"])
        if len(told) == 1:
            made.ledger.cleaned("j")
            submit(made, site)
            made.ledger.cancel("j")
        wire.answer(status if len(told) == 1 else "200 OK")

    site.scripts[PATH] = retried
    submit(made, site)
    made.ledger.fail("j", ErrorCode.STAGE_FAILED, "Broken.")
    with calling(made):
        # While it is made again, nothing waits for a moment.
        wait_until(lambda: len(told) == 2 and not waiting(redis), "it was called twice")
    assert told == ["job.failed", "job.cancelled"]


@pytest.fixture
def over(site: Website, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Until it is set, and no time ends that before, `/hangs` answers nothing; PATH does."""
    made = threading.Event()

    def hang(_: Asked, __: Wire) -> None:
        made.wait()

    site.scripts |= {"/hangs": hang, PATH: accept}
    monkeypatch.setattr(webhooks, "TIMEOUT_S", 600.0)
    monkeypatch.setattr(webhooks, "TOTAL_S", 600.0)
    return made


def test_one_owner_s_receivers_that_hang_do_not_hold_up_another_s(
    made: Runtime, site: Website, redis: Connection, over: threading.Event
) -> None:
    made = allowing(made, site)
    slow = [f"a{number:02}" for number in range(webhooks.AT_ONCE + 1)]
    for job in slow:
        submit(made, site, job, "ann", path="/hangs")
        made.ledger.cancel(job)
    for job in ("b1", "b2"):
        submit(made, site, job, "bob")
        made.ledger.cancel(job)
    with calling(made):
        try:
            wait_until(lambda: waiting(redis) == len(slow), "bob has been told")
            asked = [each.path for each in site.asked]
            assert asked.count("/hangs") <= webhooks.PER_OWNER
        finally:
            over.set()


def test_the_next_call_begins_as_one_ends_not_when_all_have(
    made: Runtime, site: Website, redis: Connection, over: threading.Event
) -> None:
    made = allowing(made, site)
    submit(made, site, "a", path="/hangs")
    made.ledger.cancel("a")
    with calling(made):
        try:
            wait_until(lambda: site.asked, "it hangs")
            for number in range(2 * webhooks.PER_OWNER):
                submit(made, site, f"b{number}")
                made.ledger.cancel(f"b{number}")
            wait_until(lambda: waiting(redis) == 1, "all others are called")
        finally:
            over.set()


def test_everybody_s_turn_comes_however_many_wait_of_an_owner_who_has_enough(
    made: Runtime, site: Website, redis: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agenda, "HOOKS_LOOKED_AT", 2)
    for job in ("a1", "a2", "a3", "a4", "a5", "b"):
        submit(made, site, job, "bob" if job == "b" else "ann")
        made.ledger.cancel(job)
    redis.zadd("df:index:hooks", {"a1": 1, "a2": 2, "a3": 3, "a4": 4, "a5": 5, "b": 6})
    claims = [made.ledger.hooks(90, 8, 1, {"ann": 1}) for _ in range(3)]
    assert [call[:3] for claim in claims for call in claim] == [("b", 1, "bob")]
    freed = {call.job for _ in range(5) for call in made.ledger.hooks(90, 8, 1, {})}
    assert freed == {"a1", "a2", "a3", "a4", "a5"}


def test_what_nobody_foresaw_puts_off_one_webhook_and_no_other(
    made: Runtime,
    site: Website,
    redis: Connection,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(webhooks, "DELAYS_S", (1000.0,))
    made = allowing(made, site)
    site.scripts[PATH] = accept
    check = webhooks.check_webhook

    def stumble(url: str, entries: tuple[str, ...]) -> object:
        if "stumble" in url:
            raise ValueError(url)
        return check(url, entries)

    monkeypatch.setattr(webhooks, "check_webhook", stumble)
    submit(made, site, "a", path="/stumble?token=secret")
    made.ledger.cancel("a")
    with calling(made):
        wait_until(lambda: later(redis, "a"), "it is put off")
        submit(made, site, "b")
        made.ledger.cancel("b")
        wait_until(lambda: waiting(redis) == 1, "the other was called")
    [said] = [each for each in caplog.records if each.msg == "webhook not understood"]
    assert "stumble" in said.fields["exception"]  # type: ignore[attr-defined]
    assert "token=secret" not in str(vars(said))


def test_a_job_s_webhook_is_signed_as_it_was_when_the_job_came(
    made: Runtime, site: Website, redis: Connection
) -> None:
    keys = Keys(redis)
    first, _ = keys.add("ann", (Role.SUBMIT,))
    second, _ = keys.add("ann", (Role.READ,))
    other, _ = keys.add("bob", (Role.READ,))
    assert second.webhook_secret == first.webhook_secret != other.webhook_secret
    submit(made, site, secret=keys.webhook_secret("ann"))
    keys.revoke(first.id)
    assert keys.webhook_secret("ann") == first.webhook_secret
    keys.revoke(second.id)
    third, _ = keys.add("ann", (Role.SUBMIT,))
    assert third.webhook_secret != first.webhook_secret
    made.ledger.fail("j", ErrorCode.STAGE_FAILED, "Broken.")
    assert signs(made) == first.webhook_secret
    made.ledger.cleaned("j")
    submit(made, site, secret="")  # again, when the owner has no key
    made.ledger.cancel("j")
    assert signs(made) == first.webhook_secret


def test_a_job_of_a_release_that_kept_no_secret_is_signed_by_its_owner_s_or_not_called(
    made: Runtime, site: Website, redis: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "DELAYS_S", (1000.0,))
    made = allowing(made, site)
    key, _ = Keys(redis).add("ann", (Role.SUBMIT,))
    submit(made, site, secret="")
    made.ledger.cancel("j")
    assert signs(made) == key.webhook_secret
    Keys(redis).revoke(key.id)
    with calling(made):
        wait_until(lambda: later(redis, "j"), "it is put off")
    assert site.connections == 0


def test_no_view_of_a_job_shows_what_signs_its_webhook(made: Runtime, site: Website) -> None:
    submit(made, site, secret="do-not-show")
    made.ledger.cancel("j")
    view = made.ledger.view("j")
    assert view is not None
    sent = Webhooks(made).delivery(view, "https://hooks.example.com/")
    assert sent.secret == "do-not-show"
    for shown in (repr(view), job_of(view).model_dump_json(), repr(sent), sent.body.decode()):
        assert "do-not-show" not in shown


def test_a_coordinator_that_can_call_no_webhooks_any_more_ends(
    redis_url: str, tmp_path: Path
) -> None:
    program = (
        "from services.coordinator import __main__ as it; from shared.starting import start\n"
        "it.Webhooks.run = lambda *_: 1 / 0\n"
        "start(it.main)"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DUALFACE_")}
    environment |= {"DUALFACE_REDIS_URL": redis_url, "DUALFACE_STATE_DIR": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, cwd=PROJECT,
        timeout=120, check=False,
    )  # fmt: skip
    assert (ended.returncode, b"ZeroDivisionError" in ended.stderr) == (1, True)
