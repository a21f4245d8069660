"""A served API as the pages' examples expect it: objects in S3, one host that sources come from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from services.coordinator.api.app import make_service
from shared.redisdb import Connection
from shared.settings import Settings
from tests.api.conftest import Served, served
from tests.servers import s3_server


@pytest.fixture
def api(redis: Connection, redis_url: str, tmp_path: Path) -> Iterator[Served]:  # noqa: ARG001
    """The API."""
    with s3_server(tmp_path) as s3:
        settings = {
            "redis_url": redis_url,
            "state_dir": tmp_path / "state",
            "source_hosts": ("videos.example.com",),
            **s3.settings("dualface"),
        }
        with served(make_service(Settings.model_validate(settings))) as made:
            yield made
