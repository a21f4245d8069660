"""A renderer of the host for frames that lie on a GPU: by copies, there and back."""

from __future__ import annotations

from collections.abc import Sequence

from services.compose.engines.base import Renderer
from services.compose.marks import Mark
from shared.cuda.memory import Memory, Staging
from shared.jobs import OutputPlan
from shared.media.layout import FrameLayout, Planes
from shared.tracks import View


class StagedRenderer:
    """A `Renderer` of planes in device memory; for when kernels fail."""

    memory: Memory = "device"

    def __init__(self, renderer: Renderer, staging: Staging) -> None:
        self._renderer = renderer
        self._staging = staging

    @property
    def name(self) -> str:
        """See `Renderer.name`."""
        return f"{self._renderer.name}-staged"

    def render(
        self,
        source: Planes,
        source_layout: FrameLayout,
        views: tuple[View, View],
        output: OutputPlan,
        canvas: Planes,
        marks: Sequence[Mark] = (),
    ) -> None:
        """See `Renderer.render`."""
        drawn = self._staging.blank(canvas)
        seen = self._staging.down(source)
        self._renderer.render(seen, source_layout, views, output, drawn, marks)
        self._staging.up(drawn, canvas)
