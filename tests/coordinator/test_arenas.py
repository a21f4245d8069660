"""Facts about arenas whose host is gone: work goes to others, and so does what lay in them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from services.coordinator.arenas import BLIND_S, SILENT_S, Arenas
from services.coordinator.dispatch import Dispatcher
from services.coordinator.recovery import Recovery
from shared.arena.registry import ArenaRegistry
from shared.redisdb import Connection
from shared.runtime import slot_ref
from tests.builders import batch_message, job_spec, output_plan, segment, source_info
from tests.coordinator.fleet import ARENA
from tests.runtimes import runtime

STEP_S = 1.0


@dataclass
class Clock:
    """Seconds as the test says."""

    now: float = 0.0

    def __call__(self) -> float:
        """The time."""
        return self.now


@pytest.fixture
def registry(redis: Connection) -> ArenaRegistry:
    """With arenas `a`, `b`, and `old`, whose owner counts no signs of life."""
    made = ArenaRegistry(redis)
    for name in ("a", "b", "old"):
        made.publish(ARENA.model_copy(update={"name": name}))
    for name in ("a", "b"):
        made.beat(name)
    return made


def watch(arenas: Arenas, clock: Clock, seconds: float, *beating: str) -> list[str]:
    """Names of the arenas in use after so long, in which only some gave signs of life."""
    for _ in range(int(seconds / STEP_S)):
        for name in beating:
            arenas._registry.beat(name)
        arenas.look()
        clock.now += STEP_S
    return [arena.name for arena in arenas.look()]


def test_an_arena_whose_owner_is_silent_is_passed_over_until_it_is_heard_again(
    redis: Connection, registry: ArenaRegistry
) -> None:
    clock = Clock()
    arenas = Arenas(redis, clock)
    assert watch(arenas, clock, SILENT_S - STEP_S, "b") == ["a", "b", "old"]
    assert watch(arenas, clock, STEP_S, "b") == ["b", "old"]
    assert arenas.silent == {"a"}
    registry.beat("a")
    assert watch(arenas, clock, 0) == ["a", "b", "old"]
    registry.withdraw("a")
    assert watch(arenas, clock, 0) == ["b", "old"]
    assert set(registry.beats()) == {"b"}


def test_where_all_arenas_are_silent_none_is_passed_over(
    redis: Connection, registry: ArenaRegistry
) -> None:
    clock = Clock()
    registry.withdraw("old")
    arenas = Arenas(redis, clock)
    assert watch(arenas, clock, 2 * SILENT_S) == ["a", "b"]
    assert arenas.silent == frozenset()


def test_no_arena_is_silent_by_an_outage_of_redis(
    redis: Connection, registry: ArenaRegistry
) -> None:
    clock = Clock()
    arenas = Arenas(redis, clock)
    watch(arenas, clock, SILENT_S - STEP_S, "a", "b")
    clock.now += max(SILENT_S, BLIND_S) + 1
    assert watch(arenas, clock, SILENT_S - STEP_S) == [each.name for each in registry.all()]


def test_what_lay_in_an_arena_of_a_dead_host_is_decoded_on_another(
    redis: Connection, registry: ArenaRegistry, tmp_path: Path
) -> None:
    made, outbox = runtime(redis, tmp_path)
    registry.withdraw("old")
    clock = Clock()
    dispatcher = Dispatcher(made, clock)
    recovery = Recovery(made, dispatcher, clock)
    ledger = made.ledger
    ledger.submit("j", job_spec())
    ledger.take("j", "split", "w")
    ledger.put_facts("j", source_info(), output_plan(), 8)
    ledger.add_segment("j", segment(0))
    ledger.split_done("j", 1, 10)
    ledger.let_go("j", "split", "w")
    taken = ledger.take_segment("j", 1)
    assert taken is not None
    made.leases.resize("slots:a:decoded", 3)
    lease = made.leases.acquire("slots:a:decoded", "j/0:0")
    assert lease is not None
    lost = batch_message("0:0", job="j").model_copy(
        update={"slot": slot_ref("a", "g", "decoded", lease)}
    )
    assert ledger.send(lost, "infer", "w") == "go"
    watch(dispatcher.arenas, clock, SILENT_S, "b")
    recovery.step()
    assert list(ledger.flights("j")) == []
    ledger.return_segment("j", 0, taken[1], gave_back=False)  # nobody takes it up where it was
    outbox.take()
    dispatcher.step()
    assert outbox.take() == [("decode.segment", "j/segment:0", "decode.b")]
