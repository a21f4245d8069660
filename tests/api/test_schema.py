"""The API against its own OpenAPI document: thousands of odd requests, none of them a surprise."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from shared.keys import Role
from tests.api.conftest import Served

CONFIG = """
[[operations]]
include-name = "GET /v1/jobs"
checks.positive_data_acceptance.expected-statuses = ["2xx", "422"]
"""
"""That two parameters exclude each other can't be said in OpenAPI."""


def test_the_document_is_openapi_and_says_what_every_route_may_answer(api: Served) -> None:
    document = api.with_key(None).get("/v1/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            answers = operation["responses"]
            assert operation.get("description") or operation.get("summary"), (method, path)
            for status, answer in answers.items():
                if status.startswith(("4", "5")) and path.startswith("/v1"):
                    assert "application/problem+json" in answer["content"], (method, path, status)
    text = json.dumps(document)
    assert "HTTPValidationError" not in text
    for name in {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert name in document["components"]["schemas"]


@pytest.mark.timeout(300)
def test_odd_requests_get_the_answers_that_the_document_promises(
    api: Served, tmp_path: Path
) -> None:
    _, secret = api.service.keys.add("ann", (Role.ADMIN,), per_minute=1_000_000, most_live=0)
    api.finished("talk")
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{api.url}/v1/openapi.json"),
        *("--header", f"Authorization: Bearer {secret}"),
        *("--phases", "fuzzing", "--checks", "all", "--max-examples", "5", "--seed", "1"),
        *("--generation-database", "none", "--no-color"),
    ]
    ended = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False
    )
    assert ended.returncode == 0, ended.stdout[-6000:] + ended.stderr[-2000:]
