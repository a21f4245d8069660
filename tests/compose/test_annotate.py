"""A job may ask for boxes around faces: then, and only then, compose draws them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from services.compose.engines.opencv import OpenCvRenderer
from services.compose.marks import Mark, marks_of
from services.compose.stage import compose_batch
from shared.jobs import OutputPlan
from shared.media.layout import FrameLayout, Planes
from shared.messages import BatchMessage
from shared.redisdb import Connection
from shared.runtime import slot_ref
from shared.tracks import BatchPlan, FaceBox, Pair
from tests.encode.jobs import Bench, bench, plan_of
from tests.encode.pictures import LAYOUT

FRAMES = 5


class Watched(OpenCvRenderer):
    """Keeps a copy of what it drew."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn: list[Planes] = []

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
        super().render(source, source_layout, views, output, canvas, marks)
        self.drawn.append(tuple(plane.copy() for plane in canvas))


def planned() -> BatchPlan:
    """A face in each tile, but for the first frame's second one."""
    made, left, right = plan_of(FRAMES), FaceBox(8, 8, 12, 14), FaceBox(72, 8, 12, 14)
    boxes = tuple((left, right if frame else None) for frame in made.frames)
    return made.model_copy(update={"boxes": boxes})


def batch(made: Bench) -> BatchMessage:
    """Decoded and looked at; its turn to be rendered."""
    runtime = made.runtime
    lease = runtime.leases.acquire("slots:t:decoded", "j/0:0")
    assert lease is not None
    arena = runtime.arenas.current("t")
    ref = slot_ref("t", arena.descriptor.generation, "decoded", lease)
    slot = arena.slot("decoded", ref.slot)
    slot[:] = np.random.default_rng(1).integers(60, 90, slot.size, np.uint8)
    pts = tuple(512 * at for at in range(FRAMES))
    message = BatchMessage(job="j", segment=0, batch=0, layout=LAYOUT, pts=pts, slot=ref)
    assert runtime.ledger.send(message, "compose", "w") == "go"
    runtime.ledger.planned(message, planned().model_dump_json(), "{}", 2)
    return message


@pytest.mark.parametrize("annotate", [True, False])
def test_boxes_are_drawn_for_a_job_that_asks_for_them(
    annotate: bool, redis: Connection, tmp_path: Path
) -> None:
    with bench(redis, tmp_path) as made:
        made.runtime.leases.resize("slots:t:decoded", 2)
        output = made.begin(annotate=annotate)
        renderer = Watched()
        compose_batch(made.runtime, batch(made), [renderer])
        marks = marks_of(planned(), output)
        assert len(renderer.drawn) == len(marks) == FRAMES
        assert len(marks[0]) == 4
        assert len(marks[4]) == 8
        for canvas, wanted in zip(renderer.drawn, marks, strict=True):
            for rect, colour in wanted:
                lines = canvas[0][rect.y : rect.y + rect.h, rect.x : rect.x + rect.w]
                assert (lines == colour.y).all() == annotate
