"""Facts about S3 alone: rights, credentials, links, uploads by clients, what other servers say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from shared.errors import ErrorCode, PermanentError, StoreRefusedError, TemporaryError
from shared.settings import MIB, Settings
from shared.storage import check_store, open_buckets, open_store
from shared.storage.base import OpenUpload
from shared.storage.s3 import S3Store
from tests.servers import S3Server, free_port, s3_server
from tests.storage.canned import Answer, canned, refusal
from tests.storage.conftest import MakeS3

KEYS = ("access_key", "secret_key")


def refused(store: S3Store) -> str:
    """What every kind of access to the store is refused with."""
    said = set()
    for use in (store.check, lambda: list(store.keys("jobs")), lambda: store.write("x", [b"1"])):
        with pytest.raises(StoreRefusedError) as caught:
            use()
        assert caught.value.code is ErrorCode.STORE_REFUSED
        said.add(caught.value.message)
    assert len(said) == 1, said
    return said.pop()


# --- settings and rights ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"s3_access_key": "nobody"}, "DUALFACE_S3_ACCESS_KEY"),
        ({"s3_secret_key": "guessed"}, "DUALFACE_S3_SECRET_KEY"),
        ({"store": "s3://no-such-bucket/x"}, "DUALFACE_STORE"),
    ],
)
def test_what_is_set_wrong_is_named(make_s3: MakeS3, wrong: dict[str, str], named: str) -> None:
    assert named in refused(make_s3(**wrong))


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        (Answer(403, refusal("AccessDenied")), "docs/operations.md"),
        (Answer(403, refusal("RequestTimeTooSkewed")), "clock"),
        (Answer(400, refusal("AuthorizationHeaderMalformed")), "DUALFACE_S3_REGION"),
        (Answer(301, refusal("PermanentRedirect")), "DUALFACE_S3_REGION"),
        (Answer(400, refusal("ExpiredToken")), "renew"),
        (Answer(418, refusal("Teapot", "Short and stout.")), "Short and stout."),
        (Answer(403, "<html>", "text/html"), "not in the words of S3"),
        (Answer(404, "", ""), "not in the words of S3"),
        (
            Answer(308, "", "", {"Location": "https://store.example/x?y"}),
            "redirects to https://store.example; set DUALFACE_S3_ENDPOINT",
        ),
    ],
)
def test_what_other_servers_refuse_with_is_told_at_once(
    make_s3: MakeS3, answer: Answer, named: str
) -> None:
    asked = []

    def say(method: str, path: str) -> Answer:
        asked.append((method, path))
        return answer

    with canned(say) as endpoint:
        assert named in refused(make_s3(s3_endpoint=endpoint))
    assert len(asked) == 3


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, "<ListBucketResult><Na"),
        Answer(200, "<Something/>"),
        Answer(502, "<html>", "text/html"),
        Answer(503, refusal("SlowDown")),
        Answer(429, "", ""),
        Answer(400, refusal("RequestTimeout")),
        Answer(500, "<Error", "text/xml"),
    ],
)
def test_what_may_pass_is_asked_again(make_s3: MakeS3, answer: Answer) -> None:
    answers = [answer, Answer(200, "<ListBucketResult><Name>b</Name></ListBucketResult>")]
    with canned(lambda *_: answers.pop(0)) as endpoint:
        assert list(make_s3(s3_endpoint=endpoint).keys("jobs")) == []
    assert answers == []


@pytest.mark.parametrize(
    "answer", [Answer(507, refusal("XMinioStorageFull")), Answer(403, refusal("QuotaExceeded"))]
)
def test_a_full_store_is_told_from_a_broken_one(make_s3: MakeS3, answer: Answer) -> None:
    with canned(lambda *_: answer) as endpoint, pytest.raises(TemporaryError) as caught:
        make_s3(s3_endpoint=endpoint).write("x", [b"1"])
    assert caught.value.code is ErrorCode.NO_SPACE


@pytest.mark.parametrize("stored", [b"", b"dat"])
def test_an_object_that_did_not_arrive_whole_is_sent_again(make_s3: MakeS3, stored: bytes) -> None:
    """A server whose ETags are no digests is asked for the size."""
    sizes = [str(len(stored)), "4"]

    def say(method: str, _: str) -> Answer:
        if method == "PUT":
            return Answer(kind="", headers={"ETag": '"of-another-kind"'})
        return Answer(body="x" * int(sizes.pop(0)), kind="")

    with canned(say) as endpoint:
        assert make_s3(s3_endpoint=endpoint).write("x", [b"data"]) == 4
    assert sizes == []


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"s3_endpoint": "ftp://host"}, "DUALFACE_S3_ENDPOINT"),
        ({"s3_endpoint": "https://host/path"}, "DUALFACE_S3_ENDPOINT"),
        ({"s3_region": "no region"}, "DUALFACE_S3_REGION"),
        ({"s3_secret_key": ""}, "belong together"),
        ({"s3_ca_file": "/no/such/file"}, "DUALFACE_S3_CA_FILE"),
        ({"s3_access_key": "", "s3_access_key_file": "/no/such"}, "DUALFACE_S3_ACCESS_KEY_FILE"),
    ],
)
def test_settings_that_cannot_be_right_are_named_before_anything_is_asked(
    s3: S3Server, bucket: str, tmp_path: Path, wrong: dict[str, str], named: str
) -> None:
    chosen = {"state_dir": tmp_path, **s3.settings(bucket), **wrong}
    with pytest.raises(PermanentError, match=named):
        check_store(Settings.model_validate(chosen))


def test_a_store_that_is_not_there_is_named_with_its_setting(
    s3: S3Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that goes on with each look at it: a pause of this machine is no silence."""
    ticks = count(step=0.1)
    clock = SimpleNamespace(monotonic=lambda: next(ticks))
    monkeypatch.setattr("shared.storage.errands.time", clock)
    monkeypatch.setattr("shared.storage.errands.LOOK_EVERY_S", 60.0)
    monkeypatch.setattr("shared.storage.START_PATIENCE_S", 1)
    chosen = s3.settings(bucket, port=free_port()) | {"state_dir": tmp_path}
    with pytest.raises(PermanentError, match=r"no connection.*DUALFACE_S3_ENDPOINT"):
        check_store(Settings.model_validate(chosen))


def test_keys_never_show(s3: S3Server, bucket: str, make_s3: MakeS3) -> None:
    settings = Settings.model_validate(s3.settings(bucket))
    shown = f"{settings!r} {settings} {settings.model_dump_json()} {settings.s3_secret_key}"
    assert s3.secret_key not in shown
    assert s3.access_key not in shown
    with pytest.raises(StoreRefusedError) as caught:
        make_s3(s3_access_key="SOMEBODY", s3_secret_key="HIDDEN").check()
    assert "HIDDEN" not in repr(caught.value)


def test_keys_come_from_files_too(
    s3: S3Server, bucket: str, make_s3: MakeS3, tmp_path: Path
) -> None:
    files = {}
    for name in KEYS:
        path = tmp_path / name
        path.write_text(s3.settings(bucket)[f"s3_{name}"] + "\n")
        files |= {f"s3_{name}_file": path, f"s3_{name}": ""}
    make_s3(**files).check()


@pytest.fixture
def no_role(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As on a machine that AWS's programs were never set up on, and that may be busy."""
    monkeypatch.setattr("shared.storage.s3client.METADATA_S", 60.0)
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"http://127.0.0.1:{free_port()}/role")


NO_KEYS = {f"s3_{name}": "" for name in KEYS}


@pytest.mark.usefixtures("no_role")
def test_without_keys_those_of_awss_environment_file_and_role_are_taken(
    s3: S3Server, make_s3: MakeS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StoreRefusedError, match=r"no credentials.*DUALFACE_S3_ACCESS_KEY"):
        make_s3(**NO_KEYS).check()
    later = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    role = {"AccessKeyId": s3.access_key, "SecretAccessKey": s3.secret_key, "Token": ""}
    with canned(lambda *_: Answer(body=json.dumps(role | {"Expiration": later}))) as address:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{address}/role")
        make_s3(**NO_KEYS).check()
    (tmp_path / "credentials").write_text(
        f"[default]\naws_access_key_id={s3.access_key}\naws_secret_access_key={s3.secret_key}\n"
    )
    make_s3(**NO_KEYS).check()
    (tmp_path / "credentials").unlink()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
    make_s3(**NO_KEYS).check()


@pytest.fixture(scope="module")
def safe_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[S3Server, Path]]:
    """A server with TLS, and the file of its authority."""
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    names = ["-subj", "/CN=store", "-addext", "subjectAltName=IP:127.0.0.1"]
    try:
        subprocess.run(
            [*command.split(), *names, "-keyout", key, "-out", certificate],
            check=True,
            capture_output=True,
        )
    except FileNotFoundError:
        pytest.skip("no openssl to make a certificate with")
    with s3_server(folder, "--cert", str(certificate), "--key", str(key)) as server:
        (server.root / "bucket").mkdir()
        yield server, certificate


def test_tls_is_trusted_by_the_authority_that_is_named(
    safe_s3: tuple[S3Server, Path], make_s3: MakeS3
) -> None:
    server, authority = safe_s3
    chosen = server.settings("bucket")
    make_s3(**chosen, s3_ca_file=authority).check()
    assert "DUALFACE_S3_CA_FILE" in refused(make_s3(**chosen))


def test_tls_is_the_rule(s3: S3Server, make_s3: MakeS3) -> None:
    assert "does not speak TLS" in refused(make_s3(s3_endpoint=f"{s3.host}:{s3.port}"))


# --- links and uploads by clients ----------------------------------------------------------------


def test_a_link_gives_the_object_to_anybody_under_a_name_of_its_own(make_s3: MakeS3) -> None:
    store = make_s3()
    store.write("jobs/a/result.mp4", [b"video"])
    link = store.link("jobs/a/result.mp4", 60, 'Zoë & "Max"\r\n.mp4')
    assert link is not None
    answer = httpx.get(link)
    assert answer.content == b"video"
    told = answer.headers["Content-Disposition"]
    assert told.startswith('attachment; filename="Zo_ & _Max___.mp4"; ')
    assert told.endswith("filename*=UTF-8''Zo%C3%AB%20%26%20%22Max%22%0D%0A.mp4")
    assert httpx.get(link.replace("result", "source")).status_code == 403
    assert httpx.get(link.partition("?")[0]).status_code in (400, 403)


def test_links_lead_where_clients_reach_the_store(make_s3: MakeS3) -> None:
    store = make_s3(s3_public_endpoint="https://files.example")
    link = store.link("x", 10**9, "x")
    part = store.part_link("x", "upload", 1, 0)
    assert link is not None
    for address, seconds in ((link, "604800"), (part, "1")):
        assert address.startswith("https://files.example/")
        assert parse_qs(urlsplit(address).query)["X-Amz-Expires"] == [seconds]


def test_a_client_sends_an_object_in_parts_past_the_service(make_s3: MakeS3) -> None:
    store = make_s3()
    upload = store.begin("jobs/a/source.mp4")
    sent = [b"1" * (5 << 20), b"2" * 1000]
    parts = []
    for number, data in enumerate(sent, 1):
        link = store.part_link("jobs/a/source.mp4", upload, number, 60)
        parts.append((number, httpx.put(link, content=data).headers["ETag"]))
    assert not store.exists("jobs/a/source.mp4")
    store.complete("jobs/a/source.mp4", upload, parts)
    assert b"".join(store.read("jobs/a/source.mp4")) == b"".join(sent)
    store.complete("jobs/a/source.mp4", upload, parts)
    store.abort("jobs/a/source.mp4", upload)
    assert store.exists("jobs/a/source.mp4")


def test_parts_that_were_not_sent_make_no_object(make_s3: MakeS3) -> None:
    store = make_s3()
    upload = store.begin("x")
    link = store.part_link("x", upload, 1, 60)
    httpx.put(link, content=b"data")
    with pytest.raises(PermanentError) as caught:
        store.complete("x", upload, [(1, '"' + "0" * 32 + '"')])
    assert caught.value.code is ErrorCode.BAD_OPTION
    with pytest.raises(PermanentError) as caught:
        store.complete("y", "no-such-upload", [(1, "0" * 32)])
    assert caught.value.code is ErrorCode.SOURCE_MISSING
    assert not store.exists("x")


def test_open_uploads_are_those_below_a_prefix_that_are_old_enough(make_s3: MakeS3) -> None:
    store = make_s3()
    upload, other = store.begin("jobs/a/source.mp4"), store.begin("other/x")
    now = datetime.now(UTC)
    (found,) = store.open_uploads("jobs", now + timedelta(hours=1))
    assert (found.key, found.upload) == ("jobs/a/source.mp4", upload)
    assert abs(found.begun - now) < timedelta(minutes=5)
    assert list(store.open_uploads("jobs", now - timedelta(hours=1))) == []
    store.abort("jobs/a/source.mp4", upload)
    store.abort("jobs/a/source.mp4", upload)
    assert list(store.open_uploads("jobs", now + timedelta(hours=1))) == []
    store.abort("other/x", other)


AWS_PAGES = [
    """<?xml version="1.0" encoding="UTF-8"?>
<ListMultipartUploadsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
  <Bucket>bucket</Bucket><KeyMarker></KeyMarker><UploadIdMarker></UploadIdMarker>
  <NextKeyMarker>a%20prefix/my-divisor</NextKeyMarker>
  <NextUploadIdMarker>XMgbGlrZSBlbHZpbmcncyBub3QgaGF2</NextUploadIdMarker>
  <EncodingType>url</EncodingType><MaxUploads>1000</MaxUploads><IsTruncated>true</IsTruncated>
  <Upload>
    <Key>a%20prefix/my-divisor</Key><UploadId>XMgbGlrZSBlbHZpbmcncyBub3QgaGF2</UploadId>
    <Initiator><ID>arn:aws:iam::111122223333:user/user1</ID></Initiator>
    <Owner><ID>75aa57f09aa0c8caeab4f8c24e99d10f8e7faeebf76c078efc7c6caea54ba06a</ID></Owner>
    <StorageClass>STANDARD</StorageClass><Initiated>2010-11-10T20:48:33.000Z</Initiated>
  </Upload>
</ListMultipartUploadsResult>""",
    """<?xml version="1.0" encoding="UTF-8"?>
<ListMultipartUploadsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
  <Bucket>bucket</Bucket><MaxUploads>1000</MaxUploads><IsTruncated>false</IsTruncated>
  <Upload>
    <Key>a prefix/my-movie.m2ts</Key><UploadId>VXBsb2FkIElEIGZvcg</UploadId>
    <Initiated>2010-11-10T20:49:33.000Z</Initiated>
  </Upload>
</ListMultipartUploadsResult>""",
]


def test_pages_of_open_uploads_are_read_as_aws_writes_them(make_s3: MakeS3) -> None:
    asked, pages = [], list(AWS_PAGES)

    def say(_: str, path: str) -> Answer:
        asked.append(parse_qs(urlsplit(path).query))
        return Answer(body=pages.pop(0))

    with canned(say) as endpoint:
        store = make_s3(s3_endpoint=endpoint)
        found = list(store._uploads("a prefix/", datetime.now(UTC)))
    at = datetime(2010, 11, 10, 20, 48, 33, tzinfo=UTC)
    assert found == [
        OpenUpload("my-divisor", "XMgbGlrZSBlbHZpbmcncyBub3QgaGF2", at),
        OpenUpload("my-movie.m2ts", "VXBsb2FkIElEIGZvcg", at + timedelta(minutes=1)),
    ]
    assert asked[1]["key-marker"] == ["a prefix/my-divisor"]
    assert asked[1]["upload-id-marker"] == ["XMgbGlrZSBlbHZpbmcncyBub3QgaGF2"]


def test_a_server_without_a_list_of_uploads_is_left_to_its_own_rules(make_s3: MakeS3) -> None:
    with canned(lambda *_: Answer(501, refusal("NotImplemented"))) as endpoint:
        assert make_s3(s3_endpoint=endpoint).clear_leftovers(0) == 0


# --- listing, memory, start ----------------------------------------------------------------------


def test_listing_and_deleting_go_page_by_page(
    make_s3: MakeS3, s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("s3", "s3client"):
        monkeypatch.setattr(f"shared.storage.{module}.PAGE", 3)
    store = make_s3()
    names = [f"jobs/{number}" for number in range(7)]
    for name in names:
        store.write(name, [b""])
    assert list(store.keys("jobs")) == names
    assert store.delete("jobs") == 7
    assert s3.objects(bucket) == []


def test_memory_does_not_grow_with_what_is_written_or_read(make_s3: MakeS3) -> None:
    store, piece = make_s3(), bytes(range(256)) * 4096
    tracemalloc.start()
    try:
        assert store.write("x", (piece for _ in range(64))) == 64 * MIB
        _, written = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        assert sum(len(each) for each in store.read("x")) == 64 * MIB
        with store.local("x") as path:
            assert path.stat().st_size == 64 * MIB
        _, read = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert written < 40 * MIB
    assert read < 20 * MIB


def test_nothing_of_s3_is_imported_before_it_is_used() -> None:
    code = (
        "import sys; from shared.settings import Settings; from shared.storage import open_store;"
        "open_store(Settings()); assert 'shared.storage.s3' not in sys.modules;"
        "open_store(Settings(store='s3://bucket')); assert 'minio' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


# --- sources in other buckets --------------------------------------------------------------------


@pytest.fixture
def fetch(
    s3: S3Server, bucket: str, make_s3: MakeS3, tmp_path: Path
) -> Callable[..., tuple[int, bytes, list[int]]]:
    """Fetch from a bucket of others (`BUCKET-films`) or from ours, which is allowed by mistake."""
    films = s3.settings(f"{bucket}-films")
    store = open_store(Settings.model_validate({"state_dir": tmp_path, **films}))
    store.write("a folder/film.mp4", [b"film"])
    make_s3().write("jobs/a/source.mp4", [b"private"])

    def run(
        key: str, place: str = f"{bucket}-films", limit: int = 4
    ) -> tuple[int, bytes, list[int]]:
        chosen = s3.settings(bucket, "a prefix") | {
            "s3_buckets": (f"{bucket}-films", bucket, "gone")
        }
        told: list[int] = []
        into = tmp_path / "into"
        buckets = open_buckets(Settings.model_validate(chosen), patience_s=60)
        size = buckets.fetch(place, key, into, limit, told.append)
        return size, into.read_bytes(), told

    return run


def test_a_source_is_taken_from_a_bucket_on_the_list(
    fetch: Callable[..., tuple[int, bytes, list[int]]],
) -> None:
    assert fetch("a folder/film.mp4") == (4, b"film", [4])


@pytest.mark.parametrize(
    ("place", "key", "limit", "code"),
    [
        ("{}-films", "a folder/film.mp4", 3, ErrorCode.TOO_LARGE),
        ("{}-films", "none.mp4", 4, ErrorCode.SOURCE_MISSING),
        ("{}-others", "a folder/film.mp4", 4, ErrorCode.SOURCE_FORBIDDEN),
        ("gone", "a folder/film.mp4", 4, ErrorCode.SOURCE_FORBIDDEN),
        ("{}", "a prefix/jobs/a/source.mp4", 99, ErrorCode.SOURCE_FORBIDDEN),
    ],
)
def test_a_source_that_is_not_to_be_had_ends_its_job_with_a_reason(
    fetch: Callable[..., tuple[int, bytes, list[int]]],
    bucket: str,
    place: str,
    key: str,
    limit: int,
    code: ErrorCode,
) -> None:
    with pytest.raises(PermanentError) as caught:
        fetch(key, place.format(bucket), limit)
    assert caught.value.code is code
    assert not isinstance(caught.value, StoreRefusedError)


def test_a_server_that_sends_more_than_it_said_is_cut_off(
    s3: S3Server, bucket: str, tmp_path: Path
) -> None:
    lie = Answer(body="x" * 1000, kind="", headers={"Content-Range": "bytes 0-3/4"})
    with canned(lambda *_: lie) as endpoint:
        chosen = s3.settings(bucket) | {"s3_buckets": ("films",), "s3_endpoint": endpoint}
        buckets = open_buckets(Settings.model_validate(chosen))
        with pytest.raises(PermanentError) as caught:
            buckets.fetch("films", "x", tmp_path / "into", 10)
    assert caught.value.code is ErrorCode.TOO_LARGE
