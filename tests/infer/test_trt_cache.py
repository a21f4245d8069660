"""Engines in the store: kept once, refused when wrong, compiled by one of many."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from services.infer.engines import trt_cache
from services.infer.engines.trt_cache import (
    BUILD_LEASE_S,
    LOG_DAYS,
    MARK,
    Built,
    EngineCache,
)
from shared.errors import EngineError, ErrorCode, StoreAwayError, TemporaryError, WorkOverError
from shared.leases import Lease, Leases
from shared.names import ENGINE_LOGS, ENGINES, engine_key, engine_log_key, engine_timing_key
from shared.redisdb import Connection, connect
from shared.storage.dated import sweep
from shared.storage.directory import DirectoryStore
from tests.infer.test_trt_plan import recipe
from tests.waiting import wait_until

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@dataclass
class Compiler:
    """Counts what it compiles; `hold` is waited for meanwhile."""

    plan: bytes = b"plan"
    timings: list[bytes] = field(default_factory=list)
    hold: threading.Event | None = None
    begun: threading.Event = field(default_factory=threading.Event)

    def build(self, timing: bytes, on_step: Callable[[], None]) -> Built:
        self.timings.append(timing)
        self.begun.set()
        while self.hold is not None and not self.hold.wait(0.01):
            on_step()
        on_step()
        return Built(self.plan, ("heat", "size"), b"timing", "a log\n")


def plan_and_names(plan: bytes, outputs: tuple[str, ...]) -> tuple[bytes, tuple[str, ...]]:
    return plan, outputs


def new_cache(folder: Path, leases: Leases | None = None, **more: object) -> EngineCache:
    settings: dict[str, object] = {"now": lambda: NOW, **more}
    return EngineCache(DirectoryStore(folder), leases, "w1", **settings)  # type: ignore[arg-type]


def test_an_engine_is_compiled_once_and_then_taken_from_the_store(tmp_path: Path) -> None:
    compiler = Compiler()
    made = new_cache(tmp_path).obtain(recipe(), compiler.build, plan_and_names)
    again = new_cache(tmp_path).obtain(recipe(), compiler.build, plan_and_names)
    assert made == again == (b"plan", ("heat", "size"))
    assert len(compiler.timings) == 1


def test_another_recipe_is_another_engine(tmp_path: Path) -> None:
    compiler, cache = Compiler(), new_cache(tmp_path)
    cache.obtain(recipe(), compiler.build, plan_and_names)
    cache.obtain(recipe(tensorrt="11.5.0"), compiler.build, plan_and_names)
    assert len(compiler.timings) == 2


def test_a_receipt_tells_what_when_who_and_where_the_log_is(tmp_path: Path) -> None:
    cache = new_cache(tmp_path)
    cache.obtain(recipe(), Compiler().build, plan_and_names)
    stored = cache.get(recipe())
    assert stored is not None
    assert stored.receipt.recipe == recipe()
    assert (stored.receipt.built_at, stored.receipt.built_by) == (NOW, "w1")
    assert b"".join(DirectoryStore(tmp_path).read(stored.receipt.log)) == b"a log\n"


def test_timings_of_one_model_help_the_next_on_the_same_gpu(tmp_path: Path) -> None:
    compiler, cache = Compiler(), new_cache(tmp_path)
    for each in (recipe(), recipe(model="yunet_s"), recipe(gpu="another")):
        cache.obtain(each, compiler.build, plan_and_names)
    assert compiler.timings == [b"", b"timing", b""]


def damage(data: bytes) -> Iterable[bytes]:
    line = data.index(b"\n", len(MARK)) + 1
    yield b""
    yield data[: len(MARK)]
    yield data[: line - 1]
    yield data[:-1]
    yield data + b"x"
    yield data[:line] + b"nalp"
    yield data.replace(b"engine 1", b"engine 0")
    yield data.replace(b'"sha256":"', b'"sha256":"f', 1)
    yield b"\0" * len(data)


def test_a_damaged_object_counts_as_absent_and_is_replaced(tmp_path: Path) -> None:
    compiler, cache, store = Compiler(), new_cache(tmp_path), DirectoryStore(tmp_path)
    cache.obtain(recipe(), compiler.build, plan_and_names)
    whole = b"".join(store.read(engine_key(recipe().digest)))
    for count, data in enumerate(damage(whole), start=2):
        store.write(engine_key(recipe().digest), [data])
        assert cache.get(recipe()) is None
        assert cache.obtain(recipe(), compiler.build, plan_and_names)[0] == b"plan"
        assert len(compiler.timings) == count
        assert cache.get(recipe()) is not None


def test_an_engine_under_anothers_name_is_refused(tmp_path: Path) -> None:
    cache, store = new_cache(tmp_path), DirectoryStore(tmp_path)
    cache.obtain(recipe(), Compiler().build, plan_and_names)
    other = recipe(gpu="NVIDIA H100")
    store.write(engine_key(other.digest), store.read(engine_key(recipe().digest)))
    assert cache.get(other) is None


def test_timings_of_another_gpu_under_this_ones_name_are_refused(tmp_path: Path) -> None:
    cache, store = new_cache(tmp_path), DirectoryStore(tmp_path)
    cache.obtain(recipe(), Compiler().build, plan_and_names)
    other = recipe(gpu="NVIDIA H100")
    timing = engine_timing_key(other.timing_digest)
    store.write(timing, store.read(engine_timing_key(recipe().timing_digest)))
    assert cache.timing(other) == b""


def test_a_stored_engine_that_can_not_be_loaded_is_compiled_anew(tmp_path: Path) -> None:
    cache = new_cache(tmp_path)
    cache.obtain(recipe(), Compiler(b"old").build, plan_and_names)

    def only_new(plan: bytes, _: tuple[str, ...]) -> bytes | None:
        return plan if plan == b"new" else None

    assert cache.obtain(recipe(), Compiler(b"new").build, only_new) == b"new"
    stored = cache.get(recipe())
    assert stored is not None
    assert stored.payload == b"new"


def test_a_new_engine_that_can_not_be_loaded_is_an_error_and_not_kept(tmp_path: Path) -> None:
    cache = new_cache(tmp_path)
    with pytest.raises(EngineError) as caught:
        cache.obtain(recipe(), Compiler().build, lambda _plan, _outputs: None)
    assert caught.value.able
    assert cache.get(recipe()) is None


def test_compiling_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fails(_timing: bytes, _on_step: Callable[[], None]) -> Built:
        raise EngineError("no", able=True)

    with pytest.raises(EngineError, match="no"):
        new_cache(tmp_path).obtain(recipe(), fails, plan_and_names)
    assert list(DirectoryStore(tmp_path).keys(ENGINES)) == []


class FullStore(DirectoryStore):
    def write(self, key: str, pieces: Iterable[bytes]) -> int:  # noqa: ARG002
        raise TemporaryError(ErrorCode.NO_SPACE, "The disk is full.")


class AwayStore(DirectoryStore):
    def size(self, key: str) -> int | None:  # noqa: ARG002
        raise StoreAwayError(ErrorCode.BUSY, "The store is away.")


def test_a_store_that_is_full_costs_no_engine(tmp_path: Path) -> None:
    cache = EngineCache(FullStore(tmp_path), None, "w1")
    assert cache.obtain(recipe(), Compiler().build, plan_and_names)[0] == b"plan"


def test_a_store_that_is_away_is_waited_for_like_for_all_work(tmp_path: Path) -> None:
    with pytest.raises(StoreAwayError):
        EngineCache(AwayStore(tmp_path), None, "w1").obtain(
            recipe(), Compiler().build, plan_and_names
        )


def test_a_log_is_kept_for_its_days_and_then_swept(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    new_cache(tmp_path).obtain(recipe(), Compiler().build, plan_and_names)
    last_day = NOW + timedelta(days=LOG_DAYS)
    assert new_cache(tmp_path, now=lambda: last_day).sweep_logs() == 0
    assert new_cache(tmp_path, now=lambda: last_day + timedelta(days=1)).sweep_logs() == 1
    assert list(store.keys(ENGINE_LOGS)) == []
    assert store.exists(engine_key(recipe().digest))


def test_compiling_sweeps_the_logs_whose_days_are_over(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    store.write(engine_log_key(NOW.date() - timedelta(days=1), "old"), [b"old"])
    new_cache(tmp_path).obtain(recipe(), Compiler().build, plan_and_names)
    (left,) = store.keys(ENGINE_LOGS)
    assert "old" not in left


def test_what_has_no_day_in_its_key_is_not_swept(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    kept = [
        f"{ENGINE_LOGS}/notes.txt",
        f"{ENGINE_LOGS}/2026-13-01/a",
        f"{ENGINE_LOGS}/2027-01-01/a",
    ]
    for key in (*kept, f"{ENGINE_LOGS}/2026-01-01/a"):
        store.write(key, [b"x"])
    assert sweep(store, ENGINE_LOGS, date(2026, 11, 21)) == 1
    assert sorted(store.keys(ENGINE_LOGS)) == sorted(kept)


def test_of_many_that_need_an_engine_at_once_one_compiles_it(
    tmp_path: Path, redis_url: str, redis: Connection
) -> None:
    compiler = Compiler(hold=threading.Event())

    def start(_: int) -> bytes:
        leases = Leases(connect(redis_url), BUILD_LEASE_S)
        cache = new_cache(tmp_path, leases)
        return cache.obtain(recipe(), compiler.build, plan_and_names)[0]

    leases = Leases(redis, BUILD_LEASE_S)
    thing = f"engine:{recipe().digest[:32]}"
    with ThreadPoolExecutor(3) as pool:
        made = [pool.submit(start, each) for each in range(3)]
        wait_until(lambda: leases.look(thing).waiting == 2, "two wait for the third")
        compiler.hold.set()  # type: ignore[union-attr]
        assert [each.result() for each in made] == [b"plan"] * 3
    assert len(compiler.timings) == 1
    assert leases.look(thing).used == 0


def test_who_has_waited_long_enough_compiles_too(
    tmp_path: Path, redis: Connection, redis_url: str
) -> None:
    slow, fast = Compiler(hold=threading.Event()), Compiler()
    with ThreadPoolExecutor(1) as pool:
        first = new_cache(tmp_path, Leases(connect(redis_url), BUILD_LEASE_S))
        made = pool.submit(first.obtain, recipe(), slow.build, plan_and_names)
        assert slow.begun.wait(30)
        second = new_cache(tmp_path, Leases(redis, BUILD_LEASE_S), wait_s=0.05)
        assert second.obtain(recipe(), fast.build, plan_and_names)[0] == b"plan"
        assert len(fast.timings) == 1
        slow.hold.set()  # type: ignore[union-attr]
        made.result()


def test_a_job_that_ends_while_another_compiles_waits_no_longer(
    tmp_path: Path, redis: Connection
) -> None:
    leases = Leases(redis, BUILD_LEASE_S)
    thing = f"engine:{recipe().digest[:32]}"
    leases.resize(thing, 1)
    assert leases.acquire(thing, "somebody") is not None

    def over() -> None:
        raise WorkOverError("j")

    with pytest.raises(WorkOverError):
        new_cache(tmp_path, leases).obtain(recipe(), Compiler().build, plan_and_names, over)
    assert leases.look(thing).waiting == 0


def test_a_job_that_ends_while_it_compiles_gives_its_turn_back(
    tmp_path: Path, redis: Connection
) -> None:
    leases = Leases(redis, BUILD_LEASE_S)

    def over() -> None:
        raise WorkOverError("j")

    with pytest.raises(WorkOverError):
        new_cache(tmp_path, leases).obtain(recipe(), Compiler().build, plan_and_names, over)
    assert leases.look(f"engine:{recipe().digest[:32]}").used == 0


class AwayLeases(Leases):
    def resize(self, thing: str, capacity: int) -> None:  # noqa: ARG002
        raise TemporaryError(ErrorCode.BUSY, "Redis is away.")


def test_without_redis_engines_are_compiled_all_the_same(tmp_path: Path, redis: Connection) -> None:
    cache = new_cache(tmp_path, AwayLeases(redis, BUILD_LEASE_S))
    assert cache.obtain(recipe(), Compiler().build, plan_and_names)[0] == b"plan"


def test_the_turn_is_kept_while_compiling(
    tmp_path: Path, redis: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    renewed: list[bool] = []

    class Watched(Leases):
        def renew(self, lease: Lease) -> bool:
            renewed.append(super().renew(lease))
            return renewed[-1]

    monkeypatch.setattr(trt_cache, "RENEW_EVERY_S", -1.0)
    new_cache(tmp_path, Watched(redis, BUILD_LEASE_S)).obtain(
        recipe(), Compiler().build, plan_and_names
    )
    assert renewed == [True]


def test_nothing_half_written_shows(tmp_path: Path) -> None:
    seen: list[list[str]] = []

    class Watched(DirectoryStore):
        def write(self, key: str, pieces: Iterable[bytes]) -> int:
            def watched() -> Iterable[bytes]:
                for piece in pieces:
                    seen.append([each for each in self.keys(ENGINES) if each == key])
                    yield piece

            return super().write(key, watched())

    cache = EngineCache(Watched(tmp_path), None, "w1", now=lambda: NOW)
    cache.obtain(recipe(), Compiler().build, plan_and_names)
    assert seen
    assert not any(seen)
