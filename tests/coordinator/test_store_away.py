"""Facts about a coordinator whose object store is away: it cleans up later, all else goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event, Thread

import pytest
from celery import Celery

from services.coordinator.__main__ import _step
from services.coordinator.closing import (
    CLEANED_AT_ONCE,
    ORPHANS_EVERY_S,
    PUT_OFF_S,
    SWEEP_EVERY_S,
    Closing,
)
from services.coordinator.dispatch import Dispatcher
from services.coordinator.recovery import Recovery
from services.coordinator.sampling import Sampler
from services.coordinator.telling import Telling
from shared.errors import ErrorCode, StoreAwayError, StoreRefusedError
from shared.jobs import JobState
from shared.queues import make_app
from shared.redisdb import Connection
from shared.runtime import Runtime
from shared.storage.base import ObjectStore
from tests.builders import batch_message, job_spec
from tests.runtimes import runtime

SLOTS = "slots:cpu0:decoded"
AWAY = StoreAwayError(ErrorCode.BUSY, "Away.")
REFUSED = StoreRefusedError(ErrorCode.STORE_REFUSED, "No.")


@dataclass
class Clock:
    """Seconds as the test says."""

    now: float = 0.0

    def __call__(self) -> float:
        """The time."""
        return self.now


class Fickle:
    """A store that is away as long as `error` is set; counts how often it was asked then."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.error: Exception | None = None
        self.asked = 0

    def __getattr__(self, name: str) -> Callable[..., object]:
        def use(*args: object) -> object:
            if self.error is not None:
                self.asked += 1
                raise self.error
            return getattr(self._store, name)(*args)

        return use


@pytest.fixture
def store(redis: Connection, tmp_path: Path) -> Fickle:
    return Fickle(runtime(redis, tmp_path)[0].store)


@pytest.fixture
def made(redis: Connection, tmp_path: Path, store: Fickle) -> Runtime:
    plain, _ = runtime(redis, tmp_path, retention_s=60)
    return replace(plain, store=store)  # type: ignore[arg-type]


@pytest.fixture
def app(redis_url: str) -> Iterator[Celery]:
    made = make_app(redis_url)
    yield made
    made.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def closing(made: Runtime, app: Celery, clock: Clock) -> Closing:
    return Closing(made, Telling(made.ledger, app), clock)


def end(made: Runtime, job: str, *, slot: bool = False) -> None:
    """A job with an object, perhaps with frames in a slot, that was cancelled just now."""
    made.ledger.submit(job, job_spec())
    if slot:
        lease = made.leases.acquire(SLOTS, f"{job}/0:0")
        assert lease is not None
        ref = batch_message().slot.model_copy(
            update={"token": lease.token, "slot": lease.unit, "holder": lease.holder}
        )
        made.ledger.send(batch_message(job=job).model_copy(update={"slot": ref}), "infer", "w")
    made.store.write(f"jobs/{job}/source.mp4", [b"x"])
    made.ledger.fail(job, ErrorCode.CANCELLED, "Enough.")


@pytest.mark.parametrize("error", [AWAY, REFUSED], ids=["away", "refused"])
def test_cleaning_up_waits_for_the_store_and_nothing_else_does(
    made: Runtime, store: Fickle, closing: Closing, clock: Clock, error: Exception
) -> None:
    made.leases.resize(SLOTS, 3)
    end(made, "j", slot=True)
    end(made, "k")
    store.error = error
    closing.step()
    # Frames' memory is for others at once; users hear of the end.
    assert made.leases.look(SLOTS).used == 0
    assert sorted(made.ledger.ended()) == ["j", "k"]
    assert store.asked == 1
    clock.now += PUT_OFF_S - 1
    closing.step()
    assert store.asked == 1  # asking would hold up dispatch and recovery
    clock.now += 1
    closing.step()
    assert store.asked == 2
    store.error = None
    clock.now += PUT_OFF_S
    closing.step()
    assert made.ledger.ended() == []
    assert list(made.store.keys("jobs")) == []


def test_the_coordinator_does_not_spin_over_many_jobs_that_wait_for_the_store(
    made: Runtime, store: Fickle, closing: Closing
) -> None:
    for number in range(CLEANED_AT_ONCE + 1):
        end(made, f"j{number}")
    store.error = AWAY
    assert not closing.step()


class Stuck:
    """A store that does not come to an end with a deletion before it is let go."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.asked = Event()
        self.let_go = Event()

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def delete(self, prefix: str) -> int:
        """As the store does, in the end."""
        self.asked.set()
        assert self.let_go.wait(30)
        return self._store.delete(prefix)


def test_a_store_that_is_slow_to_delete_holds_up_neither_dispatch_nor_recovery(
    redis: Connection, tmp_path: Path, app: Celery
) -> None:
    made, outbox = runtime(redis, tmp_path)
    stuck = Stuck(made.store)
    behind = replace(made, store=stuck)  # type: ignore[arg-type]
    dispatcher = Dispatcher(behind)
    steps = (dispatcher, Recovery(behind, dispatcher), Closing(behind, Telling(made.ledger, app)))
    end(made, "j")
    over = Event()
    cleaning = Thread(target=steps[2].run, args=(over.is_set,), daemon=True)
    cleaning.start()
    try:
        assert stuck.asked.wait(30)
        made.ledger.submit("k", job_spec())
        _step(*steps, Sampler(behind, dict), behind)
        assert outbox.take() == [("decode.split", "k/split", "split")]
        assert made.ledger.ended() == ["j"]
    finally:
        over.set()
        stuck.let_go.set()
        steps[2].wake()
        cleaning.join(30)
    assert made.ledger.ended() == []


def test_a_round_that_broke_off_begins_anew(
    made: Runtime, store: Fickle, closing: Closing, redis: Connection, clock: Clock
) -> None:
    end(made, "old")
    closing.step()
    made.store.write("jobs/old/left", [b"x"])
    redis.zadd("df:index:kept", {"old": 0})
    store.error = AWAY
    clock.now += ORPHANS_EVERY_S
    closing.step()
    assert made.ledger.state("old") is JobState.CANCELLED
    store.error = None
    clock.now += PUT_OFF_S + SWEEP_EVERY_S
    closing.step()
    assert made.ledger.state("old") is None
    assert list(made.store.keys("jobs")) == []
