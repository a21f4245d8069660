"""A device that runs out of memory, played by a double; real ones raise the same error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from services.infer.portions import GROW_AFTER, MOST, Portions
from shared.errors import OutOfMemoryError
from shared.faces import Face
from shared.media.layout import FrameLayout, Planes

LAYOUT = FrameLayout(width=64, height=64)


@dataclass
class SmallDevice:
    """Has room for so many frames at once; a face's x is the frame's number."""

    room: int
    calls: list[int] = field(default_factory=list)
    freed: int = 0
    name: str = "small"

    def detect(self, frames: Sequence[Planes], layout: FrameLayout) -> list[tuple[Face, ...]]:
        assert layout is LAYOUT
        self.calls.append(len(frames))
        if len(frames) > self.room:
            raise OutOfMemoryError("64 MiB more were asked for")
        return [(Face(x=float(f[0][0, 0]), y=0, w=1, h=1, score=1),) for f in frames]

    def free(self) -> None:
        self.freed += 1


def frames(count: int) -> list[Planes]:
    made = [LAYOUT.planes(np.zeros(LAYOUT.frame_bytes, np.uint8), 0) for _ in range(count)]
    for number, planes in enumerate(made):
        planes[0][:] = number
    return made


def numbers(found: Sequence[tuple[Face, ...]]) -> list[float]:
    return [face.x for (face,) in found]


def test_all_frames_go_at_once_where_there_is_room() -> None:
    device = SmallDevice(room=99)
    assert numbers(Portions().detect(device, frames(16), LAYOUT)) == list(range(16))
    assert device.calls == [16]


def test_a_batch_shrinks_to_seventy_percent_up_to_three_times_and_nothing_is_lost() -> None:
    device, portions = SmallDevice(room=5), Portions()
    assert numbers(portions.detect(device, frames(16), LAYOUT)) == list(range(16))
    assert device.calls == [16, 11, 7, 4, 4, 4, 4]
    assert device.freed == 3
    device.calls.clear()
    portions.detect(device, frames(8), LAYOUT)
    assert device.calls == [4, 4], "what was learned is kept"


def test_after_the_third_time_it_is_somebody_elses_turn() -> None:
    device = SmallDevice(room=3)
    with pytest.raises(OutOfMemoryError):
        Portions().detect(device, frames(16), LAYOUT)
    assert device.calls == [16, 11, 7, 4]


def test_it_grows_back_slowly() -> None:
    device, portions = SmallDevice(room=99), Portions(limit=10)
    for _ in range(3 * GROW_AFTER):
        portions.detect(device, frames(1), LAYOUT)
    assert portions.limit == 13
    for _ in range(MOST * GROW_AFTER):
        portions.detect(device, frames(1), LAYOUT)
    assert portions.limit == MOST
