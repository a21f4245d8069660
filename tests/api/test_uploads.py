"""Sources as they are sent: straight into the store, bounded, whole or not at all."""

from __future__ import annotations

import socket
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from services.coordinator.api.uploads import OPEN_AT_LEAST
from services.coordinator.plan import going
from shared.errors import ErrorCode
from shared.jobs import JobState
from shared.keys import Role
from shared.ledger.base import key_of
from shared.redisdb import Connection
from tests.api.conftest import Served
from tests.api.test_jobs import code_of
from tests.files import files_below
from tests.waiting import wait_until

MIB = 1 << 20


def objects(api: Served) -> list[str]:
    """Everything in the store."""
    return list(api.service.store.keys("jobs"))


def scratch(api: Served) -> list[Path]:
    """What half-written objects there are."""
    return list(files_below(api.service.settings.state_dir))


def stored(api: Served, key: str) -> bytes:
    """An object's bytes."""
    return b"".join(api.service.store.read(key))


def test_a_video_sent_as_a_form_becomes_a_job_with_its_options(api: Served) -> None:
    made = api.client().post(
        "/v1/jobs",
        files={"file": ("My talk.MOV", b"bytes of a video", "video/quicktime")},
        data={"spec": '{"crf": 30, "container": "mov"}'},
    )
    assert made.status_code == 201
    job = made.json()
    assert (job["name"], job["spec"]["crf"]) == ("My talk.MOV", 30)
    assert job["spec"]["source"] == f"jobs/{job['id']}/source.mov"
    assert stored(api, job["spec"]["source"]) == b"bytes of a video"


def test_the_same_form_with_the_same_idempotency_key_is_the_same_job(api: Served) -> None:
    client = api.client()

    def send(body: bytes) -> httpx.Response:
        files = {"file": ("a.mp4", body, "video/mp4")}
        return client.post("/v1/jobs", files=files, headers={"Idempotency-Key": "k"})

    first, second = send(b"one"), send(b"one")
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json()["id"] == second.json()["id"]
    for another in (b"two", b"three"):
        refused = send(another)
        assert (refused.status_code, code_of(refused)) == (409, "conflict")
        assert "another file" in refused.json()["detail"]
    assert [stored(api, key) for key in objects(api)] == [b"one"]
    api.service.ledger.fail(first.json()["id"], ErrorCode.STAGE_FAILED, "Broken.")
    api.service.ledger.cleaned(first.json()["id"])
    assert client.post(f"{first.headers['location']}/retry").status_code == 200
    assert (send(b"one").status_code, send(b"two").status_code) == (200, 409), "made again"


def test_of_a_job_of_an_older_release_nobody_knows_which_file_it_was(
    api: Served, redis: Connection
) -> None:
    client = api.client()

    def send(body: bytes) -> httpx.Response:
        files = {"file": ("a.mp4", body, "video/mp4")}
        return client.post("/v1/jobs", files=files, headers={"Idempotency-Key": "k"})

    job = send(b"one").json()["id"]
    assert redis.hdel(key_of(job), "sent")
    again = send(b"two")
    assert (again.status_code, again.json()["id"]) == (200, job)


@pytest.mark.parametrize(
    ("form", "says"),
    [
        ({"data": {"spec": "{}"}, "files": {"other": ("a", b"x")}}, "neither"),
        ({"files": {"spec": ("a", b"{}")}}, "no file"),
        ({"data": {"spec": '{"crf": 99}'}, "files": {"file": ("a.mp4", b"x")}}, "crf"),
        ({"data": {"spec": '{"source": "s3://a/b"}'}, "files": {"file": ("a", b"x")}}, "source"),
        ({"data": {"spec": "{"}, "files": {"file": ("a.mp4", b"x")}}, "JSON"),
        ({"files": {"file": ("a.mp4", b"")}}, "empty"),
    ],
)
def test_a_form_that_is_no_job_leaves_nothing_behind(
    api: Served, form: dict[str, dict[str, object]], says: str
) -> None:
    answer = api.client().post("/v1/jobs", **form)  # type: ignore[arg-type]
    assert answer.status_code == 422
    assert says in answer.json()["detail"]
    assert objects(api) == []


FORBIDDEN_WEBHOOK = b'{"webhook": "https://hooks.example.com:99/x"}'


def begun(spec: bytes) -> bytes:
    """The beginning of a form, up to the first bytes of its file."""
    given = b'--b\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n'
    before = given % (b"spec", b"") + spec + b"\r\n" if spec else b""
    return before + given % (b"file", b'; filename="a.mp4"') + bytes(1000)


def answered_early(api: Served, secret: str, start: bytes) -> bytes:
    """The status of the answer to a form of which no more is ever sent."""
    address = urlsplit(api.url)
    with socket.create_connection((str(address.hostname), int(address.port or 0))) as line:
        line.settimeout(60)
        head = (
            f"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {secret}\r\n"
            "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 9999999\r\n\r\n"
        )
        line.sendall(head.encode() + start)
        return line.recv(65536).split(b" ")[1]


def test_what_can_be_known_of_a_form_is_told_before_its_video_is_read(api: Served) -> None:
    _, secret = api.service.keys.add("ann", (Role.SUBMIT,), most_live=1)
    assert answered_early(api, secret, begun(FORBIDDEN_WEBHOOK)) == b"403"
    assert answered_early(api, secret, begun(b'{"crf": 99}')) == b"422"
    api.job("live")
    assert answered_early(api, secret, begun(b"")) == b"429"
    wait_until(lambda: not scratch(api), "nothing is left")
    assert objects(api) == []


def test_a_form_whose_spec_comes_last_and_is_refused_leaves_nothing_behind(api: Served) -> None:
    parts = [("file", ("a.mp4", b"video")), ("spec", (None, FORBIDDEN_WEBHOOK))]
    refused = api.client().post("/v1/jobs", files=parts)  # type: ignore[arg-type]
    assert (refused.status_code, code_of(refused)) == (403, "forbidden")
    assert objects(api) == []


@pytest.mark.parametrize(
    ("name", "spec", "video", "status"),
    [
        ("order 7", b"{}", bytes(1000), 200),
        ("order 7", b"{}", b"another", 409),
        ("order 7", b'{"crf": 30}', bytes(1000), 409),
        ("order 8", b"{}", bytes(1000), 429),
    ],
)
def test_a_form_that_is_late_takes_nothing_away_but_what_it_brought(
    api: Served, name: str, spec: bytes, video: bytes, status: int
) -> None:
    client = api.client(most_live=1)
    made: list[httpx.Response] = []

    def submit_another() -> Iterator[bytes]:
        yield begun(spec)
        wait_until(lambda: scratch(api), "the late one is being written")
        first = {"file": ("a.mp4", video, "video/mp4")}
        made.append(client.post("/v1/jobs", files=first, headers={"Idempotency-Key": "order 7"}))
        yield b"\r\n--b--\r\n"

    kind = "multipart/form-data; boundary=b"
    headers = {"Idempotency-Key": name, "Content-Type": kind}
    late = api.with_key(client.headers["authorization"].split()[1])
    answer = late.post("/v1/jobs", content=submit_another(), headers=headers)
    assert (made[0].status_code, answer.status_code) == (201, status)
    source = made[0].json()["spec"]["source"]
    assert objects(api) == [source]
    assert stored(api, source) == video
    assert going([source], JobState.FAILED, keep_source=False) == [], "it may be tried again"
    assert going([source], JobState.SUCCEEDED, keep_source=False) == [source.rpartition("/")[0]]


def test_names_of_files_lead_nowhere(api: Served) -> None:
    files = {"file": ("../../etc/passwd.mp4", b"x", "video/mp4")}
    job = api.client().post("/v1/jobs", files=files).json()
    assert job["name"] == "passwd.mp4"
    assert objects(api) == [f"jobs/{job['id']}/source.mp4"]


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        (b"quo%22te.mp4", 'quo"te.mp4'),
        (b"two%0D%0Alines.mp4", "two\r\nlines.mp4"),
        (b"100%25 %2F.mp4", "100%25 %2F.mp4"),
    ],
)
def test_a_name_is_what_it_was_before_a_browser_put_it_into_a_form(
    api: Served, sent: bytes, meant: str
) -> None:
    body = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="%s"\r\n\r\nx\r\n--b--\r\n'
    )
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    job = api.client().post("/v1/jobs", content=body.replace(b"%s", sent), headers=kind).json()
    assert job["name"] == meant


def pieces(count: int) -> Iterator[bytes]:
    """Mebibytes."""
    for _ in range(count):
        yield bytes(MIB)


def test_a_large_upload_is_never_whole_in_memory(api: Served) -> None:
    client = api.client()
    upload = client.post("/v1/uploads", json={"name": "long.mp4"}).json()
    tracemalloc.start()
    try:
        answer = client.put(upload["content"], content=pieces(96))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert answer.json()["size_bytes"] == 96 * MIB
    assert most < 32 * MIB
    job = client.post("/v1/jobs", json={"source": upload["source"], "crf": 21})
    assert (job.status_code, job.json()["id"]) == (201, upload["id"])
    assert job.json()["name"] == "long.mp4"
    again = client.post("/v1/jobs", json={"source": upload["source"], "crf": 21})
    assert (again.status_code, again.json()["id"]) == (200, upload["id"])
    other = client.post("/v1/jobs", json={"source": upload["source"], "crf": 30})
    assert (other.status_code, code_of(other)) == (409, "conflict")
    assert "This upload became a job" in other.json()["detail"]


@pytest.mark.parametrize("announced", [True, False])
def test_too_much_is_refused_while_it_comes(api: Served, announced: bool) -> None:
    client = api.client(most_bytes=3 * MIB)
    upload = client.post("/v1/uploads", json={}).json()
    body: object = bytes(8 * MIB) if announced else pieces(64)
    try:
        answer = client.put(upload["content"], content=body)  # type: ignore[arg-type]
    except httpx.TransportError:
        answer = None  # refused in the middle of sending
    if answer is not None:
        assert (answer.status_code, code_of(answer)) == (413, "too_large")
    wait_until(lambda: not objects(api) and not scratch(api), "nothing is left")
    early = client.post("/v1/uploads", json={"size_bytes": 4 * MIB})
    assert (early.status_code, code_of(early)) == (413, "too_large")
    ready = client.post("/v1/jobs", json={"source": upload["source"]})
    assert (ready.status_code, code_of(ready)) == (409, "conflict")


def test_a_form_that_is_too_large_names_the_limit_of_a_source(api: Served) -> None:
    files = {"file": ("a.mp4", bytes(MIB), "video/mp4")}
    refused = api.client(most_bytes=1000).post("/v1/jobs", files=files)
    assert (refused.status_code, code_of(refused)) == (413, "too_large")
    assert "More than 1000 bytes" in refused.json()["detail"]


def test_a_part_is_not_taken_for_the_whole(api: Served) -> None:
    client = api.client()
    upload = client.post("/v1/uploads", json={}).json()
    rest = client.put(upload["content"], content=b"67", headers={"Content-Range": "bytes 5-6/7"})
    assert (rest.status_code, code_of(rest)) == (400, "bad_request")
    assert "Content-Range" in rest.json()["detail"]
    assert objects(api) == []
    assert client.put(upload["content"], content=b"1234567").status_code == 200


def test_an_upload_that_is_broken_off_leaves_nothing(api: Served) -> None:
    _, secret = api.service.keys.add("ann", (Role.SUBMIT,))
    upload = api.with_key(secret).post("/v1/uploads", json={}).json()
    address = urlsplit(api.url)
    for path, kind in (
        (upload["content"], "application/octet-stream"),
        ("/v1/jobs", "multipart/form-data; boundary=b"),
    ):
        with socket.create_connection((str(address.hostname), int(address.port or 0))) as line:
            head = (
                f"{'PUT' if path != '/v1/jobs' else 'POST'} {path} HTTP/1.1\r\nHost: x\r\n"
                f"Authorization: Bearer {secret}\r\n"
                f"Content-Type: {kind}\r\nContent-Length: 9999999\r\n\r\n"
                '--b\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n'
            )
            line.sendall(head.encode() + bytes(2 * MIB))
            wait_until(lambda: scratch(api), "it is being written")
        wait_until(lambda: not objects(api) and not scratch(api), "nothing is left")
    assert api.service.ledger.count(None) == 0


def test_what_was_announced_has_to_come(api: Served) -> None:
    client = api.client()
    upload = client.post("/v1/uploads", json={"size_bytes": 10}).json()
    short = client.put(upload["content"], content=b"12345")
    assert (short.status_code, code_of(short)) == (409, "conflict")
    assert objects(api) == []
    assert client.put(upload["content"], content=b"1234567890").status_code == 200


@pytest.mark.parametrize("announced", [True, False])
def test_bytes_that_were_stored_are_kept_whatever_is_sent_after_them(
    api: Served, announced: bool
) -> None:
    client = api.client()
    size = {"size_bytes": 10} if announced else {}
    upload = client.post("/v1/uploads", json=size).json()
    sent = client.put(upload["content"], content=b"1234567890")
    for body in (b"12345", b"", pieces(1)):
        other = client.put(upload["content"], content=body)
        assert (other.status_code, code_of(other)) == (409, "conflict")
    again = client.put(upload["content"], content=b"1234567890")
    assert (again.status_code, again.json()) == (200, sent.json())
    job = client.post("/v1/jobs", json={"source": upload["source"]})
    assert job.status_code == 201
    assert stored(api, job.json()["spec"]["source"]) == b"1234567890"


def test_of_two_that_send_the_same_upload_at_the_same_moment_one_is_refused(api: Served) -> None:
    client = api.client()
    upload = client.post("/v1/uploads", json={}).json()

    def late() -> Iterator[bytes]:
        yield b"late"
        wait_until(lambda: scratch(api), "the late one is being written")
        assert client.put(upload["content"], content=b"first").status_code == 200

    other = api.with_key(client.headers["authorization"].split()[1])
    answer = other.put(upload["content"], content=late())
    assert (answer.status_code, code_of(answer)) == (409, "conflict")
    assert [stored(api, key) for key in objects(api)] == [b"first"]


def test_uploads_that_become_no_job_are_bounded_for_each_owner(api: Served) -> None:
    client = api.client(most_live=1)

    def begin(by: httpx.Client) -> httpx.Response:
        return by.post("/v1/uploads", json={})

    opened = [begin(client).json() for _ in range(OPEN_AT_LEAST)]
    refused = begin(client)
    assert (refused.status_code, code_of(refused)) == (429, "over_quota")
    assert begin(api.client("bob")).status_code == 201
    client.delete(f"/v1/uploads/{opened[0]['id']}")
    client.put(opened[1]["content"], content=b"x")
    client.post("/v1/jobs", json={"source": opened[1]["source"]})
    assert [begin(client).status_code for _ in range(3)] == [201, 201, 429]


def test_an_upload_is_its_owners_and_can_be_dropped(api: Served) -> None:
    client, bob = api.client(), api.client("bob")
    upload = client.post("/v1/uploads", json={}).json()
    client.put(upload["content"], content=b"x")
    for answer in (
        bob.put(upload["content"], content=b"y"),
        bob.post("/v1/jobs", json={"source": upload["source"]}),
        bob.delete(f"/v1/uploads/{upload['id']}"),
    ):
        assert (answer.status_code, code_of(answer)) == (404, "not_found")
    assert client.delete(f"/v1/uploads/{upload['id']}").status_code == 204
    assert objects(api) == []


def test_an_upload_announced_again_with_its_idempotency_key_is_the_same_one(api: Served) -> None:
    client = api.client()

    def begin(by: httpx.Client, **announced: object) -> httpx.Response:
        return by.post("/v1/uploads", json=announced, headers={"Idempotency-Key": "talk-7"})

    first = begin(client, name="a.mp4", size_bytes=5).json()
    assert begin(client, name="a.mp4", size_bytes=5).json() == first
    other = begin(client, name="b.mp4", size_bytes=6)
    assert (other.status_code, code_of(other)) == (409, "conflict")
    assert begin(api.client("bob"), name="a.mp4").json()["id"] != first["id"]
    assert client.put(first["content"], content=b"video").status_code == 200
    assert begin(client, name="a.mp4", size_bytes=5).json() == first, "it is there already"
    job = client.post("/v1/jobs", json={"source": first["source"]}).json()
    again = begin(client, name="a.mp4", size_bytes=5).json()
    assert client.post("/v1/jobs", json={"source": again["source"]}).json()["id"] == job["id"]
    longer = begin(client, name="a.mp4", size_bytes=6)
    assert (longer.status_code, code_of(longer)) == (409, "conflict")


def test_links_into_the_store_are_for_stores_that_give_them(api: Served) -> None:
    answer = api.client().post("/v1/uploads", json={"direct": True, "size_bytes": 5})
    assert (answer.status_code, code_of(answer)) == (409, "conflict")
