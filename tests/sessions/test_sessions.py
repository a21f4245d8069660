"""Facts about the right to hold a session open, among real processes on a real server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from shared import sessions
from shared.errors import (
    DeferredError,
    EngineBusyError,
    EngineError,
    ErrorCode,
    RedisAwayError,
    TemporaryError,
    WorkOverError,
)
from shared.guard import Guard
from shared.leases import Lease, Leases, Occupancy
from shared.redisdb import Connection, connect
from shared.sessions import SessionKind, SessionNeed, Sessions, thing_of
from shared.settings import Settings
from tests.conftest import PROJECT
from tests.leases.clock import pass_time
from tests.sessions.driver import GPU, Driver
from tests.waiting import wait_until

THING = "sessions:nvenc:here"


class Engine:
    """What keeps a session open."""

    def __init__(self) -> None:
        self.need = SessionNeed(SessionKind.NVENC, GPU, self.close)
        self.closed = 0

    def close(self) -> None:
        """Count it."""
        self.closed += 1


class Worker:
    """A process's part in it: its sessions, and an engine."""

    def __init__(self, url: str, name: str, **settings: object) -> None:
        chosen = {"host": "here", "lease_s": 30, "nvenc_sessions": 1, **settings}
        self.settings = Settings.model_validate(chosen)
        self.guard = Guard(is_draining=lambda: self.draining)
        self.leases = Leases(connect(url), self.settings.lease_s)
        self.draining = False
        self.live = True
        self.engine = Engine()
        self.sessions = Sessions(self.leases, self.settings, name, self.guard, lambda _: self.live)

    def hold(self, then: Callable[[], object] = lambda: None) -> None:
        """Hold the engine's session for as long as `then` takes."""
        with self.sessions.hold(self.engine.need, "j") as check:
            then()
            check()

    def look(self) -> Occupancy:
        return self.leases.look(THING)


Make = Callable[..., Worker]


@pytest.fixture
def make(redis: Connection, redis_url: str) -> Iterator[Make]:  # noqa: ARG001 - an empty server
    """Workers, numbered; what they keep is given back at the end."""
    made: list[Worker] = []

    def another(**settings: object) -> Worker:
        made.append(Worker(redis_url, f"w{len(made)}", **settings))
        return made[-1]

    yield another
    for worker in made:
        worker.sessions.close()


class Clock:
    """Instead of `time` in this process: it goes on when a test says so."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(sessions, "time", made)
    return made


def renewals(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Lease], list[bool]]:
    """What the worker asks to be renewed from now on, and the answers."""
    renew, asked, answers = worker.leases.renew, list[Lease](), list[bool]()

    def renewed(lease: Lease) -> bool:
        asked.append(lease)
        answers.append(renew(lease))
        return answers[-1]

    monkeypatch.setattr(worker.leases, "renew", renewed)
    return asked, answers


@contextmanager
def waiting(worker: Worker, number: int = 1) -> Iterator[Future[None]]:
    """`worker` waits, as the `number`-th, for a session that another has."""
    with ThreadPoolExecutor() as pool:
        future = pool.submit(worker.hold)
        wait_until(lambda: worker.look().waiting == number or future.done(), "it waits")
        yield future


@pytest.mark.usefixtures("redis")
def test_never_are_more_sessions_open_than_allowed(redis_url: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.sessions.crowd", redis_url, str(tmp_path), "3"]
    ran = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=100)
    assert (ran.stdout.split(), ran.stderr) == (["96", "0"], "")
    assert Driver(tmp_path / "driver", 3).free() == 3


def test_a_killed_holders_session_is_free_within_its_lease(
    make: Make, redis: Connection, redis_url: str, tmp_path: Path
) -> None:
    program = ["-m", "tests.sessions.crowd", redis_url, str(tmp_path), "1", "hold"]
    command = [sys.executable, *program]
    with subprocess.Popen(
        command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"holds\n"
        heir = make(host="", lease_s=30)
        driver = Driver(tmp_path / "driver", 1)
        assert driver.free() == 0
        with ThreadPoolExecutor() as pool:
            served = pool.submit(heir.hold, lambda: driver.close(driver.open()))
            wait_until(lambda: heir.leases.look(thing(heir)).waiting == 1, "the heir waits")
            holder.kill()
            holder.wait()
            pass_time(redis, heir.leases, thing(heir), 30)
            served.result(timeout=60)


def thing(worker: Worker) -> str:
    return thing_of(worker.settings, SessionKind.NVENC, GPU)


def test_what_is_limited_is_a_gpu_a_host_or_the_whole_cluster() -> None:
    def named(kind: SessionKind, scope: str) -> str:
        settings = Settings.model_validate({"host": "h", "nvenc_scope": scope})
        return thing_of(settings, kind, "GPU-7")

    scopes = [named(SessionKind.NVENC, scope) for scope in ("gpu", "host", "cluster")]
    assert scopes == ["sessions:nvenc:GPU-7", "sessions:nvenc:h", "sessions:nvenc:cluster"]
    assert named(SessionKind.NVDEC, "cluster") == "sessions:nvdec:GPU-7"
    assert thing_of(Settings(host=""), SessionKind.NVENC, "g") == thing_of(
        Settings(host=""), SessionKind.NVENC, "other"
    )


def test_a_session_is_kept_for_the_next_piece_of_work(make: Make) -> None:
    worker = make()
    worker.hold()
    before = worker.look().leases
    worker.hold()
    assert worker.look().leases == before
    assert worker.engine.closed == 0


def test_another_engine_of_the_process_gets_the_unit_and_no_second_one(make: Make) -> None:
    worker, other = make(), Engine()
    worker.hold()
    with worker.sessions.hold(other.need, "j"):
        assert (worker.engine.closed, worker.look().used) == (1, 1)


def test_an_idle_session_is_closed_and_given_back(make: Make) -> None:
    worker = make(session_idle_s=0.2)
    worker.hold()
    wait_until(lambda: worker.look().used == 0, "it was given back")
    assert worker.engine.closed == 1


def test_an_idle_session_goes_to_who_waits_for_it(make: Make) -> None:
    keeper, other = make(), make()
    keeper.hold()
    other.hold()
    assert keeper.engine.closed == 1


def test_who_works_without_a_break_lets_others_in(make: Make) -> None:
    busy, other = make(), make()
    inside, go_on = threading.Event(), threading.Event()

    def work() -> None:
        inside.set()
        assert go_on.wait(60)

    with ThreadPoolExecutor() as pool:
        held = pool.submit(busy.hold, work)
        assert inside.wait(60)
        with waiting(other) as served:
            go_on.set()
            held.result(timeout=60)
            assert busy.engine.closed == 1
            served.result(timeout=60)


def test_more_sessions_at_run_time_wake_who_waits_and_outlast_restarts(make: Make) -> None:
    holder, other = make(), make()
    with holder.sessions.hold(holder.engine.need, "j"), waiting(other) as served:
        holder.leases.resize(THING, 2)
        served.result(timeout=60)
    make().hold()  # a process that starts later, with the old setting
    assert holder.look().capacity == 2


def test_waiting_ends_with_the_job_and_when_the_worker_drains(make: Make) -> None:
    holder, other, third = make(), make(), make()
    with (
        holder.sessions.hold(holder.engine.need, "j"),
        waiting(other) as cancelled,
        waiting(third, 2) as drained,
    ):
        other.live, third.draining = False, True
        with pytest.raises(WorkOverError):
            cancelled.result(timeout=60)
        with pytest.raises(DeferredError):
            drained.result(timeout=60)
        assert holder.look().waiting == 0


def test_waiting_is_bounded(make: Make) -> None:
    holder, other = make(), make(slot_wait_s=0.1)
    with holder.sessions.hold(holder.engine.need, "j"), pytest.raises(DeferredError):
        other.hold()


def test_where_none_is_allowed_the_engine_can_not_and_nobody_waits(make: Make) -> None:
    worker = make(nvenc_sessions=0)
    with pytest.raises(EngineError) as caught:
        worker.hold()
    assert not caught.value.able


def test_a_busy_driver_is_waited_for_also_where_sessions_were_allowed_at_run_time(
    make: Make,
) -> None:
    worker = make(nvenc_sessions=0)
    worker.leases.resize(THING, 1)
    worker.hold()
    with pytest.raises(DeferredError):
        worker.sessions.wait_for(worker.engine.need, EngineBusyError(ErrorCode.BUSY, "Full."))


def test_a_failure_closes_the_session_and_gives_it_back(make: Make) -> None:
    worker = make()
    with pytest.raises(ZeroDivisionError):
        worker.hold(lambda: 1 // 0)
    assert (worker.engine.closed, worker.look().used) == (1, 0)


def test_a_session_that_can_not_be_closed_is_given_back_all_the_same(make: Make) -> None:
    worker = make()
    need = SessionNeed(SessionKind.NVENC, GPU, lambda: 1 // 0)  # type: ignore[arg-type]
    with pytest.raises(KeyError), worker.sessions.hold(need, "j"):
        raise KeyError
    assert worker.look().used == 0


def test_a_lease_outlasts_work_that_passes_no_checkpoint(
    make: Make, redis: Connection, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder, other = make(), make(slot_wait_s=0.1)
    _, answers = renewals(holder, monkeypatch)

    def a_native_call() -> None:
        for count in range(1, 5):
            clock.now += 10
            wait_until(lambda count=count: len(answers) == count, "the lease is renewed")
            pass_time(redis, other.leases, THING, 10)
        with pytest.raises(DeferredError):
            other.hold()

    holder.hold(a_native_call)
    assert all(answers)


def test_a_lost_lease_is_noticed_and_the_session_closed(make: Make, clock: Clock) -> None:
    worker = make(lease_s=30)

    def lose_it() -> None:
        with worker.sessions.hold(worker.engine.need, "j") as check:
            worker.leases.close(THING)
            clock.now += 10  # the next renewal is due

            def lost() -> bool:
                check()
                return False

            wait_until(lost, "it is noticed")

    with pytest.raises(TemporaryError) as caught:
        lose_it()
    assert not isinstance(caught.value, DeferredError)
    assert worker.engine.closed == 1


def test_a_lease_that_redis_could_not_renew_is_no_failure_of_the_work(
    make: Make, redis: Connection, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, server = make(lease_s=30), redis.info("server")["process_id"]
    asked, _ = renewals(worker, monkeypatch)
    with worker.sessions.hold(worker.engine.need, "j") as check:
        os.kill(server, signal.SIGSTOP)
        try:
            clock.now += 10
            wait_until(lambda: asked, "it is asked for")
            clock.now += 15  # more than SAFE_SHARE of its time is over
            with pytest.raises(RedisAwayError):
                check()
        finally:
            os.kill(server, signal.SIGCONT)


def test_a_lease_that_went_to_another_during_an_outage_is_no_failure_of_the_work_either(
    make: Make, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, other = make(lease_s=30), make()
    renew, away, asked = worker.leases.renew, threading.Event(), threading.Event()
    answers: list[bool] = []

    def renewed(lease: Lease) -> bool:
        if away.is_set():
            asked.set()
            raise RedisAwayError(ErrorCode.BUSY, "Redis did not answer.", 1.0)
        answers.append(renew(lease))
        return answers[-1]

    monkeypatch.setattr(worker.leases, "renew", renewed)
    away.set()
    with worker.sessions.hold(worker.engine.need, "j") as check:
        clock.now += 10
        assert asked.wait(60)
        # For everybody else Redis is there: at the end of its time the unit is another's.
        assert all(other.leases.release(lease) for lease in other.look().leases)
        other.hold()
        away.clear()
        wait_until(lambda: answers == [False], "it is told that the lease is lost")
        worker.sessions.close()  # behind the keeper; what is in use stays
        with pytest.raises(RedisAwayError):
            check()


def test_a_lease_lost_between_two_pieces_of_work_is_got_anew(make: Make) -> None:
    worker = make()
    worker.hold()
    worker.leases.close(THING)
    worker.leases.resize(THING, 1)
    worker.hold()
    assert (worker.engine.closed, worker.look().used) == (1, 1)


def test_nothing_is_kept_at_the_end(make: Make) -> None:
    worker = make()
    worker.hold()
    worker.sessions.close()
    assert (worker.engine.closed, worker.look().used) == (1, 0)
