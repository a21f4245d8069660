"""What a simple program does: decode by software to BGR, detect on every whole frame, crop, resize,
libx264. One process, which may use every core."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt

from benchmarks.gpu.bench import Bench, model_of
from benchmarks.gpu.children import Channel, alone
from benchmarks.gpu.results import Outcome, figure
from benchmarks.gpu.whole import whole_of
from services.infer.engines.onnx_cpu import OnnxCpuDetector
from shared.faces import Face
from shared.jobs import JobSpec, OutputPlan
from shared.media.canvas import plan_output
from shared.media.layout import FrameLayout
from shared.media.probe import probe
from shared.settings import Settings

TITLE = "a naive program for the same video"
TIMES_LEAST = 8.0
PATIENCE_S = 180.0

Image = npt.NDArray[np.uint8]


def measure(bench: Bench) -> Outcome:
    """Frames/s, and how many times that the system does."""
    clip, note = bench.sample
    arguments = (bench.settings, clip.path, bench.folder, bench.sizes.naive_s)
    frames, seconds, model = alone(_naive, *arguments, patience_s=PATIENCE_S)
    speed = frames / seconds
    figures = [figure("naive program", "frames/s", [speed], f"{frames} frames")]
    notes = [
        *([note] if note else []),
        f"{model} on the CPU on every frame at its full size, {os.cpu_count()} threads; "
        "FFmpeg's and x264's own choice of threads. Loading the model does not count.",
    ]
    line = f"{speed:.1f} frames/s"
    try:
        whole = whole_of(bench)
    except Exception as error:  # noqa: BLE001 - the part `whole` says the same
        notes.append(f"No ratio, as the whole system was not measured: {error}")
        return Outcome(line=f"{line}; no ratio", figures=tuple(figures), notes=tuple(notes))
    ratios = [value / speed for value in max(whole.speeds.values(), key=statistics.median)]
    means = "frames/s of its fastest number of streams, same run, not in turns"
    figures.append(figure("system to naive program", "times", ratios, means, least=TIMES_LEAST))
    return Outcome(
        line=f"{line}; the system does {statistics.median(ratios):.1f} times that",
        figures=tuple(figures),
        notes=tuple(notes),
    )


def _naive(
    channel: Channel,  # noqa: ARG001 - as `alone` calls it
    settings: Settings,
    path: Path,
    folder: Path,
    most_s: float,
) -> tuple[int, float, str]:
    """Frames, seconds, model; stops at the end of the video or after `most_s`."""
    entry, model = model_of(settings)
    source = probe(path, "mp4")
    output = plan_output(JobSpec(source="x"), source)
    layout = FrameLayout(width=source.width, height=source.height)
    detector = OnnxCpuDetector(
        entry,
        model,
        threads=os.cpu_count() or 1,
        long_side_px=max(source.width, source.height),
        second_long_side_px=0,
    )
    warm = np.zeros(layout.frame_bytes, np.uint8)
    detector.detect([layout.planes(warm)], layout)
    target = folder / "naive.mp4"
    began, count = time.perf_counter(), 0
    with av.open(str(target), "w") as out:
        stream = out.add_stream("libx264", rate=Fraction(*output.frame_rate))
        stream.width, stream.height, stream.pix_fmt = output.width, output.height, "yuv420p"
        stream.options = {"preset": output.preset, "crf": str(output.crf)}
        for frame in _frames(path):
            picture = np.asarray(frame.to_ndarray(format="bgr24"), np.uint8)
            planar = np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2YUV_I420), np.uint8)
            (faces,) = detector.detect([layout.planes(planar.reshape(-1))], layout)
            made = av.VideoFrame.from_ndarray(_drawn(picture, faces, output), format="bgr24")
            out.mux(stream.encode(made))
            count += 1
            if time.perf_counter() - began > most_s:
                break
        out.mux(stream.encode(None))
    seconds = time.perf_counter() - began
    target.unlink()
    return count, seconds, entry.name


def _frames(path: Path) -> Iterator[av.VideoFrame]:
    with av.open(str(path)) as opened:
        opened.streams.video[0].thread_type = "AUTO"
        yield from opened.decode(video=0)


def _drawn(picture: Image, faces: tuple[Face, ...], output: OutputPlan) -> Image:
    """Both halves: around the two best faces, from left to right, else the halves of the frame."""
    two = sorted(faces[:2], key=lambda face: face.x)
    high, wide = picture.shape[:2]
    middles = [(face.x + face.w / 2, face.y + face.h / 2) for face in two]
    middles += [(wide * (0.25 + 0.5 * place), high / 2) for place in range(len(middles), 2)]
    tiles = []
    for (x, y), tile in zip(middles, output.tiles, strict=True):
        height = int(0.7 * high)
        width = min(wide, height * tile.w // tile.h)
        left = int(min(max(0, x - width / 2), wide - width))
        top = int(min(max(0, y - height / 2), high - height))
        crop = picture[top : top + height, left : left + width]
        tiles.append(cv2.resize(crop, (tile.w, tile.h)))
    return np.asarray(np.hstack(tiles), np.uint8)
