"""What every engine that draws tiles can do."""

from __future__ import annotations

from typing import Protocol

from shared.jobs import OutputPlan
from shared.media.layout import FrameLayout, Planes
from shared.tracks import View


class Renderer(Protocol):
    """Draws the two views of a frame into their tiles of a canvas."""

    @property
    def name(self) -> str:
        """For logs, metrics and the report."""

    def render(
        self,
        source: Planes,
        source_layout: FrameLayout,
        views: tuple[View, View],
        output: OutputPlan,
        canvas: Planes,
    ) -> None:
        """Write every pixel of `canvas`, the I420 planes of an `output.width` x `output.height`
        frame; what no tile covers becomes black of the output's range.

        `source` are the planes of one upright frame, only read; `views` lie inside it. Both may be
        views into an arena: nothing is kept after the call, and the canvas must not overlap the
        source. The same input gives the same bytes. Blocks until the canvas is complete.

        Raises ValueError when planes do not fit their layout or a view leaves the frame.
        """
