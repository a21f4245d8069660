"""What a job made, handed out whole and in parts."""

from __future__ import annotations

import pytest

from shared.errors import ErrorCode
from shared.keys import Role
from shared.names import report_key, thumbnail_key, tracks_key
from tests.api.conftest import Served
from tests.api.test_jobs import code_of

BODY = bytes(range(256)) * 4


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=1000-", 1000, 1024),
        ("bytes=1000-99999", 1000, 1024),
        ("bytes=-24", 1000, 1024),
        ("bytes=-99999", 0, 1024),
    ],
)
def test_a_range_of_the_result_is_served(api: Served, asked: str, start: int, end: int) -> None:
    job = api.finished("talk", body=BODY)
    answer = api.client().get(f"/v1/jobs/{job}/result", headers={"Range": asked})
    assert answer.status_code == 206
    assert answer.content == BODY[start:end]
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/1024"


@pytest.mark.parametrize("asked", ["bytes=1024-", "bytes=5-4", "bytes=-0"])
def test_a_range_beyond_the_result_is_none(api: Served, asked: str) -> None:
    job = api.finished("talk", body=BODY)
    answer = api.client().get(f"/v1/jobs/{job}/result", headers={"Range": asked})
    assert (answer.status_code, code_of(answer)) == (416, "range_not_satisfiable")
    assert answer.headers["content-range"] == "bytes */1024"


@pytest.mark.parametrize("asked", ["bytes=0-1,5-6", "frames=1-2", "bytes=a-b", "bytes=-"])
def test_a_range_nobody_understands_gives_the_whole(api: Served, asked: str) -> None:
    job = api.finished("talk", body=BODY)
    answer = api.client().get(f"/v1/jobs/{job}/result", headers={"Range": asked})
    assert (answer.status_code, answer.content) == (200, BODY)


def test_a_result_is_a_download_named_after_its_source(api: Served) -> None:
    job = api.finished("talk", body=BODY)
    head = api.client().head(f"/v1/jobs/{job}/result")
    assert head.headers["content-type"] == "video/mp4"
    assert head.headers["content-length"] == "1024"
    assert "talk-split.mp4" in head.headers["content-disposition"]
    assert head.content == b""


def test_a_job_without_a_result_says_how_it_stands(api: Served) -> None:
    answer = api.client().get(f"/v1/jobs/{api.job('a')}/result")
    assert (answer.status_code, code_of(answer)) == (409, "conflict")
    assert "queued, so it has no result yet" in answer.json()["detail"]
    api.service.ledger.fail("a", ErrorCode.TOO_DAMAGED, "Broken.")
    api.service.ledger.cancel(api.job("b"))
    for job, says in (("a", "`error` says why"), ("b", "submit it anew")):
        answer = api.client().get(f"/v1/jobs/{job}/result")
        assert (answer.status_code, code_of(answer)) == (409, "conflict")
        assert says in answer.json()["detail"]


def test_by_products_are_served_as_what_they_are(api: Served) -> None:
    client, job = api.client(), api.finished("talk")
    assert client.get(f"/v1/jobs/{job}/report").status_code == 404
    api.service.store.write(report_key(job), [b"{}"])
    api.service.store.write(tracks_key(job), [b"zipped"])
    for segment in (1, 0):
        api.service.store.write(thumbnail_key(job, segment, 0), [b"jpeg"])
    assert client.get(f"/v1/jobs/{job}/report").json() == {}
    assert client.get(f"/v1/jobs/{job}/tracks").content == b"zipped"
    found = client.get(f"/v1/jobs/{job}/thumbnails").json()["thumbnails"]
    assert [each["name"] for each in found] == ["000000-000000.jpg", "000001-000000.jpg"]
    picture = client.get(found[0]["url"])
    assert (picture.headers["content-type"], picture.content) == ("image/jpeg", b"jpeg")
    assert client.get(f"/v1/jobs/{job}/thumbnails/..%2Freport.json").status_code in (404, 422)


def test_head_tells_what_get_would_without_the_bytes(api: Served) -> None:
    client, job = api.client(), api.finished("talk", body=BODY)
    api.service.store.write(report_key(job), [b"{}"])
    api.service.store.write(tracks_key(job), [b"zipped"])
    api.service.store.write(thumbnail_key(job, 0, 0), [b"jpeg"])
    parts = ("result", "report", "tracks", "thumbnails/000000-000000.jpg")
    paths = [f"/v1/jobs/{job}/{part}" for part in parts]
    for path in (*paths, "/", "/page/app.js", "/healthz", "/readyz", "/v1/openapi.json"):
        got, head = client.get(path), client.head(path)
        assert (head.status_code, head.content) == (200, b""), path
        for name in ("content-length", "content-type", "accept-ranges"):
            assert head.headers.get(name) == got.headers.get(name), (path, name)
    part = client.head(paths[0], headers={"Range": "bytes=1-2"})
    assert (part.status_code, part.headers["content-range"]) == (206, "bytes 1-2/1024")
    assert client.head(f"/v1/jobs/{job}/thumbnails/000009-000000.jpg").status_code == 404


def test_what_serves_ranges_says_so_in_the_document(api: Served) -> None:
    client, job = api.client(), api.finished("talk")
    api.service.store.write(report_key(job), [b"{}"])
    api.service.store.write(tracks_key(job), [b"zipped"])
    api.service.store.write(thumbnail_key(job, 0, 0), [b"jpeg"])
    paths = client.get("/v1/openapi.json").json()["paths"]
    for part in ("result", "report", "tracks", "thumbnails/{name}"):
        url = f"/v1/jobs/{job}/{part}".replace("{name}", "000000-000000.jpg")
        for asked, status in (("bytes=0-0", 206), ("bytes=99-", 416)):
            answer = client.get(url, headers={"Range": asked})
            assert answer.status_code == status
            told = paths[f"/v1/jobs/{{job_id}}/{part}"]["get"]["responses"]
            kind = answer.headers["content-type"].partition(";")[0]
            assert kind in told[str(status)]["content"], (part, status)
            assert status == 206 or "cache-control" not in answer.headers


def test_operators_see_workers_limits_queues_and_jobs(api: Served) -> None:
    api.finished("a")
    api.job("b", "bob")
    seen = api.client("root", (Role.ADMIN,)).get("/v1/system").json()
    assert seen["jobs"]["succeeded"] == 1
    assert seen["jobs"]["queued"] == 1
    assert {each["queue"] for each in seen["queues"]} >= {"split", "mux"}
    assert seen["workers"] == []
    assert seen["dead_letters"] == 0


def test_health_needs_no_key_and_readiness_names_what_is_missing(api: Served) -> None:
    client = api.with_key(None)
    assert client.get("/healthz").json() == {"status": "ok", "reasons": []}
    assert client.get("/readyz").json()["status"] == "ok"
