"""The stack under attack: `dualface up` in a home of its own, and a client's way to its jobs."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from chaos.proxy import Fault, Proxy
from shared.jobs import JobSpec
from shared.leases import Leases
from shared.ledger import JobView, Ledger
from shared.names import source_key
from shared.redisdb import Connection, RedisError, connect
from shared.settings import Settings
from shared.storage import open_store
from shared.storage.base import ObjectStore
from tests.system.runs import Home, Running
from tests.waiting import wait_until

START_S = 90.0
STAGES = ("decode", "infer", "compose", "encode")


@dataclass
class Cluster:
    """One machine's stack. It may be dead at any moment; whoever asks must expect that."""

    home: Home
    proxy: Proxy | None = None
    """In front of its object store, where that is a server."""
    command: Running | None = None
    starts: int = 0
    _redis: Connection | None = field(default=None, repr=False)

    def start(self) -> None:
        """Start the stack, wait until it takes work."""
        self._redis = None
        self.starts += 1
        self.command = self.home.start("up")
        wait_until(self.is_up, f"the stack is up: {self.command.said()}", START_S)

    def is_up(self) -> bool:
        """True when clients may come."""
        assert self.command is not None
        if self.command.process.poll() is not None:
            raise AssertionError(f"the stack has ended: {self.command.said()}")
        return "is up" in self.command.out.read_text()

    def stop(self) -> None:
        """Ask the stack to end, and see that it does."""
        assert self.command is not None
        self.command.process.send_signal(signal.SIGTERM)
        self.command.wait()

    def kill(self) -> None:
        """End every process at once, as a machine does that loses power."""
        for process in self.home.processes():
            with _alive():
                process.kill()
        assert self.command is not None
        self.command.process.wait(timeout=30)
        self.home.wait_until_all_gone()

    @property
    def redis(self) -> Connection:
        """A connection. Raises OSError while there is no stack."""
        if self._redis is None:
            self._redis = connect(self._facts()["redis_url"])
        return self._redis

    @property
    def ledger(self) -> Ledger:
        """The ledger of the running stack."""
        return Ledger(self.redis, 3600, 4)

    @property
    def leases(self) -> Leases:
        """Its leases."""
        return Leases(self.redis, 20)

    def heal(self) -> None:
        """The store works again, if it did not."""
        if self.proxy is not None:
            self.proxy.set(Fault())

    @property
    def store(self) -> ObjectStore:
        """Its store, there also while the stack is down."""
        mine = {
            name.removeprefix("DUALFACE_").lower(): value
            for name, value in self.home.environment().items()
            if name.startswith(("DUALFACE_STORE", "DUALFACE_S3_", "DUALFACE_STATE_DIR"))
        }
        return open_store(Settings.model_validate(mine))

    def submit(self, job: str, video: Path, priority: int) -> None:
        """As a client would."""
        wait_until(lambda: not self.ledger.is_ending(job), f"{job} has been cleaned up after")
        key = source_key(job, video.suffix)
        if not self.store.exists(key):
            self.store.adopt(key, video)
        self.ledger.submit(job, JobSpec(source=key, name=video.name, priority=priority))

    def submit_by_api(self, name: str, video: Path, priority: int) -> str:
        """Over REST; the job's id. The same `name` is the same job, however often it is sent.

        Raises httpx.HTTPError when it did not get through.
        """
        facts = self._facts()
        with video.open("rb") as file:
            answer = httpx.post(
                f"{facts['api_url']}/v1/jobs",
                headers={"Authorization": f"Bearer {facts['api_key']}", "Idempotency-Key": name},
                data={"spec": json.dumps({"priority": priority})},
                files={"file": (video.name, file)},
                timeout=10,
            )
        answer.raise_for_status()
        return str(answer.json()["id"])

    def _facts(self) -> dict[str, str]:
        found = json.loads((self.home.state / "stack.json").read_text())
        return {str(name): str(value) for name, value in found.items()}

    def view(self, job: str) -> JobView | None:
        """How the job stands."""
        return self.ledger.view(job)

    def children(self) -> list[psutil.Process]:
        """The processes that do the stages' work."""
        found = []
        for stage in STAGES:
            with _alive():
                found += self.home.worker(stage).children()
        return found

    def descriptors(self) -> dict[str, int]:
        """Open files of the processes that stay."""
        counts = {}
        for name in ("coordinator", "arena", "api"):
            with _alive():
                counts[name] = self.home.worker(name).num_fds()
        return counts


@contextmanager
def _alive() -> Iterator[None]:
    """For what may be gone by now."""
    try:
        yield
    except (psutil.Error, AssertionError):
        return


def settled(what: Cluster, seconds: float) -> bool:
    """Wait until Redis answers again; False when it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            what.redis.ping()
        except (RedisError, OSError, ValueError):
            time.sleep(0.2)
        else:
            return True
    return False
