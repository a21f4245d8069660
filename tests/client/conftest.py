"""A served API for the client, a proxy that goes bad in front of it, and an S3 server."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from chaos.proxy import Proxy, proxy_to
from client.api import Client, Patience
from services.coordinator.api.app import make_service
from shared.keys import Role
from shared.redisdb import Connection
from shared.settings import Settings
from tests.api.conftest import EVERYTHING, Served, served
from tests.storage.conftest import bucket, make_s3, s3

__all__ = ["bucket", "make_s3", "s3"]

QUICK = Patience(base_s=0.01, cap_s=0.05, dice=random.Random(1))
"""For tests of what is tried again."""

MakeVideo = Callable[..., Path]


def key_for(api: Served, owner: str = "ann", roles: tuple[Role, ...] = EVERYTHING) -> str:
    """A new key's secret."""
    return api.service.keys.add(owner, roles)[1]


@pytest.fixture(scope="session")
def server(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One API for all tests of the client; `api` empties it for each."""
    settings = Settings(
        redis_url=redis_url,
        state_dir=tmp_path_factory.mktemp("state"),
        source_hosts=("videos.example.com",),
    )
    with served(make_service(settings)) as made:
        yield made


@pytest.fixture
def api(server: Served, redis: Connection) -> Iterator[Served]:
    """A served API that knows nothing yet; in the end it has put down what was asked of it, which
    would else be written into the database of the next test, of whatever file."""
    redis.flushall()
    server.service.store.delete("jobs")
    yield server
    server.settle()


@pytest.fixture
def client(api: Served) -> Iterator[Client]:
    with Client(api.url, key_for(api), patience=QUICK) as made:
        yield made


@pytest.fixture
def proxy(api: Served) -> Iterator[Proxy]:
    address = urlsplit(api.url)
    with proxy_to(str(address.hostname), int(address.port or 0)) as made:
        yield made


@pytest.fixture
def far(api: Served, proxy: Proxy) -> Iterator[Client]:
    """A client whose connections the proxy carries."""
    with Client(f"http://127.0.0.1:{proxy.port}", key_for(api), patience=QUICK) as made:
        yield made


@pytest.fixture
def video(tmp_path: Path) -> MakeVideo:
    """Makes files of random bytes, which the API takes for videos."""

    def make(size: int = 3 << 20, name: str = "talk.mp4") -> Path:
        path = tmp_path / name
        path.write_bytes(random.Random(size).randbytes(size))
        return path

    return make


def stored(api: Served, key: str) -> bytes:
    """An object's bytes."""
    return b"".join(api.service.store.read(key))
