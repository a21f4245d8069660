"""`docs/api.md` says what the service does."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.coordinator.api.reference import document, operations, render
from services.coordinator.api.reference_words import EXAMPLES, FIELDS, MEANINGS, ROLES
from services.coordinator.webhooks import signature
from shared.errors import ErrorCode
from shared.keys import Role
from shared.names import report_key, thumbnail_folder, tracks_key
from tests.api.conftest import Served
from tests.docs.pages import DOCS, block, blocks

PAGE = DOCS / "api.md"
BASH, CURL = shutil.which("bash"), shutil.which("curl")
VIDEO = b"bytes of a video" * 100


@cache
def openapi() -> dict[str, Any]:
    """Made once: it is the same each time, which a test of its own says."""
    return document()


def test_the_page_is_what_the_code_makes_of_it() -> None:
    assert PAGE.read_text() == render(document()), (
        "run: python -m services.coordinator.api.reference > docs/api.md"
    )


def test_the_same_code_makes_the_same_page() -> None:
    assert render(document()) == render(openapi())


def test_every_route_has_an_example_and_every_code_a_meaning() -> None:
    routes = {route for route, _ in operations(openapi())}
    assert set(EXAMPLES) == routes
    assert set(ROLES) <= routes
    assert set(MEANINGS) == set(ErrorCode)
    count = sum(len(set(methods) - {"head"}) for methods in openapi()["paths"].values())
    assert len(routes) == count  # none is left out for its tag


def test_every_field_of_a_model_is_explained_and_nothing_else_is() -> None:
    fields = {
        f"{name}.{field}": each.get("description")
        for name, model in openapi()["components"]["schemas"].items()
        for field, each in model.get("properties", {}).items()
        if name != "JobOptions"  # a job spec without its source
    }
    assert [name for name, told in fields.items() if not FIELDS.get(name, told)] == []
    assert set(FIELDS) <= set(fields)


def test_a_route_asks_for_the_role_that_the_page_names(api: Served) -> None:
    plain = [role for role in Role if role is not Role.ADMIN]
    nobody = api.with_key(None)
    having = {role: api.client(roles=(role,)) for role in Role}
    lacking = {
        role: api.client(roles=tuple(each for each in plain if each is not role)) for role in Role
    }
    wrong = []
    for route, _ in operations(openapi()):
        method, _, path = route.partition(" ")
        path = re.sub(r"\{\w*id\}", "0" * 32, path).replace("{name}", "000000-000000.jpg")
        body = b"{}" if method in ("POST", "PUT") else None
        needed = ROLES.get(route)
        stranger = nobody.request(method, path, content=body).status_code
        if (stranger == 401) != (route in ROLES):
            wrong.append(f"{route}: {stranger} without a key")
        may = having[needed or Role.READ].request(method, path, content=body).status_code
        if may == 403:
            wrong.append(f"{route}: {may} with {needed}")
        if needed is not None:
            others = lacking[needed].request(method, path, content=body).status_code
            if others != 403:
                wrong.append(f"{route}: {others} without {needed}")
    assert wrong == []


@contextmanager
def shell(api: Served, folder: Path) -> Iterator[dict[str, str]]:
    """Variables of the page's head, and a curl that fails where the service does."""
    _, key = api.service.keys.add("ann", (Role.ADMIN,), per_minute=10_000)
    (folder / "talk.mp4").write_bytes(VIDEO)
    (folder / ".curlrc").write_text('fail-with-body\nsilent\nshow-error\nnoproxy = "*"\n')
    head = block("api.md", "sh", "export AUTH").text
    yield {
        "PATH": os.environ["PATH"],
        "CURL_HOME": str(folder),
        "DUALFACE_API_URL": api.url,
        "DUALFACE_API_KEY": key,
        "HEAD": head,
    }


def run(code: str, folder: Path, variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """A block of the page after its head; any command that fails ends it."""
    script = f"set -euo pipefail\n{variables['HEAD']}\n{code}"
    return subprocess.run(
        [str(BASH), "-c", script],
        cwd=folder,
        env=dict(variables),
        capture_output=True,
        text=True,
        errors="replace",
        timeout=60,
        check=False,
    )


def prepared(api: Served, heading: str, number: int) -> dict[str, str]:
    """What the variables of an example stand for."""
    service, name = api.service, f"job-{number}"
    if heading.startswith("DELETE /v1/jobs"):
        return {"JOB": api.job(name)}
    if heading.endswith("/retry"):
        service.store.write(f"jobs/{api.job(name)}/source.mp4", [VIDEO])
        service.ledger.fail(name, ErrorCode.STAGE_FAILED, "No use.")
        service.ledger.cleaned(name)  # what the coordinator does a moment later
        return {"JOB": name}
    if "/v1/jobs/" in heading:
        service.store.write(report_key(name), [b"{}"])
        service.store.write(tracks_key(name), [GZIP])
        service.store.write(f"{thumbnail_folder(name)}/000000-000000.jpg", [b"picture"])
        return {"JOB": api.finished(name, body=VIDEO)}
    if "{upload_id}" in heading:
        direct = heading.endswith("/complete")
        wanted = {"size_bytes": len(VIDEO), "direct": direct}
        made = api.client().post("/v1/uploads", json=wanted).json()
        found = {"UPLOAD": made["id"]}
        if direct:
            sent = httpx.put(made["parts"][0], content=VIDEO, trust_env=False)
            found["ETAG"] = sent.headers["etag"].strip('"')
        return found
    return {}


GZIP = bytes.fromhex("1f8b0800000000000003030000000000000000000000")[:20]
"""Nothing, packed."""


@pytest.mark.skipif(not BASH or not CURL, reason="no bash or curl; on Debian: apt-get install curl")
def test_every_example_of_the_page_is_answered_as_it_shows(api: Served, tmp_path: Path) -> None:
    tried, failed = 0, []
    with shell(api, tmp_path) as variables:
        for number, each in enumerate(blocks(PAGE, "sh")):
            if "curl" not in each.text:
                continue
            more = prepared(api, each.heading, number)
            done = run(each.text, tmp_path, variables | more)
            tried += each.text.count("curl")
            if done.returncode:
                failed.append(f"line {each.line}: {done.stdout}{done.stderr}")
    assert failed == []
    assert tried >= len(EXAMPLES)
    assert (tmp_path / "talk-split.mp4").read_bytes() == VIDEO
    assert (tmp_path / "head.mp4").read_bytes() == VIDEO[:1024]


def test_the_page_s_python_uploads_in_parts_straight_to_the_store(
    api: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "talk.mp4").write_bytes(VIDEO)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "*")
    _, key = api.service.keys.add("ann", (Role.SUBMIT,))
    names: dict[str, Any] = {"API": api.url, "KEY": key}
    exec(block("api.md", "python", "enumerate(upload").text, names)
    names["client"].close()
    source = names["job"]["spec"]["source"]
    assert b"".join(api.service.store.read(source)) == VIDEO


def test_the_page_s_receiver_takes_our_webhooks_and_no_others(api: Served) -> None:
    key, _ = api.service.keys.add("ann", (Role.READ,))
    kept = key.webhook_secret
    names: dict[str, Any] = {}
    exec(block("api.md", "python", "compare_digest").text, names)
    verified, now, body = names["verified"], int(names["time"].time()), json.dumps({}).encode()

    def headers(at: int, secret: str = kept) -> dict[str, str]:
        made = signature(secret, "job-1", at, body)
        return {"webhook-id": "job-1", "webhook-timestamp": str(at), "webhook-signature": made}

    assert verified(kept, headers(now), body)
    assert not verified(kept, headers(now), body + b" ")
    assert not verified(kept, headers(now, "another"), body)
    assert not verified(kept, headers(now - 3600), body)
