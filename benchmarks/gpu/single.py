"""From file to file in one process, with the system's engines and settings: what the system would
cost without any process boundary, queue or ledger."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.gpu.children import Channel
from benchmarks.gpu.line import Line, runtime_of
from services.decode.split import split
from services.encode.mux import mux
from shared.jobs import JobSpec
from shared.media.probe import probe
from shared.settings import Settings


class Lap(NamedTuple):
    """One video made. `by_stage`: wall seconds of each, `rest` of probing, cutting and muxing."""

    frames: int
    seconds: float
    by_stage: dict[str, float]
    rest: float


def single(
    channel: Channel, settings: Settings, path: Path, spec: JobSpec, batch: int, folder: Path
) -> None:
    """Says the names of its engines; then a Lap whenever told to."""
    source = probe(path, "mp4")
    line = Line(runtime_of(settings, "bench-single"), source, spec, batch, folder)
    cut = folder / "first"
    cut.mkdir()
    first = next(iter(split(path, source, cut, settings.segment_target_s)))
    channel.say(line.choose(*first))
    while True:
        channel.wait()
        channel.say(_lap(line, settings, path, folder / "lap"))


def _lap(line: Line, settings: Settings, path: Path, folder: Path) -> Lap:
    folder.mkdir()
    began = time.perf_counter()
    source = probe(path, "mp4")
    segments = list(split(path, source, folder, settings.segment_target_s))
    chunks, times = line.run(segments, settings.detect_every)
    mux(chunks, path, source, line.output, "mp4", folder / "result.mp4")
    seconds = time.perf_counter() - began
    shutil.rmtree(folder)
    sums = times.sums()
    frames = sum(segment.frames for segment, _ in segments)
    return Lap(frames, seconds, sums, seconds - sum(sums.values()))
