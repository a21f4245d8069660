"""The Python client against a served API: what it sends, what answers mean, what it stands."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import inspect
import json
import os
import random
import threading
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import get_type_hints

import httpx
import pytest

from chaos.proxy import Fault, Proxy
from client.api import (
    ApiError,
    AsyncClient,
    BusyError,
    Client,
    ConflictError,
    ForbiddenError,
    InvalidError,
    JobOptions,
    NotFoundError,
    OverQuotaError,
    Patience,
    PermanentError,
    Stamp,
    Told,
    UnauthorizedError,
    UnreachableError,
    find_address,
)
from client.api.address import address_for
from client.api.downloads import Download
from client.api.errors import retry_after
from client.api.stream import Reader
from client.placing import part_of
from services.coordinator.api.app import make_service
from shared.errors import ErrorCode
from shared.jobs import JobSpec, JobState
from shared.keys import Role
from shared.ledger import JobResult
from shared.names import report_key, thumbnail_key, tracks_key
from shared.settings import Settings
from tests.api.conftest import Served, served
from tests.builders import output_plan, source_info
from tests.client.conftest import QUICK, MakeVideo, key_for, stored
from tests.client.parts import store_of_parts
from tests.servers import S3Server, free_port
from tests.waiting import wait_until
from tests.websites import website

MIB = 1 << 20


def started(api: Served, job: str) -> None:
    """The job is split."""
    api.service.ledger.take(job, "split", "w")
    api.service.ledger.put_facts(job, source_info(), output_plan(), 8)


# --- submitting -----------------------------------------------------------------------------------


def test_a_file_becomes_a_job_with_its_options_and_name(
    api: Served, client: Client, video: MakeVideo
) -> None:
    path, told = video(), list[tuple[int, int]]()
    job = client.submit(path, crf=30, size=(640, 360), on_progress=lambda *n: told.append(n))
    assert (job.name, job.spec.crf, job.spec.size) == ("talk.mp4", 30, (640, 360))
    assert stored(api, job.spec.source) == path.read_bytes()
    assert told[-1] == (3 * MIB, 3 * MIB)
    assert [n for n, _ in told] == sorted({n for n, _ in told})


def test_every_option_of_a_job_can_be_given() -> None:
    fields = set(JobSpec.model_fields) - {"source"}
    assert set(get_type_hints(JobOptions)) == fields


def test_the_same_idempotency_key_is_the_same_job_and_another_call_another(
    api: Served, client: Client, video: MakeVideo
) -> None:
    path = video(1000)
    first = client.submit(path, idempotency_key="k", crf=30)
    assert client.submit(path, idempotency_key="k", crf=30).id == first.id
    assert client.submit(path, crf=30).id != first.id
    assert stored(api, first.spec.source) == path.read_bytes()
    with pytest.raises(ConflictError):
        client.submit(path, idempotency_key="k", crf=31)


def test_names_with_quotes_and_line_ends_stay_one_name(client: Client, video: MakeVideo) -> None:
    name = 'a "b"\r\nContent-Type: x; é.mp4'
    assert client.submit(video(10, name)).name == name
    assert "Content-Type" in client.submit(video(10, name), idempotency_key="k").name


def test_addresses_go_to_the_service_and_no_file_of_that_name_is_looked_for(
    client: Client,
) -> None:
    job = client.submit("https://videos.example.com/a.mp4", name="a.mp4", priority=9)
    assert (job.spec.source, job.spec.priority) == ("https://videos.example.com/a.mp4", 9)
    with pytest.raises(ForbiddenError):
        client.submit("https://elsewhere.example.com/a.mp4")


def test_a_submit_whose_answer_was_lost_is_one_job(
    api: Served, far: Client, proxy: Proxy, video: MakeVideo
) -> None:
    stored_ = far.upload(video(1000))
    proxy.set(Fault("cut", after_bytes=20, times=1))
    job = far.submit(stored_.source)
    assert (proxy.struck, job.id) == (1, stored_.id)
    proxy.set(Fault("cut", after_bytes=20, times=1))
    far.submit("https://videos.example.com/a.mp4")
    assert proxy.struck == 1
    assert api.service.ledger.count("ann") == 2


def test_a_file_that_is_no_source_is_refused_here(
    client: Client, video: MakeVideo, tmp_path: Path
) -> None:
    for path, code in (
        (tmp_path / "none.mp4", ErrorCode.SOURCE_MISSING),
        (tmp_path, ErrorCode.SOURCE_UNREADABLE),
        (video(0), ErrorCode.SOURCE_EMPTY),
    ):
        with pytest.raises(PermanentError) as caught:
            client.submit(path)
        assert caught.value.code is code


@pytest.mark.parametrize("key", [None, "k"])
def test_a_file_that_changes_while_it_is_sent_becomes_no_job(
    api: Served, client: Client, video: MakeVideo, key: str | None
) -> None:
    path = video()

    def change(sent: int, total: int) -> None:
        if sent < total / 2:
            path.touch()

    with pytest.raises(PermanentError) as caught:
        client.submit(path, on_progress=change, idempotency_key=key)
    assert caught.value.code is ErrorCode.SOURCE_CHANGED
    assert api.service.ledger.count("ann") == 0
    wait_until(lambda: not list(api.service.store.keys("jobs")), "nothing is stored")


def test_a_file_that_was_exchanged_is_not_sent(client: Client, video: MakeVideo) -> None:
    path = video(1000)
    facts = path.stat()
    stamp = Stamp(facts.st_size, facts.st_mtime_ns, (facts.st_dev, facts.st_ino + 1))
    with pytest.raises(PermanentError, match="changed"):
        client.upload(path, stamp=stamp)


def test_a_file_that_is_sent_is_never_whole_in_memory(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "long.mp4"
    with path.open("wb") as file:
        file.truncate(96 * MIB)
    tracemalloc.start()
    try:
        client.submit(path)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 32 * MIB  # the served API's share included


# --- straight to the store ------------------------------------------------------------------------


@pytest.fixture
def s3_api(api: Served, s3: S3Server, bucket: str, tmp_path: Path) -> Iterator[Served]:
    """An API whose objects lie in S3."""
    facts = {"redis_url": api.service.settings.redis_url, "state_dir": tmp_path / "s3"}
    chosen = Settings.model_validate(facts | s3.settings(bucket))
    with served(make_service(chosen)) as made:
        yield made


def test_a_large_file_goes_in_parts_straight_to_the_store(
    s3_api: Served, video: MakeVideo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.coordinator.api.uploads.PART_BYTES", 5 * MIB)
    path, told = video(12 * MIB), list[tuple[int, int]]()
    with Client(s3_api.url, key_for(s3_api), patience=QUICK) as client:
        job = client.submit(path, direct=True, on_progress=lambda *n: told.append(n))
    assert stored(s3_api, job.spec.source) == path.read_bytes()
    assert told[-1] == (12 * MIB, 12 * MIB)


def test_without_links_or_a_way_to_the_store_the_service_takes_the_file(
    api: Served, client: Client, s3_api: Served, video: MakeVideo, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, begun = video(1000), list[str]()
    assert stored(api, client.submit(path, direct=True).spec.source) == path.read_bytes()
    store = s3_api.service.store
    nowhere = f"http://127.0.0.1:{free_port()}/x"
    monkeypatch.setattr(store, "part_link", lambda *_: nowhere)
    with Client(s3_api.url, key_for(s3_api), patience=QUICK) as other:
        sent = other.upload(path, direct=True, on_begin=begun.append)
        assert stored(s3_api, other.submit(sent.source).spec.source) == path.read_bytes()
    assert (len(begun), begun[-1]) == (2, sent.source)


def test_a_part_that_breaks_is_sent_again_alone_and_the_store_gets_no_key(video: MakeVideo) -> None:
    path = video(3000)
    with (
        store_of_parts(breaks={"/part2": 2}) as store,
        Client(store.url, "df_secret", patience=QUICK) as client,
    ):
        assert client.upload(path, direct=True).size_bytes == 3000
    assert {name: len(tries) for name, tries in store.sent.items()} == {
        "/part1": 1, "/part2": 3, "/part3": 1,
    }  # fmt: skip
    whole = b"".join(store.sent[f"/part{n}"][-1] for n in (1, 2, 3))
    assert whole == path.read_bytes()
    assert store.keys == {"/v1": "Bearer df_secret", "/part": None}


@pytest.mark.parametrize("kind", ["blocks", "awaits"])
def test_a_part_that_is_refused_ends_the_others(video: MakeVideo, kind: str) -> None:
    path = video(3000)

    async def awaiting(url: str) -> None:
        async with AsyncClient(url, "", patience=QUICK) as client:
            await client.upload(path, direct=True)

    def blocking(url: str) -> None:
        with Client(url, "", patience=QUICK) as client:
            client.upload(path, direct=True)

    with store_of_parts(refuses="/part1") as store, pytest.raises(ForbiddenError):
        asyncio.run(awaiting(store.url)) if kind == "awaits" else blocking(store.url)


# --- errors and patience --------------------------------------------------------------------------


def test_errors_have_the_services_code_and_sentence_and_a_class_to_branch_on(
    api: Served, client: Client, video: MakeVideo
) -> None:
    with Client(api.url, "df_wrong") as stranger, pytest.raises(UnauthorizedError) as caught:
        stranger.get("x")
    assert (caught.value.code, caught.value.status) == ("unauthorized", 401)
    assert "dualface keys add" in str(caught.value)
    reader = Client(api.url, key_for(api, roles=(Role.READ,)))
    with reader, pytest.raises(ForbiddenError):
        reader.submit(video(10))
    with pytest.raises(NotFoundError):
        client.get("nothing")
    with pytest.raises(InvalidError, match="crf"):
        client.submit("https://videos.example.com/a.mp4", crf=99)
    _, secret = api.service.keys.add("bob", (Role.SUBMIT,), most_live=1)
    with Client(api.url, secret) as bob:
        bob.submit("https://videos.example.com/a.mp4")
        with pytest.raises(OverQuotaError) as quota:
            bob.submit("https://videos.example.com/b.mp4")
    assert quota.value.retry_after


def test_a_service_that_is_away_for_a_moment_is_asked_again(
    api: Served, far: Client, proxy: Proxy, video: MakeVideo
) -> None:
    job = far.submit(video(1000))
    for fault in (Fault("error", times=3), Fault("cut", after_bytes=30, times=3)):
        proxy.set(fault)
        assert far.get(job).id == job.id
        assert proxy.struck == 3
    proxy.set(Fault("cut", after_bytes=0, times=2))
    assert len(stored(api, far.submit(video(5000)).spec.source)) == 5000


def test_a_job_is_not_repeated_twice_for_a_lost_answer(
    api: Served, far: Client, proxy: Proxy
) -> None:
    job = api.job("a")
    api.service.ledger.fail(job, ErrorCode.TOO_DAMAGED, "Broken.")
    api.service.ledger.cleaned(job)
    api.service.store.write(f"jobs/{job}/source.mp4", [b"x"])
    proxy.set(Fault("cut", after_bytes=20, times=1))
    with pytest.raises(UnreachableError):
        far.retry(job)
    assert far.get(job).state is JobState.QUEUED


def test_nobody_answering_is_said_soon_with_the_address() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with (
        Client(url, "df_x", patience=Patience(base_s=0.01)) as client,
        pytest.raises(UnreachableError, match=url),
    ):
        client.get("x")


def test_what_is_no_service_of_ours_is_no_answer() -> None:
    with website(None) as site, Client(f"http://127.0.0.1:{site.port}", "") as client:
        site.scripts["/v1/jobs/x"] = lambda _, wire: wire.answer("200 OK", b"<html>hello</html>")
        with pytest.raises(ApiError, match="can't read"):
            client.get("x")


def test_what_can_be_no_id_key_or_option_is_refused_before_anything_is_sent(
    video: MakeVideo, tmp_path: Path
) -> None:
    path, target = video(10), tmp_path / "out"
    with website(None) as site, Client(f"http://127.0.0.1:{site.port}", "df_x") as client:

        def refuses(ask: Callable[[], object]) -> None:
            with pytest.raises(PermanentError) as caught:
                ask()
            assert caught.value.code is ErrorCode.BAD_OPTION

        for key in ("", " ", " a", "a ", "a\nb", "ü", "\udcff", "a" * 256):
            refuses(partial(client.submit, path, idempotency_key=key))
            refuses(partial(client.submit, "https://h/a.mp4", idempotency_key=key))
        for job in ("", ".", "..", "a/report", "../x", "a%2Fb", "a b", "ü", "\udcff", "a" * 65):
            for ask in (client.get, client.cancel, client.retry, client.report, client.drop):
                refuses(partial(ask, job))
            refuses(partial(client.result, job, target))
            refuses(partial(list, client.events(job)))
        refuses(partial(list, client.events("a", after="1-0\r\n")))
        refuses(partial(client.submit, path, detector="\udcff"))
        refuses(partial(client.submit, path, name="\udcff"))
        refuses(partial(client.upload, path, name="\udcff"))
        refuses(partial(client.submit, "https://h/\udcff"))
    assert site.asked == []


def test_an_answer_that_leads_elsewhere_is_neither_followed_nor_taken_for_a_file(
    tmp_path: Path,
) -> None:
    with website(None) as site, website(None) as other:
        secret = f"http://me:pass@127.0.0.1:{other.port}/login?token=secret"
        for rest in ("", "/tracks", "/events"):
            site.scripts[f"/v1/jobs/a{rest}"] = lambda _, wire: wire.answer(
                "301 Moved Permanently", b"moved", location=secret
            )
        with Client(f"http://127.0.0.1:{site.port}", "df_secret", patience=QUICK) as client:
            for ask in (
                lambda: client.get("a"),
                lambda: client.tracks("a", tmp_path / "tracks.gz"),
                lambda: list(client.events("a")),
            ):
                with pytest.raises(ApiError) as caught:
                    ask()
                assert f"leads on to http://127.0.0.1:{other.port}/login, " in str(caught.value)
    assert (other.asked, list(tmp_path.iterdir())) == ([], [])


def test_waits_grow_are_shortened_at_random_and_follow_what_was_asked_for() -> None:
    patience = Patience(tries=6, first=2, base_s=1, cap_s=4, dice=random.Random(3))
    broken = UnreachableError("unreachable", "")
    waits = [patience.wait_s(broken, n, heard=True) for n in range(1, 7)]
    assert waits[-1] is None
    for wait, top in zip(waits, (1, 2, 4, 4, 4), strict=False):
        assert wait is not None
        assert top / 2 <= wait <= top
    assert patience.wait_s(broken, 2, heard=False) is None
    asked = BusyError("busy", "", 503, 30.0)
    assert 30.5 <= (patience.wait_s(asked, 1, heard=True) or 0) <= 31
    for error in (
        BusyError("busy", "", 503, 3600.0),
        OverQuotaError("over_quota", "", 429, 5.0),
        NotFoundError("not_found", "", 404),
        ApiError("internal", "", 500),
    ):
        assert patience.wait_s(error, 1, heard=True) is None


def test_retry_after_is_seconds_or_a_date() -> None:
    assert retry_after(httpx.Headers({"Retry-After": "7"})) == 7
    assert retry_after(httpx.Headers({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"})) == 0
    assert retry_after(httpx.Headers({"Retry-After": "soon"})) is None
    assert retry_after(httpx.Headers()) is None


# --- watching -------------------------------------------------------------------------------------


def test_events_come_in_order_once_and_end_with_the_job_over_breaking_connections(
    api: Served, far: Client, proxy: Proxy
) -> None:
    job = api.job("a")

    def seen(text: str) -> bool:
        return any(told.event.state is not None and told.event.state == text for told in live)

    live: list[Told] = []
    thread = threading.Thread(target=lambda: deque(map(live.append, far.events(job))))
    thread.start()
    wait_until(lambda: seen("queued"), "the first event")
    proxy.set(Fault("cut", after_bytes=0, times=2))
    started(api, job)
    wait_until(lambda: seen("splitting"), "what happened meanwhile")
    proxy.set(Fault())  # ends connections
    api.service.ledger.finish(job, JobResult(key="k", frames=1))
    thread.join(20)
    assert not thread.is_alive()
    states = [told.event.state for told in live if told.kind == "state"]
    assert states == [JobState.QUEUED, JobState.SPLITTING, JobState.SUCCEEDED]
    heard = list(far.events(job))
    assert heard == live
    assert list(far.events(job, after=heard[0].id)) == heard[1:]
    assert list(far.events(job, after=heard[-1].id)) == []


def test_a_service_that_lets_nobody_watch_is_looked_at_now_and_then(
    api: Served, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.coordinator.api.bell.MOST", 0)
    monkeypatch.setattr("client.api.sync.POLL_S", 0.01)
    job = api.job("a")
    with pytest.raises(BusyError):
        list(client.events(job))
    timer = threading.Thread(target=lambda: api.service.ledger.cancel(job))
    timer.start()
    assert client.wait(job).state is JobState.CANCELLED
    timer.join()


@pytest.mark.parametrize("timeout", [None, 60.0])
def test_waiting_ends_with_the_job(api: Served, client: Client, timeout: float | None) -> None:
    job = api.job("a")
    ender = threading.Thread(
        target=lambda: api.service.ledger.fail(job, ErrorCode.TOO_DAMAGED, "Broken.")
    )
    ender.start()
    ended = client.wait(job, timeout)
    ender.join()
    assert ended.error is not None
    assert (ended.state, ended.error.message) == (JobState.FAILED, "Broken.")


def test_waiting_ends_in_time(api: Served, client: Client) -> None:
    job = api.job("a")
    with pytest.raises(TimeoutError, match="queued"):
        client.wait(job, 0.05)

    async def wait() -> None:
        async with AsyncClient(api.url, key_for(api)) as other:
            await other.wait(job, 0.05)

    with pytest.raises(TimeoutError):
        asyncio.run(wait())


def test_a_stream_is_read_whatever_pieces_it_comes_in() -> None:
    text = (
        ": hello\r\n\r\nid: 1-0\nevent: warning\n"
        'data: {"warning": "a\u2028b", "at": "2026-01-01T00:00:00Z"}\n\n'
    ).encode()
    for size in (1, 3, len(text)):
        reader = Reader()
        pieces = [text[n : n + size] for n in range(0, len(text), size)]
        heard = [told for piece in pieces for told in reader.feed(piece)]
        assert heard[0] is None
        assert heard[1] is not None
        assert (heard[1].id, heard[1].event.warning) == ("1-0", "a\u2028b")
    with pytest.raises(ApiError):
        list(Reader().feed(b"data: {}\n\n"))


# --- results --------------------------------------------------------------------------------------


def test_a_download_goes_on_where_the_connection_broke(
    api: Served, far: Client, proxy: Proxy, tmp_path: Path
) -> None:
    body = random.Random(5).randbytes(3 * MIB)
    job, target, told = api.finished("a", body=body), tmp_path / "out.mp4", list[int]()
    proxy.set(Fault("cut", after_bytes=MIB, times=2))
    assert far.result(job, target, on_progress=lambda n, _: told.append(n)) == len(body)
    assert (proxy.struck, target.read_bytes() == body) == (2, True)
    assert told == sorted(told)  # nothing was fetched twice
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_a_download_that_fails_leaves_what_was_there(
    api: Served, far: Client, client: Client, proxy: Proxy, tmp_path: Path
) -> None:
    job, target = api.finished("a", body=bytes(MIB)), tmp_path / "out.mp4"
    target.write_text("before")
    proxy.set(Fault("cut", after_bytes=100))  # not even a whole head
    with pytest.raises(UnreachableError):
        far.result(job, target)
    with pytest.raises(ConflictError):
        client.result(api.job("live"), target)
    assert (target.read_text(), list(tmp_path.glob(".*"))) == ("before", [])


def test_two_fetch_to_one_place_one_after_the_other(
    api: Served, client: Client, tmp_path: Path
) -> None:
    job, target, refused = api.finished("a", body=bytes(MIB)), tmp_path / "out.mp4", list[str]()

    def again(*_: int) -> None:
        with pytest.raises(PermanentError) as caught:
            client.result(job, target)
        refused.append(caught.value.code)

    client.result(job, target, on_progress=again)
    assert set(refused) == {ErrorCode.BUSY}
    assert client.result(job, target) == target.stat().st_size == MIB


def test_a_place_that_another_lets_go_of_just_now_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It opened the other's file, which then went: whichever step that comes at."""
    target, fstat = tmp_path / "out.mp4", os.fstat

    def gone(fd: int) -> os.stat_result:
        facts, found = fstat(fd), part_of(target)
        if found.exists() and found.stat().st_ino == facts.st_ino and not moved:
            moved.append(found.rename(tmp_path / "others.mp4"))
        return facts

    moved: list[Path] = []
    monkeypatch.setattr(os, "fstat", gone)
    download = Download(target, None)
    download.open()
    assert moved
    assert part_of(target).exists()
    download.close()
    assert [path.name for path in tmp_path.iterdir()] == ["others.mp4"]


def test_where_a_result_cant_go_is_said(api: Served, client: Client, tmp_path: Path) -> None:
    job = api.finished("a")
    for target in (tmp_path, tmp_path / "none" / "x.mp4", tmp_path / ("a" * 256)):
        with pytest.raises(PermanentError) as caught:
            client.result(job, target)
        assert caught.value.code is ErrorCode.OUTPUT_UNWRITABLE


def test_links_of_the_store_are_used_and_done_without_where_they_lead_nowhere(
    s3_api: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body, target = random.Random(6).randbytes(MIB), tmp_path / "out.mp4"
    job = s3_api.finished("a", body=body)
    with Client(s3_api.url, key_for(s3_api), patience=QUICK) as client:
        client.result(job, target)
        assert target.read_bytes() == body
        nowhere = f"http://127.0.0.1:{free_port()}/x"
        monkeypatch.setattr(s3_api.service.store, "link", lambda *_: nowhere)
        client.result(job, target)
        assert target.read_bytes() == body


def test_a_key_does_not_follow_a_link_to_the_store(tmp_path: Path) -> None:
    with website(None) as service, website(None) as store:
        link = f"http://127.0.0.1:{store.port}/object"
        service.scripts["/v1/jobs/a/result?redirect=true"] = lambda _, wire: wire.answer(
            "307 Temporary Redirect", location=link, connection="close"
        )
        store.scripts["/object"] = lambda _, wire: wire.answer("200 OK", b"video")
        with Client(f"http://127.0.0.1:{service.port}", "df_secret", patience=QUICK) as client:
            assert client.result("a", tmp_path / "out.mp4") == 5
    assert service.asked[0].fields["authorization"] == "Bearer df_secret"
    assert "authorization" not in store.asked[0].fields


def test_what_belongs_to_a_result_can_be_had(api: Served, client: Client, tmp_path: Path) -> None:
    job, store = api.finished("a"), api.service.store
    lines = gzip.compress(b"{}\n")
    store.write(report_key(job), [b'{"frames": 3}'])
    store.write(tracks_key(job), [lines])
    store.write(thumbnail_key(job, 0, 1), [b"jpeg"])
    assert client.report(job) == {"frames": 3}
    assert client.tracks(job, tmp_path / "tracks.gz") == len(lines)
    assert (tmp_path / "tracks.gz").read_bytes() == lines
    (thumbnail,) = client.thumbnails(job)
    assert client.picture(thumbnail) == b"jpeg"


# --- the rest -------------------------------------------------------------------------------------


def test_lists_go_over_all_pages_by_state_and_owner(api: Served, client: Client) -> None:
    jobs = [api.job(f"j{n}") for n in range(5)]
    api.service.ledger.cancel(jobs[0])
    assert {job.id for job in client.list(page=2)} == set(jobs)
    assert [job.id for job in client.list(state=JobState.CANCELLED)] == [jobs[0]]
    assert len(list(client.list(live=True, page=2))) == 4
    api.job("other", "bob")
    with Client(api.url, key_for(api, "root", (Role.ADMIN,))) as admin:
        assert len(list(admin.list(page=3))) == 6
        assert [job.id for job in admin.list(owner="bob")] == ["other"]
        assert admin.system().jobs["queued"] == 5
        assert admin.session().owner == "root"


def test_cancelling_twice_is_cancelling_once(api: Served, client: Client) -> None:
    job = client.get(api.job("a"))
    assert client.cancel(job).state is client.cancel(job.id).state is JobState.CANCELLED
    with pytest.raises(ConflictError):
        client.cancel(api.finished("b"))


def test_the_client_that_awaits_does_the_same(
    api: Served, video: MakeVideo, tmp_path: Path
) -> None:
    path, target = video(), tmp_path / "out.mp4"
    body = random.Random(7).randbytes(MIB)

    async def work() -> None:
        async with AsyncClient(api.url, key_for(api), patience=QUICK) as client:
            job = await client.submit(path, crf=30)
            assert stored(api, job.spec.source) == path.read_bytes()
            same = [await client.submit(path, idempotency_key="k") for _ in range(2)]
            assert same[0].id == same[1].id
            waiting = asyncio.create_task(client.wait(job, 60))
            await asyncio.to_thread(api.service.ledger.cancel, job.id)
            assert (await waiting).state is JobState.CANCELLED
            kinds = [told.event.state async for told in client.events(job)]
            assert kinds[-1] is JobState.CANCELLED
            finished = await asyncio.to_thread(api.finished, "done", body=body)
            assert await client.result(finished, target) == MIB
            assert len([job async for job in client.list(page=1)]) == 3
            with pytest.raises(NotFoundError):
                await client.get("none")

    asyncio.run(work())
    assert hashlib.sha256(target.read_bytes()).digest() == hashlib.sha256(body).digest()


def test_both_clients_have_the_same_surface() -> None:
    def surface(kind: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(method).parameters)
            for name, method in inspect.getmembers(kind, callable)
            if not name.startswith("_")
        }

    assert surface(Client) == surface(AsyncClient)


def test_a_key_goes_only_to_the_address_that_it_is_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DUALFACE_STATE_DIR", str(tmp_path))
    with pytest.raises(PermanentError, match="dualface up"):
        find_address()
    facts = {"redis_url": "", "api_url": "http://127.0.0.1:1", "api_key": "df_local"}
    (tmp_path / "stack.json").write_text(json.dumps(facts))
    assert address_for(None, None) == ("http://127.0.0.1:1", "df_local")
    monkeypatch.setenv("DUALFACE_API_URL", "https://a.example.com")
    monkeypatch.setenv("DUALFACE_API_KEY", "df_a")
    assert address_for(None, None) == ("https://a.example.com", "df_a")
    assert address_for("https://b.example.com", None).key == ""
    assert "df_a" not in repr(Settings.load())
    for wrong in (
        *("ftp://a", "a.example.com", "http://", "http://a..b", f"http://{'a' * 64}", "http://a:b"),
        *("http://a ", "http://a\n", "http://a?", "http://a#", "http://\udcff", "http://[::1"),
        *("https://me:pass@a", "https://me:pass@a:b"),
    ):
        with pytest.raises(PermanentError, match="https://HOST") as caught:
            address_for(wrong, None)
        assert "pass" not in str(caught.value)
    for wrong in (" ", "df_a b", "df_a\n", "df_ü", "\udcff"):
        with pytest.raises(PermanentError, match="DUALFACE_API_KEY") as caught:
            address_for("https://a", wrong)
        assert "df_a" not in str(caught.value)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("name", "value"), [("HTTPS_PROXY", "what://x"), ("SSL_CERT_FILE", "/nowhere.pem")]
)
def test_a_proxy_or_certificates_that_cant_be_used_are_named(
    kind: type[Client | AsyncClient], name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    monkeypatch.delenv(name.lower(), raising=False)
    with pytest.raises(PermanentError, match=name):
        kind("https://a.example.com", "df_a")
