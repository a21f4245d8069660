"""How many frames a detector gets at once, when its device runs out of memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.infer.engines.base import Detector
from shared.errors import OutOfMemoryError
from shared.faces import Face
from shared.media.layout import FrameLayout, Planes

SHRINK = 0.7
SHRINKS = 3
"""So often in one go is a batch made smaller; then another engine has to do it."""
GROW_AFTER = 50
"""Batches in a row that went well until one frame more is tried."""
MOST = 64
"""Frames in a batch, at most."""


@dataclass
class Portions:
    """The limit of one detector; it shrinks at once and grows back slowly."""

    limit: int = MOST
    well: int = 0

    def detect(
        self, detector: Detector, frames: Sequence[Planes], layout: FrameLayout
    ) -> list[tuple[Face, ...]]:
        """As `Detector.detect`, in portions that fit; what was found already is kept.

        Raises OutOfMemoryError when memory is short even for 0.7^3 of the frames.
        """
        found: list[tuple[Face, ...]] = []
        shrinks = 0
        while len(found) < len(frames):
            portion = frames[len(found) : len(found) + self.limit]
            try:
                found += detector.detect(portion, layout)
            except OutOfMemoryError:
                self.well = 0
                detector.free()
                if shrinks == SHRINKS or len(portion) == 1:
                    raise
                shrinks += 1
                self.limit = max(1, int(SHRINK * len(portion)))
        self._went_well(shrinks)
        return found

    def _went_well(self, shrinks: int) -> None:
        self.well = 0 if shrinks else self.well + 1
        if self.well >= GROW_AFTER and self.limit < MOST:
            self.limit, self.well = self.limit + 1, 0
