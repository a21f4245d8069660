"""Two workers on one batch: one that seemed dead, and the one that took its place; and a batch
whose frames are lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from services.compose.engines.opencv import OpenCvRenderer
from services.compose.marks import Mark
from services.compose.stage import compose_batch
from shared.jobs import OutputPlan
from shared.media.layout import FrameLayout, Planes
from shared.messages import BatchMessage
from shared.redisdb import Connection
from shared.runtime import Runtime, slot_ref
from shared.tracks import Pair
from tests.encode.jobs import Bench, bench, plan_of
from tests.encode.pictures import LAYOUT

FRAMES = 5


class Interrupted(OpenCvRenderer):
    """Calls `what` once, before the last frame."""

    def __init__(self, what: Callable[[], None]) -> None:
        super().__init__()
        self._left = FRAMES
        self._what = what

    def render(
        self,
        source: Planes,
        source_layout: FrameLayout,
        views: Pair,
        output: OutputPlan,
        canvas: Planes,
        marks: Sequence[Mark] = (),
    ) -> None:
        """See `Renderer.render`."""
        self._left -= 1
        if self._left == 0:
            self._what()
        super().render(source, source_layout, views, output, canvas, marks)


def batch(made: Bench) -> BatchMessage:
    """A planned batch of grey frames."""
    runtime = made.runtime
    runtime.leases.resize("slots:t:decoded", 2)
    lease = runtime.leases.acquire("slots:t:decoded", "j/0:0")
    assert lease is not None
    arena = runtime.arenas.current("t")
    ref = slot_ref("t", arena.descriptor.generation, "decoded", lease)
    arena.slot("decoded", ref.slot)[:] = 80
    pts = tuple(512 * at for at in range(FRAMES))
    message = BatchMessage(job="j", segment=0, batch=0, layout=LAYOUT, pts=pts, slot=ref)
    assert runtime.ledger.send(message, "compose", "decoder") == "go"
    runtime.ledger.planned(message, plan_of(FRAMES).model_dump_json(), "{}", 2)
    return message


def twin_of(runtime: Runtime) -> Runtime:
    return replace(runtime, worker="heir")


def succeed(dead: Runtime, message: BatchMessage, heir: Runtime) -> None:
    """What the coordinator does with a worker that is silent, and who comes after it."""
    dead.ledger.let_go("j", message.name, dead.worker)
    assert heir.ledger.enter(message, "compose", heir.worker)


def test_the_late_one_leaves_the_batch_and_its_slots_to_its_heir(
    redis: Connection, tmp_path: Path
) -> None:
    with bench(redis, tmp_path) as made:
        made.begin()
        message, heir = batch(made), twin_of(made.runtime)

        succession = Interrupted(lambda: succeed(made.runtime, message, heir))
        compose_batch(made.runtime, message, [succession])
        assert [each.stage for each in heir.ledger.flights("j")] == ["compose"]
        assert heir.still_holds(message.slot)
        # The heir renders from what is still there, and its slot is nobody else's to give back.
        compose_batch(heir, message, [OpenCvRenderer()])
        (flight,) = heir.ledger.flights("j")
        assert flight.stage == "encode"
        assert heir.still_holds(flight.message.slot)
        slot = heir.slot(flight.message.slot)
        assert slot is not None
        luma = flight.message.layout.planes(slot, FRAMES - 1)[0]
        assert np.all(luma == 80)


def test_one_that_fails_late_does_not_take_the_slot_from_its_heir(
    redis: Connection, tmp_path: Path
) -> None:
    with bench(redis, tmp_path) as made:
        made.begin()
        message, heir = batch(made), twin_of(made.runtime)

        def fails() -> None:
            succeed(made.runtime, message, heir)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            compose_batch(made.runtime, message, [Interrupted(fails)])
        (lease,) = heir.leases.look("slots:t:composed").leases
        assert lease.holder == "j/0:0"


def test_lost_frames_are_no_try_of_whoever_finds_that(redis: Connection, tmp_path: Path) -> None:
    """Else another engine, or none, would make the batch after a restart or two of its arena."""
    with bench(redis, tmp_path, attempts=2) as made:
        made.begin()
        renderer = Interrupted(lambda: None)
        for _ in range(5):
            lost = batch(made)
            made.runtime.release(lost.slot)
            compose_batch(made.runtime, lost, [renderer])
            assert list(made.runtime.ledger.flights("j")) == []
        message = batch(made)
        compose_batch(made.runtime, message, [renderer])
        (flight,) = made.runtime.ledger.flights("j")
        assert flight.stage == "encode"
        assert redis.hget("df:job:j:tries", "compose 0:0") == "1"
