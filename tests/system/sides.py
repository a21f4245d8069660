"""Who is in which tile, judged twice.

`share_shown` looks at the result's pictures alone: the detector looks for faces in each tile, the
largest one there is compared with the two faces that the truth marks in the source's frame, and is
the person it resembles more. `share_planned` makes the plan in this process, and maps the truth
through its views.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt

from services.compose.camera import View
from services.compose.plan import ComposeSettings, ComposeState, Pair, plan_batch
from services.infer.engines.onnx_cpu import OnnxCpuDetector
from services.infer.plan import frames_to_detect, interval
from shared.faces import BatchFaces
from shared.jobs import JobSpec
from shared.media.canvas import plan_output
from shared.media.layout import FrameLayout, Planes
from shared.media.probe import probe
from shared.models import entry_of, pull
from tests.conftest import MODELS
from tests.system.verify import frame_times, video_of

Box = tuple[float, float, float, float]
"""x, y, w, h of a face, px of the source."""

Boxes = tuple[Box, Box]
"""Of the left and the right person."""

Picture = npt.NDArray[np.uint8]
"""BGR."""

_PATCH_PX = 32


def share_shown(source: Path, result: Path, truth: Mapping[int, Boxes]) -> tuple[float, float]:
    """Of the frames of `truth`: the share whose left tile shows the left person, and not the
    other; and the same for the right."""
    detector = _detector(second=0)  # a face fills a good part of a tile: one look is enough
    right_ones = [0, 0]
    pictures = zip(_pictures(source), _pictures(result), strict=True)
    for index, (given, made) in enumerate(pictures):
        if index not in truth:
            continue
        known = [_patch(given, box) for box in truth[index]]
        half = made.shape[1] // 2
        for side, tile in enumerate((made[:, :half], made[:, half:])):
            seen = _largest_face(detector, tile)
            alike = [-2.0 if seen is None else _likeness(seen, patch) for patch in known]
            right_ones[side] += alike[side] > alike[1 - side]
    return right_ones[0] / len(truth), right_ones[1] / len(truth)


def share_planned(source: Path, truth: Mapping[int, Boxes], batch: int = 32) -> tuple[float, float]:
    """Of the frames of `truth`: the share whose left (right) view shows the middle of the left
    (right) person's face."""
    info = probe(source)
    output = plan_output(JobSpec(source="s"), info)
    layout = FrameLayout(width=info.width, height=info.height)
    detector, state, views = _detector(), ComposeState(), list[Pair]()
    pictures = [_planes(picture, layout) for picture in _pictures(source)]
    times = [int(time / info.tick_s) for time in frame_times(source)]
    for start in range(0, len(pictures), batch):
        part = pictures[start : start + batch]
        frames = frames_to_detect(len(part), interval(5, beginning=start == 0))
        seen = tuple(detector.detect([part[i] for i in frames], layout))
        faces = BatchFaces(frames=frames, faces=seen)
        pts = times[start : start + batch]
        state, plan = plan_batch(state, faces, pts, info, output, ComposeSettings())
        views += plan.views
    inside = [
        [_holds(view, box) for view, box in zip(views[index], boxes, strict=True)]
        for index, boxes in truth.items()
    ]
    return sum(left for left, _ in inside) / len(truth), sum(r for _, r in inside) / len(truth)


def _holds(view: View, box: Box) -> bool:
    x, y = box[0] + box[2] / 2, box[1] + box[3] / 2
    return view.x <= x < view.x + view.w and view.y <= y < view.y + view.h


def _detector(second: int | None = None) -> OnnxCpuDetector:
    cache = Path.home() / ".cache" / "dualface" / "models"
    path = pull("centerface", cache, [MODELS])
    return OnnxCpuDetector(entry_of("centerface"), path, second_long_side_px=second)


def _pictures(path: Path) -> Iterator[Picture]:
    with av.open(str(path)) as opened:
        for frame in opened.decode(video_of(opened)):
            yield frame.to_ndarray(format="bgr24").astype(np.uint8, copy=False)


def _largest_face(detector: OnnxCpuDetector, tile: Picture) -> Picture | None:
    height, width = (side // 2 * 2 for side in tile.shape[:2])
    layout = FrameLayout(width=width, height=height)
    (faces,) = detector.detect([_planes(tile[:height, :width], layout)], layout)
    best = max(faces, key=lambda face: face.w * face.h * face.score, default=None)
    return None if best is None else _patch(tile, (best.x, best.y, best.w, best.h))


def _planes(picture: Picture, layout: FrameLayout) -> Planes:
    i420 = cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_BGR2YUV_I420)
    return layout.planes(np.asarray(i420, dtype=np.uint8).reshape(-1))


def _patch(picture: Picture, box: Box) -> Picture:
    """The face and its surroundings (hair and collar tell people apart), of one size."""
    x, y, w, h = box
    rows, columns = picture.shape[:2]
    top, bottom = (int(min(max(v, 0), rows)) for v in (y - 0.2 * h, y + 1.2 * h))
    left, right = (int(min(max(v, 0), columns)) for v in (x - 0.2 * w, x + 1.2 * w))
    part = picture[top : max(bottom, top + 1), left : max(right, left + 1)]
    return np.asarray(cv2.resize(part, (_PATCH_PX, _PATCH_PX), interpolation=cv2.INTER_AREA))


def _likeness(a: Picture, b: Picture) -> float:
    """Correlation of all samples, -1..1; a shift by some px is tried, boxes are not exact."""
    margin = _PATCH_PX // 8
    core = b[margin:-margin, margin:-margin]
    return float(cv2.matchTemplate(a, core, cv2.TM_CCOEFF_NORMED).max())
