"""Who may do what: for every route that there is."""

from __future__ import annotations

import re

import httpx
import pytest

from services.coordinator.api.app import make_app
from shared.keys import KEYS, Keys, Role
from shared.redisdb import Connection
from tests.api.conftest import Served

OPEN = {"/", "/page/{name}", "/healthz", "/readyz", "/v1/session", "/v1/openapi.json"}
"""Without a key: nothing of anybody is in them. (`POST /v1/session` brings a key.)"""

NEEDS = {
    ("POST", "/v1/jobs"): Role.SUBMIT,
    ("DELETE", "/v1/jobs/{job_id}"): Role.SUBMIT,
    ("POST", "/v1/jobs/{job_id}/retry"): Role.SUBMIT,
    ("POST", "/v1/uploads"): Role.SUBMIT,
    ("PUT", "/v1/uploads/{upload_id}/content"): Role.SUBMIT,
    ("POST", "/v1/uploads/{upload_id}/complete"): Role.SUBMIT,
    ("DELETE", "/v1/uploads/{upload_id}"): Role.SUBMIT,
    ("GET", "/v1/jobs"): Role.READ,
    ("GET", "/v1/jobs/{job_id}"): Role.READ,
    ("GET", "/v1/jobs/{job_id}/events"): Role.READ,
    ("GET", "/v1/jobs/{job_id}/result"): Role.READ,
    ("GET", "/v1/jobs/{job_id}/source"): Role.READ,
    ("GET", "/v1/jobs/{job_id}/report"): Role.READ,
    ("GET", "/v1/jobs/{job_id}/tracks"): Role.READ,
    ("GET", "/v1/jobs/{job_id}/thumbnails"): Role.READ,
    ("GET", "/v1/jobs/{job_id}/thumbnails/{name}"): Role.READ,
    ("GET", "/v1/system"): Role.ADMIN,
    ("GET", "/metrics"): Role.METRICS,
}


def routes(api: Served) -> set[tuple[str, str]]:
    """Every method and path that is served."""
    found = set()
    waiting = list(make_app(api.service).routes)
    while waiting:
        route = waiting.pop()
        waiting += getattr(getattr(route, "original_router", None), "routes", ())
        for method in getattr(route, "methods", ()) or ():
            found.add((method, str(getattr(route, "path", ""))))
    return found


def ask(client: httpx.Client, method: str, path: str) -> httpx.Response:
    """A request that means nothing but finds the route."""
    path = path.replace("{upload_id}", "0" * 32).replace("{name}", "000000-000000.jpg")
    path = re.sub(r"\{\w+\}", "job", path)
    return client.request(method, path, json={} if method in ("POST", "PUT") else None)


def test_every_route_needs_a_key_with_the_right_role(api: Served) -> None:
    served = {(m, p) for m, p in routes(api) if p not in OPEN and m != "OPTIONS"}
    heads = {("HEAD", p): NEEDS["GET", p] for m, p in served if m == "HEAD"}
    assert served - set(heads) == set(NEEDS), "a route without a rule here"
    nobody, wrong = api.with_key(None), api.with_key("df_wrong")
    for (method, path), role in (NEEDS | heads).items():
        others = tuple(each for each in Role if each not in (role, Role.ADMIN))
        refused = ask(api.client(f"no-{role.value}", others), method, path)
        allowed = ask(api.client(f"has-{role.value}", (role,)), method, path)
        assert ask(nobody, method, path).status_code == 401, (method, path)
        assert ask(wrong, method, path).status_code == 401, (method, path)
        assert refused.status_code == 403, (method, path)
        assert allowed.status_code not in (401, 403), (method, path)


def test_who_gives_no_key_and_who_gives_a_wrong_one_are_told_so(api: Served) -> None:
    key, secret = api.service.keys.add("ann", (Role.READ,))
    browser = api.with_key(None)
    browser.post("/v1/session", json={"key": secret})
    assert api.service.keys.revoke(key.id)
    for answer, says in (
        (api.with_key(None).get("/v1/jobs"), "Give an API key"),
        (api.with_key(secret).get("/v1/jobs"), "unknown or was revoked"),
        (api.with_key(None).post("/v1/session", json={"key": secret}), "unknown or was revoked"),
        (browser.get("/v1/jobs"), "session has ended"),
    ):
        assert answer.status_code == 401
        assert says in answer.json()["detail"]


def test_keys_are_kept_by_hash_only_and_end_with_their_sessions_when_revoked(
    api: Served, redis: Connection
) -> None:
    keys = Keys(redis)
    record, secret = keys.add("ann", (Role.READ,))
    kept = "".join(f"{k} {v}" for k, v in redis.hgetall(KEYS).items())
    assert secret not in kept
    assert record.id in kept
    browser = api.with_key(None)
    began = browser.post("/v1/session", json={"key": secret})
    assert began.json() == {"owner": "ann", "roles": ["read"]}
    cookie = began.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert secret.lower() not in cookie
    assert browser.get("/v1/jobs").status_code == 200
    assert keys.revoke(record.id)
    assert not keys.revoke(record.id)
    assert browser.get("/v1/jobs").status_code == 401
    assert api.with_key(secret).get("/v1/jobs").status_code == 401


def test_another_sites_page_can_not_use_a_browsers_session_to_write(api: Served) -> None:
    _, secret = api.service.keys.add("ann", (Role.SUBMIT, Role.READ))
    browser = api.with_key(None)
    browser.post("/v1/session", json={"key": secret})
    job = api.job("a")
    foreign = browser.delete(f"/v1/jobs/{job}", headers={"Origin": "https://evil.example"})
    assert foreign.status_code == 403
    assert api.service.ledger.is_live(job)
    own = browser.delete(f"/v1/jobs/{job}", headers={"Origin": api.url})
    assert own.status_code == 200


def test_requests_beyond_a_keys_rate_are_refused_and_others_are_not(api: Served) -> None:
    slow, other = api.client(per_minute=3), api.client("bob")
    answers = [slow.get("/v1/jobs") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert answers[-1].json()["code"] == "too_many_requests"
    assert "retry-after" in answers[-1].headers
    assert other.get("/v1/jobs").status_code == 200


def test_guessing_keys_is_slowed_down(api: Served) -> None:
    guesser = api.with_key("df_guess")
    codes = [guesser.get("/v1/jobs").status_code for _ in range(70)]
    assert codes[0] == 401
    assert codes[-1] == 429
    asked = [
        guesser.post("/v1/session", json={"key": f"df_{number}"}).status_code for number in range(3)
    ]
    assert asked == [429, 429, 429]


@pytest.mark.parametrize("owner", ["", "Ann", "a b", "../x", "a" * 64, "-x"])
def test_owners_have_plain_names(redis: Connection, owner: str) -> None:
    with pytest.raises(Exception, match="owner"):
        Keys(redis).add(owner, (Role.READ,))


def test_answers_carry_headers_that_keep_browsers_careful(api: Served) -> None:
    answer = api.with_key(None).get("/healthz")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert "server" not in answer.headers
