"""How fast are models? `python -m services.infer.lab.bench`, with a `BenchRequest`.

What a worker does with a frame, timed as it is: from the planes to the faces. Models take turns, so
that a machine that gets slower or busier meanwhile does so for all of them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
from av.error import FFmpegError

from services.infer.engines.base import Detector
from services.infer.engines.looks import look_of
from services.infer.engines.onnx_cpu import OnnxCpuDetector, use_one_thread
from services.infer.lab.answering import answer
from shared.errors import ErrorCode, PermanentError
from shared.media.layout import FrameLayout, Planes
from shared.media.probe import choose_video, open_source
from shared.models import ModelEntry
from shared.models.lab import BenchAnswer, BenchRequest, BenchRow, Candidate

TURN_FRAMES = 8
"""Frames in a row for one model: as in a batch, its weights stay in the cache."""

WARM_UP = 2
"""Frames before the first that counts: memory is allocated then."""

DRAWN = FrameLayout(width=1920, height=1080)

Make = Callable[[ModelEntry, Path, int, int], Detector]
"""(entry, file, longer side of the picture in px, threads): a detector that takes one look only."""


def _onnx_cpu(entry: ModelEntry, path: Path, side: int, threads: int) -> Detector:
    return OnnxCpuDetector(entry, path, threads=threads, long_side_px=side, second_long_side_px=0)


ENGINES: tuple[Make, ...] = (_onnx_cpu,)
"""Those at hand, each timed with every model; another engine is one more here."""


@dataclass(frozen=True)
class _Runner:
    """One row on its way."""

    entry: ModelEntry
    detector: Detector
    look: Literal["first", "second"]
    side: int
    times_ms: list[float] = field(default_factory=list)

    def run(self, frames: list[Planes], layout: FrameLayout) -> None:
        for planes in frames:
            began = time.perf_counter()
            self.detector.detect([planes], layout)
            self.times_ms.append(1000 * (time.perf_counter() - began))

    def row(self, layout: FrameLayout, of_first: float) -> BenchRow:
        look = look_of(self.entry, layout, self.side)
        low, median, high = np.percentile(self.times_ms, (10, 50, 90)).tolist()
        return BenchRow(
            name=self.entry.name,
            engine=self.detector.name.partition(":")[0],
            look=self.look,
            picture=(look.w, look.h),
            input=look.padded,
            median_ms=median,
            p10_ms=low,
            p90_ms=high,
            ratio=median / of_first,
        )


def measure(request: BenchRequest) -> BenchAnswer:
    """Raises PermanentError: as `Detector`s and `open_source` do."""
    use_one_thread()
    runners = [each for model in request.models for each in _runners(model, request.threads)]
    layout, turns = _frames(request)
    done = 0
    for turn in turns:
        for runner in runners:
            if done == 0:
                runner.run([turn[0]] * WARM_UP, layout)
                runner.times_ms.clear()
            runner.run(turn, layout)
        done += len(turn)
    if done == 0:
        raise PermanentError(ErrorCode.NO_VIDEO_STREAM, "the video has no frame to look at")
    first = float(np.median(runners[0].times_ms))
    return BenchAnswer(
        rows=tuple(runner.row(layout, first) for runner in runners),
        frames=done,
        frame=(layout.width, layout.height),
        threads=request.threads,
    )


def _runners(model: Candidate, threads: int) -> Iterator[_Runner]:
    entry = model.entry
    looks: list[tuple[Literal["first", "second"], int]] = [("first", entry.long_side_px)]
    if entry.second_long_side_px > entry.long_side_px and entry.fixed_input is None:
        looks.append(("second", entry.second_long_side_px))
    for make in ENGINES:
        for look, side in looks:
            yield _Runner(entry, make(entry, model.path, side, threads), look, side)


def _frames(request: BenchRequest) -> tuple[FrameLayout, Iterator[list[Planes]]]:
    """Turn by turn, so that a long video is not in memory."""
    if request.video is None:
        return DRAWN, _turns(islice(_drawn(), request.frames))
    frames = _decoded(request.video)
    first = next(frames, None)
    if first is None:
        return DRAWN, iter(())
    layout = first[1]

    def same() -> Iterator[Planes]:
        yield first[0]
        # a video may change its size; what follows is another measurement
        yield from (planes for planes, other in frames if other == layout)

    return layout, _turns(islice(same(), request.frames))


def _turns(frames: Iterator[Planes]) -> Iterator[list[Planes]]:
    while turn := list(islice(frames, TURN_FRAMES)):
        yield turn


def _drawn() -> Iterator[Planes]:
    """Pictures of nobody, without end: how long a look takes hardly depends on what is there."""
    dice = np.random.default_rng(1)
    some = dice.integers(16, 236, (TURN_FRAMES, DRAWN.frame_bytes), dtype=np.uint8)
    while True:
        for one in some:
            yield DRAWN.planes(one)


def _decoded(path: Path) -> Iterator[tuple[Planes, FrameLayout]]:
    try:
        with open_source(path) as source:
            for frame in source.decode(choose_video(source)):
                width, height = frame.width & ~1, frame.height & ~1
                layout = FrameLayout(width=width, height=height)
                packed = frame.reformat(width, height, "yuv420p").to_ndarray().reshape(-1)
                yield layout.planes(packed.astype(np.uint8, copy=False)), layout
    except FFmpegError as error:
        raise PermanentError(
            ErrorCode.SOURCE_UNREADABLE, f"{path.name} can't be decoded ({error})"
        ) from error


if __name__ == "__main__":
    sys.exit(answer(BenchRequest, measure))
