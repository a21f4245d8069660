"""What every engine that draws tiles can do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from services.compose.marks import Mark
from shared.cuda.memory import Memory
from shared.jobs import OutputPlan
from shared.media.layout import FrameLayout, Planes
from shared.tracks import View


class Renderer(Protocol):
    """Draws the two views of a frame into their tiles of a canvas."""

    @property
    def name(self) -> str:
        """For logs, metrics and the report."""

    @property
    def memory(self) -> Memory:
        """Where it wants source and canvas, both."""

    def render(
        self,
        source: Planes,
        source_layout: FrameLayout,
        views: tuple[View, View],
        output: OutputPlan,
        canvas: Planes,
        marks: Sequence[Mark] = (),
    ) -> None:
        """Write every pixel of `canvas`, the planes of an `output.width` x `output.height` frame;
        what no tile covers becomes black of the output's range. Then fill `marks`, in order.

        `source` are the planes of one upright frame, only read; `views` lie inside it. In host
        memory each of the two may be I420 or NV12, in device memory both are NV12. Both may be
        views into an arena: nothing is kept after the call, and the canvas must not overlap the
        source. The same input gives the same bytes.

        On the host it blocks until the canvas is complete. On a device it returns at once, and the
        canvas is complete when the device's stream is (`Device.finish`).

        Raises ValueError when planes do not fit their layout or a view leaves the frame.
        """
