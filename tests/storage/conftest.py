"""A real S3 server for the whole run, and stores on it."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from chaos.proxy import Proxy, proxy_to
from shared.settings import Settings
from shared.storage import open_store
from shared.storage.s3 import S3Store
from tests.servers import S3Server, s3_server


class MakeS3(Protocol):
    """Opens a store on the server: in a bucket of the test's own, by the settings given."""

    def __call__(
        self,
        *,
        patience_s: float = 30.0,
        on_wait: Callable[[], None] = lambda: None,
        **settings: object,
    ) -> S3Store: ...


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def bucket() -> str:
    return f"test-{secrets.token_hex(6)}"


@pytest.fixture
def make_s3(s3: S3Server, bucket: str, tmp_path: Path) -> MakeS3:
    def make(
        *,
        patience_s: float = 30.0,
        on_wait: Callable[[], None] = lambda: None,
        **settings: object,
    ) -> S3Store:
        chosen = {"state_dir": tmp_path / "state", **s3.settings(bucket, "a prefix"), **settings}
        made = open_store(Settings.model_validate(chosen), patience_s=patience_s, on_wait=on_wait)
        assert isinstance(made, S3Store)
        return made

    return make


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[Proxy]:
    with proxy_to(s3.host, s3.port) as made:
        yield made
