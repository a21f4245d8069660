"""Fixed crops that show what the system shows: the medians of its own cameras' views."""

from __future__ import annotations

import statistics
from itertools import islice
from pathlib import Path

import av

from services.compose.camera import View
from services.compose.plan import ComposeSettings, ComposeState, plan_batch
from services.infer.engines.onnx_cpu import OnnxCpuDetector
from services.infer.plan import frames_to_detect
from shared.faces import BatchFaces
from shared.jobs import OutputPlan, SourceInfo
from shared.media.layout import FrameLayout, Planes
from shared.models import choose, locate, pull
from shared.settings import Settings

BATCH = 32


def typical_views(
    path: Path, source: SourceInfo, output: OutputPlan, settings: Settings
) -> tuple[View, View]:
    """Median view of each tile over the whole video. The harder a crop is enlarged the more its
    noise costs to encode, so a reference with other crops would measure another video."""
    cache, folders = settings.cache_dir / "models", settings.model_folders
    entry = choose("auto", cache, folders)
    pull(entry.name, cache, folders)
    detector = OnnxCpuDetector(entry, locate(entry.name, cache, folders))
    layout = FrameLayout(width=source.width, height=source.height)
    state, views = ComposeState(), []
    with av.open(str(path)) as opened:
        frames = opened.decode(opened.streams[source.stream])  # type: ignore[call-overload]
        while batch := list(islice(frames, BATCH)):
            wanted = frames_to_detect(len(batch), settings.detect_every)
            faces = detector.detect([_planes(batch[index], layout) for index in wanted], layout)
            found = BatchFaces(frames=wanted, faces=tuple(faces))
            pts = [frame.pts for frame in batch]
            state, plan = plan_batch(state, found, pts, source, output, ComposeSettings())
            views += plan.views
    return _median([pair[0] for pair in views]), _median([pair[1] for pair in views])


def _planes(frame: av.VideoFrame, layout: FrameLayout) -> Planes:
    picture = frame.reformat(width=layout.width, height=layout.height, format="yuv420p")
    return layout.planes(picture.to_ndarray().ravel())


def _median(views: list[View]) -> View:
    x, y, w, h = (statistics.median(values) for values in zip(*views, strict=True))
    return View(x, y, w, h)
