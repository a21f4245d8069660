"""The detector that sees nobody: the last one, when all others end their process."""

from __future__ import annotations

from collections.abc import Sequence

from shared.cuda.memory import Memory
from shared.faces import Face
from shared.media.layout import FrameLayout, Planes


class NoDetector:
    """A `Detector`. Cameras keep their views over its frames; better than losing them."""

    name = "none"
    memory: Memory = "host"

    def detect(self, frames: Sequence[Planes], layout: FrameLayout) -> list[tuple[Face, ...]]:
        """See `Detector.detect`."""
        del layout
        return [() for _ in frames]

    def free(self) -> None:
        """See `Detector.free`; there is nothing."""
