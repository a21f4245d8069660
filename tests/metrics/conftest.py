"""Processes that answer for their health, and a Redis server that may be taken away."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from client.children import Child
from client.stack import start_server, stop_server
from shared.health.__main__ import ask
from shared.messages import SplitMessage
from shared.queues import CeleryOutbox, make_app
from shared.redisdb import connect
from shared.settings import Settings
from tests.metrics.stage import DONE, QUEUE, TASK
from tests.processes import kill_family
from tests.servers import free_port
from tests.waiting import wait_until

PROJECT = Path(__file__).parents[2]
PATIENCE_S = 40.0


@dataclass(frozen=True)
class Server:
    """A Redis server of a test's own, so that it may be killed and frozen."""

    child: Child
    url: str

    @property
    def process(self) -> psutil.Process:
        """As it runs now."""
        assert self.child.handle is not None
        return psutil.Process(self.child.handle.pid)


@dataclass(frozen=True)
class Answering:
    """A process that answers on `port`."""

    process: psutil.Process
    port: int
    url: str
    environment: dict[str, str]

    def ask(self, path: str) -> tuple[bool, dict[str, object]]:
        """200 or not, and the body; (False, {}) while nobody answers."""
        try:
            ok, body = ask(self.port, path)
            return ok, dict(json.loads(body))
        except (OSError, ValueError):
            return False, {}

    def alive(self) -> bool:
        """What `/healthz` says."""
        return self.ask("/healthz")[0]

    def ready(self) -> bool:
        """What `/readyz` says."""
        return self.ask("/readyz")[0]

    def reasons(self) -> str:
        """Why not, if not."""
        return str(self.ask("/readyz")[1].get("reasons"))

    def metrics(self) -> str:
        """What `/metrics` says."""
        ok, body = ask(self.port, "/metrics")
        assert ok
        return body.decode()

    def command(self) -> subprocess.CompletedProcess[str]:
        """`python -m shared.health` beside it."""
        return subprocess.run(
            [sys.executable, "-m", "shared.health"],
            env=self.environment,
            cwd=PROJECT,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    def does(self, job: str) -> bool:
        """True once the worker has done a task that is sent now."""
        body = SplitMessage(job=job).model_dump(mode="json")
        CeleryOutbox(make_app(self.url)).send_body(TASK, body, QUEUE)
        redis = connect(self.url)
        try:
            wait_until(lambda: job in redis.lrange(DONE, 0, -1), f"{job} is done", PATIENCE_S)
        finally:
            redis.close()
        return True


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for the tests of a module; each leaves it running."""
    folder = tmp_path_factory.mktemp("redis")
    (folder / "logs").mkdir()
    child, url = start_server(Settings(state_dir=folder), folder / "logs")
    try:
        yield Server(child, url)
    finally:
        stop_server(child)


@contextmanager
def answering(module: str, url: str, folder: Path, **settings: str) -> Iterator[Answering]:
    """`python -m MODULE` that answers; killed with its children at the end."""
    port = free_port()
    chosen = {"REDIS_URL": url, "STATE_DIR": str(folder), "HTTP_PORT": str(port), **settings}
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DUALFACE_")}
    environment |= {f"DUALFACE_{name}": value for name, value in chosen.items()}
    with (folder / "process.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", module], env=environment, stdout=log, stderr=log, cwd=PROJECT
        )
    try:
        yield Answering(psutil.Process(process.pid), port, url, environment)
    finally:
        kill_family(process)
