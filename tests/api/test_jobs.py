"""Jobs over REST: submitted once, seen by their owner only, ended as asked."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from services.coordinator.api.problems import SHAPES
from shared.errors import ErrorCode
from shared.keys import Role
from shared.names import report_key
from tests.api.conftest import Served

SPEC = {"source": "https://videos.example.com/talk.mp4", "name": "talk.mp4", "crf": 20}


def code_of(answer: httpx.Response) -> str:
    """The problem's code."""
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == answer.status_code
    assert problem["type"] == f"urn:dualface:problem:{problem['code']}"
    assert problem["detail"]
    return str(problem["code"])


def test_a_submitted_job_is_queued_and_shown_with_all_that_was_asked_for(api: Served) -> None:
    client = api.client()
    made = client.post("/v1/jobs", json=SPEC)
    assert made.status_code == 201
    job = made.json()
    assert made.headers["location"] == f"/v1/jobs/{job['id']}"
    seen = client.get(made.headers["location"]).json()
    assert (seen["state"], seen["owner"], seen["spec"]["crf"]) == ("queued", "ann", 20)
    assert seen["progress"]["share"] == 0
    assert api.service.ledger.spec(job["id"]).source == SPEC["source"]


def test_the_same_idempotency_key_is_the_same_job_also_at_the_same_moment(api: Served) -> None:
    client = api.client()

    def submit(_: int) -> httpx.Response:
        return client.post("/v1/jobs", json=SPEC, headers={"Idempotency-Key": "order 7"})

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(submit, range(8)))
    assert {answer.json()["id"] for answer in answers} == {answers[0].json()["id"]}
    assert {answer.status_code for answer in answers} <= {200, 201}
    assert api.service.ledger.count(None) == 1
    other = client.post("/v1/jobs", json=SPEC | {"crf": 30}, headers={"Idempotency-Key": "order 7"})
    assert (other.status_code, code_of(other)) == (409, "conflict")
    foreign = api.client("bob").post("/v1/jobs", json=SPEC, headers={"Idempotency-Key": "order 7"})
    assert foreign.status_code == 201
    assert foreign.json()["id"] != answers[0].json()["id"]


@pytest.mark.parametrize(
    ("spec", "status", "code", "names"),
    [
        ({"source": "https://elsewhere.example.org/x.mp4"}, 403, "source_forbidden", "HOSTS"),
        ({"source": "s3://others/x.mp4"}, 403, "source_forbidden", "BUCKETS"),
        ({"source": "file:///etc/passwd"}, 403, "source_forbidden", "https"),
        ({"source": "jobs/somebody/source.mp4"}, 422, "bad_option", "source"),
        ({"source": "upload:" + "0" * 32}, 404, "not_found", "upload"),
        (SPEC | {"crf": 99}, 422, "bad_option", "crf"),
        (SPEC | {"codec": "av1", "container": "mov"}, 422, "bad_option", "AV1"),
        (SPEC | {"colour": "red"}, 422, "bad_option", "colour"),
        (SPEC | {"detector": "nobodys"}, 422, "bad_option", "nobodys"),
        (SPEC | {"webhook": "hooks.example.com"}, 422, "bad_option", "begins with http:// or"),
        (SPEC | {"webhook": "https://hooks.example.com:99/x"}, 403, "forbidden", "WEBHOOK_HOSTS"),
        ({}, 422, "bad_option", "source"),
    ],
)
def test_what_can_not_be_made_is_refused_with_the_reason(
    api: Served, spec: dict[str, object], status: int, code: str, names: str
) -> None:
    answer = api.client().post("/v1/jobs", json=spec)
    assert (answer.status_code, code_of(answer)) == (status, code)
    assert names in answer.json()["detail"]
    assert api.service.ledger.count(None) == 0


def test_bodies_that_are_no_spec_are_refused(api: Served) -> None:
    client = api.client()
    json = {"content-type": "application/json"}
    assert code_of(client.post("/v1/jobs", content=b"{", headers=json)) == "bad_option"
    assert code_of(client.post("/v1/jobs", content=b"a=b")) == "bad_option"
    big = client.post("/v1/jobs", content=b" " * 70_000, headers=json)
    assert (big.status_code, code_of(big)) == (413, "too_large")
    odd = client.post("/v1/jobs", content=b"x", headers={"content-type": "multipart/form-data"})
    assert code_of(odd) == "bad_option"


@pytest.mark.parametrize("path", ["/v1/jobs/", "/v1/jobs/a%2Freport", "/v1/jobs/a%2freport", "/x"])
def test_a_path_leads_to_what_it_names_or_nowhere(api: Served, path: str) -> None:
    api.service.store.write(report_key(api.finished("a")), [b"{}"])
    answer = api.client().get(path)
    assert (answer.status_code, code_of(answer)) == (404, "not_found")
    assert "/v1/openapi.json" in answer.json()["detail"]


def test_a_method_that_a_path_has_not_is_told_with_those_it_has(api: Served) -> None:
    answer = api.client().patch("/v1/jobs")
    assert (answer.status_code, code_of(answer)) == (405, "method_not_allowed")
    assert answer.headers["allow"] == "GET, POST"
    assert "Allow" in answer.json()["detail"]


def test_parameters_that_match_no_pattern_are_told_in_words(api: Served) -> None:
    document = api.with_key(None).get("/v1/openapi.json").json()
    given = [
        each
        for methods in document["paths"].values()
        for operation in methods.values()
        for each in operation.get("parameters", ())
    ]
    assert {each["name"] for each in given if "pattern" in each["schema"]} == set(SHAPES)
    client, ids = api.client(), {"Last-Event-ID": "yesterday"}
    for answer, name, field in (
        (client.get("/v1/jobs/a.b"), "job_id", "path.job_id"),
        (client.put("/v1/uploads/1/content", content=b"x"), "upload_id", "path.upload_id"),
        (client.get("/v1/jobs/a/thumbnails/x"), "name", "path.name"),
        (client.get("/v1/jobs?cursor=x"), "cursor", "query.cursor"),
        (client.get("/v1/jobs/a/events", headers=ids), "Last-Event-ID", "header.Last-Event-ID"),
    ):
        assert (answer.status_code, code_of(answer)) == (422, "bad_option")
        assert answer.json()["detail"] == f"{name}: {SHAPES[name]}."
        assert answer.json()["errors"] == [{"field": field, "reason": SHAPES[name]}]
    broken = client.post("/v1/uploads", content=b"{", headers={"Content-Type": "application/json"})
    assert broken.json()["detail"].startswith("body: it is no JSON (")


def test_a_webhook_is_signed_by_its_owner_s_secret_which_no_answer_tells(api: Served) -> None:
    client, ledger, keys = api.client(), api.service.ledger, api.service.keys
    secret = keys.webhook_secret("ann")
    answer = client.post("/v1/jobs", json=SPEC | {"webhook": "https://hooks.example.com/x"})
    job = answer.json()["id"]
    assert ledger.webhook_secret(job) == secret != ""
    seen = [answer, *(client.get(f"/v1/jobs{rest}") for rest in ("", f"/{job}"))]
    assert client.delete(f"/v1/jobs/{job}").status_code == 200
    ledger.cleaned(job)
    for key in keys.all():
        keys.revoke(key.id)
    seen.append(api.client("root", (Role.ADMIN,)).post(f"/v1/jobs/{job}/retry"))
    assert [each.status_code for each in seen] == [201, 200, 200, 200]
    assert not any(secret in each.text for each in seen)
    assert ledger.webhook_secret(job) == secret


def test_lists_are_newest_first_by_pages_and_states(api: Served) -> None:
    client = api.client()
    for number in range(7):
        api.job(f"job-{number}")
    api.service.ledger.fail("job-3", ErrorCode.TOO_DAMAGED, "Broken.")
    api.job("bobs", "bob")
    first = client.get("/v1/jobs", params={"limit": 4}).json()
    second = client.get("/v1/jobs", params={"limit": 4, "cursor": first["next"]}).json()
    found = [job["id"] for page in (first, second) for job in page["jobs"]]
    assert sorted(found) == [f"job-{number}" for number in range(7)]
    assert second["next"] is None
    failed = client.get("/v1/jobs", params={"state": "failed"}).json()["jobs"]
    assert [(job["id"], job["error"]["code"]) for job in failed] == [("job-3", "too_damaged")]
    assert len(client.get("/v1/jobs", params={"live": True}).json()["jobs"]) == 6
    bad = client.get("/v1/jobs", params={"cursor": "nonsense"})
    assert (bad.status_code, code_of(bad)) == (422, "bad_option")
    both = client.get("/v1/jobs", params={"state": "succeeded", "live": True})
    assert (both.status_code, code_of(both)) == (422, "bad_option")


def test_a_list_shows_ended_jobs_as_they_are_now(api: Served) -> None:
    def listed() -> dict[str, dict[str, object]]:
        return {job["id"]: job for job in client.get("/v1/jobs").json()["jobs"]}

    client, ledger = api.client(), api.service.ledger
    for name in ("again", "gone", "spent"):
        api.job(name)
        ledger.fail(name, ErrorCode.TOO_DAMAGED, "Broken.")
    assert [job["state"] for job in listed().values()] == ["failed"] * 3
    for name in ("again", "gone"):
        ledger.cleaned(name)  # what cleaning up after them ends with
    ledger.submit("again", ledger.spec("again"), "ann")
    ledger.drop("gone")
    ledger.add("spent", cpu_ms_encode=1500.0)
    now = listed()
    assert list(now) == ["again", "spent"]
    assert now["again"]["state"] == "queued"
    assert now["spent"]["cpu_s"] == {"encode": 1.5}
    for job, shown in now.items():
        assert shown == client.get(f"/v1/jobs/{job}").json(), "the list says what the job says"


def test_nobody_sees_or_touches_the_jobs_of_another_owner_but_admins(api: Served) -> None:
    job = api.finished("anns")
    bob, admin = api.client("bob"), api.client("root", (Role.ADMIN,))
    for method, path in (
        ("GET", ""),
        ("DELETE", ""),
        ("POST", "/retry"),
        ("GET", "/events"),
        ("GET", "/result"),
        ("GET", "/report"),
        ("GET", "/tracks"),
        ("GET", "/thumbnails"),
        ("GET", "/thumbnails/000000-000000.jpg"),
        ("GET", "/source"),
    ):
        answer = bob.request(method, f"/v1/jobs/{job}{path}")
        assert (answer.status_code, code_of(answer)) == (404, "not_found"), path
    assert bob.get("/v1/jobs").json()["jobs"] == []
    assert bob.get("/v1/jobs", params={"owner": "ann"}).json()["jobs"] == []
    assert admin.get(f"/v1/jobs/{job}").json()["owner"] == "ann"
    assert [each["id"] for each in admin.get("/v1/jobs").json()["jobs"]] == [job]


def test_cancel_ends_a_job_once_and_says_when_it_is_too_late(api: Served) -> None:
    client = api.client()
    job = api.job("a")
    for _ in range(2):
        answer = client.delete(f"/v1/jobs/{job}")
        assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
        assert answer.json()["error"]["code"] == "cancelled"
    done = client.delete(f"/v1/jobs/{api.finished('b')}")
    assert (done.status_code, code_of(done)) == (409, "conflict")


def test_retry_makes_a_failed_job_again_under_its_id_while_its_source_is_there(
    api: Served,
) -> None:
    client = api.client()
    ledger = api.service.ledger
    job = api.job("a")
    api.service.store.write("jobs/a/source.mp4", [b"x"])
    running = client.post(f"/v1/jobs/{job}/retry")
    assert (running.status_code, code_of(running)) == (409, "conflict")
    assert "wait for its end, or cancel it" in running.json()["detail"]
    done = client.post(f"/v1/jobs/{api.finished('done')}/retry")
    assert (done.status_code, code_of(done)) == (409, "conflict")
    assert "submit another job" in done.json()["detail"]
    ledger.fail(job, ErrorCode.STAGE_FAILED, "Broken.")
    early = client.post(f"/v1/jobs/{job}/retry")
    assert early.status_code == 503  # not cleaned up after yet: in a moment
    assert int(early.headers["retry-after"]) >= 1
    ledger.cleaned(job)
    again = client.post(f"/v1/jobs/{job}/retry")
    assert (again.status_code, again.json()["state"]) == (200, "queued")
    ledger.fail(job, ErrorCode.STAGE_FAILED, "Broken.")
    ledger.cleaned(job)
    api.service.store.delete("jobs/a")
    gone = client.post(f"/v1/jobs/{job}/retry")
    assert (gone.status_code, code_of(gone)) == (409, "conflict")


def test_retry_of_a_cancelled_job_is_for_sources_that_can_be_fetched_again(api: Served) -> None:
    client, ledger = api.client(), api.service.ledger
    sent, fetched = api.job("a"), client.post("/v1/jobs", json=SPEC).json()["id"]
    api.service.store.write("jobs/a/source.mp4", [b"x"])
    for job in (sent, fetched):
        client.delete(f"/v1/jobs/{job}")
    # Before it is cleaned up after: waiting for that would be for nothing.
    gone = client.post(f"/v1/jobs/{sent}/retry")
    assert (gone.status_code, code_of(gone)) == (409, "conflict")
    assert client.post(f"/v1/jobs/{fetched}/retry").status_code == 503
    ledger.cleaned(fetched)
    assert client.post(f"/v1/jobs/{fetched}/retry").json()["state"] == "queued"


def test_a_quota_of_live_jobs_holds(api: Served) -> None:
    client = api.client(most_live=2)
    assert [client.post("/v1/jobs", json=SPEC).status_code for _ in range(3)] == [201, 201, 429]
    refused = client.post("/v1/jobs", json=SPEC)
    assert code_of(refused) == "over_quota"
    assert api.service.ledger.count("ann") == 2
