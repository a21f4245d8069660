"""Facts about the verdict: alive, ready, and why not."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from celery.worker import state
from kombu.transport.redis import Channel

from shared.errors import PermanentError
from shared.health import server
from shared.health.port import VARIABLE, http_port
from shared.health.server import HealthServer
from shared.health.vitals import RedisSight, Verdict, Vitals
from shared.queues import consuming
from shared.queues.consuming import ASKED_AT, Lookout, look
from shared.settings import Settings
from tests.logged import ours
from tests.servers import free_port

FINE = RedisSight(silent_s=0.5, steady_s=1e6)


@dataclass
class Clock:
    """Seconds, set by hand."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Process:
    """A worker's signs by a clock that is set by hand."""

    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.vitals = Vitals("loop", "fetch", patience_s=60, clock=self.clock)

    def after(self, seconds: float, *signs: str, redis: RedisSight = FINE) -> Verdict:
        """The verdict when `seconds` went by and then `signs` were seen."""
        self.clock.now += seconds
        for sign in signs:
            self.vitals.seen(sign)  # type: ignore[arg-type]
        return self.vitals.verdict(redis)


def test_a_process_that_starts_is_alive_and_not_ready() -> None:
    process = Process()
    assert process.after(10) == Verdict(True, False, ("It starts.",))
    assert process.after(10, "loop") == Verdict(True, False, ("It starts.",))
    assert process.after(1, "loop", "fetch") == Verdict(True, True, ())


def test_a_process_that_never_comes_up_is_not_alive() -> None:
    assert not Process().after(61).alive


@pytest.mark.parametrize(
    ("still", "words"), [("loop", "its loop has stood still"), ("fetch", "asked its queues")]
)
def test_a_process_that_does_not_get_on_is_not_ready_at_once_and_not_alive_in_the_end(
    still: str, words: str
) -> None:
    process = Process()
    other = {"loop": "fetch", "fetch": "loop"}[still]
    assert process.after(0, "loop", "fetch").ready
    soon = process.after(10, other)
    assert (soon.alive, soon.ready) == (True, False)
    late = process.after(51, other)
    assert (late.alive, late.ready) == (False, False)
    assert len(late.reasons) == 1
    assert words in late.reasons[0]
    assert "61 s" in late.reasons[0]


def test_while_redis_is_away_nobody_counts_as_dead_and_then_has_time_to_find_it_again() -> None:
    process = Process()
    process.after(0, "loop", "fetch")
    away = process.after(600, redis=RedisSight(silent_s=590, steady_s=0))
    assert (away.alive, away.ready) == (True, False)
    assert "Redis" in away.reasons[0]
    back = process.after(30, redis=RedisSight(silent_s=0.5, steady_s=30))
    assert (back.alive, back.ready) == (True, False)
    assert not process.after(31, redis=RedisSight(silent_s=0.5, steady_s=61)).alive


def test_who_comes_to_its_end_takes_no_more_work_and_is_not_ended_for_that() -> None:
    process = Process()
    process.after(0, "loop", "fetch")
    process.vitals.draining = True
    assert process.after(600) == Verdict(True, False, ("It comes to its end.",))


# --- the signs of a Celery worker -----------------------------------------------------------------


def consumer(asked_s: float, pids: list[int]) -> SimpleNamespace:
    """What `look` sees of Celery's consumer; the real one is in test_health."""
    channel = SimpleNamespace(**{ASKED_AT: asked_s})
    pool = SimpleNamespace(info={"processes": pids})
    return SimpleNamespace(task_consumer=SimpleNamespace(channel=channel), pool=pool)


@pytest.fixture
def alive() -> Iterator[subprocess.Popen[bytes]]:
    """A process that waits."""
    process = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    yield process
    process.kill()
    process.wait()
    assert process.stdin is not None
    process.stdin.close()


def signs(watched: SimpleNamespace, processes: int = 1) -> set[str]:
    """Which signs of life `look` finds."""
    vitals = Vitals("loop", "fetch", "children", patience_s=60)
    look(watched, processes, vitals)
    return {sign for sign, at in vitals._seen.items() if at > 0}


def test_a_worker_that_asks_its_queues_consumes(alive: subprocess.Popen[bytes]) -> None:
    now = time.monotonic()
    assert signs(consumer(now, [alive.pid])) == {"loop", "fetch", "children"}
    assert signs(consumer(now - 60, [alive.pid])) == {"loop", "children"}


def test_a_worker_that_is_busy_need_not_ask(alive: subprocess.Popen[bytes]) -> None:
    class Request:
        """As Celery's: it knows who works on it."""

        worker_pid = alive.pid

    long_ago, request = time.monotonic() - 60, Request()
    state.active_requests.add(request)
    try:
        assert "fetch" in signs(consumer(long_ago, [alive.pid]), processes=1)
        assert "fetch" not in signs(consumer(long_ago, [alive.pid]), processes=2)
        alive.kill()
        alive.wait()
        assert "fetch" not in signs(consumer(long_ago, [alive.pid]), processes=1)
    finally:
        state.active_requests.discard(request)


def test_a_worker_misses_a_process_that_is_gone_or_was_never_replaced(
    alive: subprocess.Popen[bytes],
) -> None:
    now = time.monotonic()
    assert "children" not in signs(consumer(now, [alive.pid]), processes=2)
    alive.kill()  # and not waited for: its process id is still there
    alive.poll()
    alive.wait()
    assert "children" not in signs(consumer(now, [alive.pid]))


def test_kombu_still_says_when_it_asked() -> None:
    """If this fails, kombu's Redis transport has changed: look for what `ASKED_AT` is called now.
    Until then workers that forgot their queues are not noticed."""
    assert hasattr(Channel, ASKED_AT)
    unknown = consumer(0, [])
    delattr(unknown.task_consumer.channel, ASKED_AT)
    assert "fetch" in signs(unknown)  # and no worker is ended for that


# --- ending oneself -------------------------------------------------------------------------------


@dataclass
class Redis:
    """Answers or does not."""

    there: bool = True
    asked: int = 0

    def answers(self) -> bool:
        self.asked += 1
        return self.there


@dataclass
class Watched:
    """A worker that asked its queues last when it began, and what its lookout does."""

    clock: Clock = field(default_factory=Clock)
    redis: Redis = field(default_factory=Redis)
    ended: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        vitals = Vitals("loop", "fetch", patience_s=60, clock=self.clock)
        self.lookout = Lookout(0, vitals, self.redis.answers, self.clock)

    def after(self, seconds: int, *, asks: bool = False) -> list[int]:
        """How it ended, if it did, within so many seconds with a look at each."""
        for _ in range(seconds):
            self.clock.now += 1
            self.lookout.look(consumer(time.monotonic() - (0 if asks else 60), []))
        return self.ended


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    """Idle but for what it is said to ask."""
    made = Watched()
    monkeypatch.setattr(consuming, "is_busy", lambda _: False)
    monkeypatch.setattr(os, "_exit", made.ended.append)
    return made


def test_a_worker_that_takes_no_more_work_ends_itself(watched: Watched) -> None:
    assert watched.after(120) == []
    assert set(watched.after(2)) == {os.EX_UNAVAILABLE}


def test_nobody_ends_for_work_that_comes_again(watched: Watched) -> None:
    watched.after(100)
    assert watched.after(60, asks=True) == []
    assert watched.after(119) == []


def test_nobody_ends_while_redis_is_away(watched: Watched) -> None:
    watched.redis.there = False
    assert watched.after(1000) == []
    watched.redis.there = True
    assert watched.after(60) == []  # it has as long again to find it
    assert watched.after(2) != []


def test_redis_is_asked_only_when_there_is_a_suspicion(watched: Watched) -> None:
    watched.after(100, asks=True)
    assert watched.redis.asked == 0


# --- ports ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["", "0", "9464"])
def test_the_command_and_the_settings_agree_about_the_port(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    if value:
        monkeypatch.setenv(VARIABLE, value)
    assert Settings().http_port == http_port() == int(value or 0)


def test_a_port_that_is_taken_is_said_to_be() -> None:
    settings = Settings(http_port=free_port())
    fine = Verdict(True, True, ())
    first = HealthServer(settings, lambda: fine)
    try:
        with pytest.raises(PermanentError, match="DUALFACE_HTTP_PORT"):
            HealthServer(settings, lambda: fine)
    finally:
        first.let_go()


def test_who_hangs_up_before_the_answer_is_no_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked, gone, over = threading.Event(), threading.Event(), threading.Event()
    handle_error = server._Server.handle_error

    def handled(self: server._Server, request: object, address: object) -> None:
        handle_error(self, request, address)
        over.set()

    def judge() -> Verdict:
        asked.set()
        assert gone.wait(60)
        return Verdict(True, True, ())

    monkeypatch.setattr(server._Server, "handle_error", handled)
    port = free_port()
    made = HealthServer(Settings(http_port=port), judge)
    made.start()
    try:
        with socket.create_connection(("127.0.0.1", port), 60) as client:
            client.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
            assert asked.wait(60)
            # It goes at once, whatever is still on its way to it.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.set()
        assert over.wait(60)
    finally:
        made.close()
    assert ours(caplog) == []
