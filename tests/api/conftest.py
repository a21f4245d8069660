"""A served API on a real socket, with a real Redis and a store in a folder."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import uvicorn

from services.coordinator.api.app import make_app, make_service
from services.coordinator.api.service import Service
from shared.jobs import JobSpec
from shared.keys import Role
from shared.ledger import JobResult
from shared.names import result_key
from shared.redisdb import Connection
from shared.settings import Settings
from tests.waiting import wait_until

EVERYTHING = (Role.SUBMIT, Role.READ)


@dataclass
class Served:
    """An API and ways to speak to it."""

    url: str
    service: Service
    _server: uvicorn.Server
    _clients: list[httpx.Client] = field(default_factory=list)

    def client(
        self, owner: str = "ann", roles: tuple[Role, ...] = EVERYTHING, **limits: int
    ) -> httpx.Client:
        """A client with a new key of its own."""
        _, secret = self.service.keys.add(owner, roles, **limits)
        return self.with_key(secret)

    def with_key(self, secret: str | None) -> httpx.Client:
        """A client with this key, or none."""
        headers = {} if secret is None else {"Authorization": f"Bearer {secret}"}
        made = httpx.Client(base_url=self.url, headers=headers, timeout=30)
        self._clients.append(made)
        return made

    def job(self, name: str, owner: str = "ann") -> str:
        """A queued job, entered as any client would."""
        spec = JobSpec(source=f"jobs/{name}/source.mp4", name=f"{name}.mp4")
        self.service.ledger.submit(name, spec, owner)
        return name

    def finished(self, name: str, owner: str = "ann", body: bytes = b"video") -> str:
        """A job that has succeeded; its result is `body`."""
        key = result_key(self.job(name, owner), "mp4")
        self.service.store.write(key, [body])
        self.service.ledger.finish(name, JobResult(key=key, frames=3))
        return name

    def close(self) -> None:
        """Hang up."""
        for client in self._clients:
            client.close()
        self._clients.clear()

    def settle(self) -> None:
        """Hang up, and wait for the end of what is still being answered, if to nobody."""
        self.close()
        state = self._server.server_state
        wait_until(lambda: not (state.connections or state.tasks), "nothing is asked", 60)


@contextmanager
def served(service: Service) -> Iterator[Served]:
    """Serve on a free port."""
    # With its protocol named, asyncio sends answers at once (TCP_NODELAY), as uvicorn's own does.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen(64)
    config = uvicorn.Config(
        make_app(service),
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=2,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    made = Served(f"http://127.0.0.1:{listener.getsockname()[1]}", service, server)
    try:
        wait_until(lambda: server.started or not thread.is_alive(), "the API serves")
        assert server.started
        yield made
    finally:
        made.close()
        server.should_exit = True
        thread.join(timeout=60)
        listener.close()
        assert not thread.is_alive()


@pytest.fixture
def settings(redis: Connection, redis_url: str, tmp_path: Path) -> Settings:  # noqa: ARG001 - empty
    """Of the served API; sources may come from one host and one bucket."""
    return Settings(
        redis_url=redis_url,
        state_dir=tmp_path,
        source_hosts=("videos.example.com",),
        s3_buckets=("allowed",),
    )


@pytest.fixture
def api(settings: Settings) -> Iterator[Served]:
    """The API."""
    with served(make_service(settings)) as made:
        yield made
