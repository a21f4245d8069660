"""Latency of each stage per frame, in one process, stage by stage."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.gpu.bench import Bench, Clip, model_of
from benchmarks.gpu.children import Channel, alone
from benchmarks.gpu.line import Line, runtime_of
from benchmarks.gpu.results import Figure, Outcome, figure
from services.infer.engines import Detectors
from services.infer.engines.base import Detector
from services.infer.engines.onnx_cuda import OnnxCudaDetector
from services.infer.engines.onnx_session import CPU
from services.infer.engines.tensorrt import Options, TensorRtDetector
from services.infer.engines.trt_cache import EngineCache
from services.infer.plan import frames_to_detect
from shared.errors import DualfaceError, EngineError
from shared.jobs import JobSpec
from shared.runtime import Runtime
from shared.settings import Settings

TITLE = "latency per frame of each stage alone"
TARGETS_MS = {"decode": 5.0, "infer": 15.0, "compose": 3.0, "encode": 7.0}
PATIENCE_S = 400.0
GPU_MIB = 1024


def measure(bench: Bench) -> Outcome:
    """Milliseconds per frame, against 5 / 15 / 3 / 7."""
    clip, note = bench.sample
    folder = bench.folder / "stages"
    folder.mkdir()
    sizes = bench.sizes
    arguments = (bench.settings, clip, folder, sizes.batch, sizes.repeats, sizes.compile_s)
    found = alone(_measured, *arguments, bench.rehearsal, patience_s=PATIENCE_S)
    figures, notes = found
    said = [f"{each.name} {each.median:.2f}" for each in figures if each.target]
    notes = [*([note] if note else []), *notes]
    return Outcome(
        line=f"ms per frame: {', '.join(said)}", figures=tuple(figures), notes=tuple(notes)
    )


def _measured(
    channel: Channel,  # noqa: ARG001 - as `alone` calls it
    settings: Settings,
    clip: Clip,
    folder: Path,
    batch: int,
    repeats: int,
    compile_s: float,
    rehearsal: bool,
) -> tuple[list[Figure], list[str]]:
    runtime = runtime_of(settings, "bench")
    line = Line(runtime, clip.source, JobSpec(source="x"), batch, folder)
    notes, detectors = _detectors(runtime, compile_s, rehearsal)
    segment, path = clip.segments[0]
    line.detector = detectors[0][1]  # so the system's own choice need not be made
    names = line.choose(segment, path)
    notes.append("engines: " + ", ".join(f"{stage} {name}" for stage, name in names.items()))
    figures = [_decode(line, clip, repeats, names["decode"])]
    count = len(frames_to_detect(batch, settings.detect_every))
    for name, detector in detectors:
        figures += _infer(line, name, detector, count, repeats)
    figures.append(_compose(line, repeats, names["compose"]))
    figures += _encode(line, repeats, names["encode"])
    return figures, notes


def _decode(line: Line, clip: Clip, repeats: int, name: str) -> Figure:
    """Batches of whole segments, one after the other: their first one waits for B-frames."""
    times: list[float] = []
    while len(times) < repeats:
        for segment, path in clip.segments:
            began = time.perf_counter()
            for pts in line.batches(line.decoders[0], segment, path):
                now = time.perf_counter()
                times.append(1000 * (now - began) / len(pts))
                began = time.perf_counter()
    means = f"{name}: a batch decoded into a slot and finished, per frame"
    return figure("decode", "ms", times, means, most=TARGETS_MS["decode"])


def _infer(line: Line, name: str, detector: Detector, count: int, repeats: int) -> list[Figure]:
    one, many = line.planes(1), line.planes(count)
    single = _times(lambda: line.look(detector, one), repeats)
    batched = [each / count for each in _times(lambda: line.look(detector, many), repeats)]
    figures = [
        figure(
            f"infer {name}",
            "ms",
            single,
            "one frame looked at, faces out",
            most=TARGETS_MS["infer"],
        )
    ]
    means = f"per frame looked at, {count} at a time as in a batch"
    return [*figures, figure(f"infer {name}, batch", "ms", batched, means)]


def _compose(line: Line, repeats: int, name: str) -> Figure:
    views = line.default_views()
    one = _times(lambda: line.draw(line.renderers[0], [views]), repeats)
    means = f"{name}: one frame drawn and finished"
    return figure("compose", "ms", one, means, most=TARGETS_MS["compose"])


def _encode(line: Line, repeats: int, name: str) -> list[Figure]:
    line.draw(line.renderers[0], [line.default_views()] * line.batch)
    step = line.source.time_base[1] * line.source.frame_rate[1]
    ticks = max(1, step // (line.source.time_base[0] * line.source.frame_rate[0]))
    pts = [index * ticks for index in range(line.batch)]
    encoder = line.encoders[0]
    repeats = max(2, repeats // 10)
    times = _times(lambda: line.pack(encoder, pts, 0), repeats)
    copy = " with the copy to the host" if encoder.memory == "host" else ""
    means = f"{name}{copy}: a chunk of {line.batch} frames, per frame"
    values = [each / line.batch for each in times]
    figures = [figure("encode", "ms", values, means, most=TARGETS_MS["encode"])]
    if encoder.session is not None:
        close = encoder.session.close

        def fresh() -> None:
            close()
            line.pack(encoder, pts, 0)

        values = [each / line.batch for each in _times(fresh, repeats)]
        means = f"{name}: the same, with a session opened for each chunk"
        figures.append(figure("encode, fresh sessions", "ms", values, means))
    return figures


def _times(do: Callable[[], object], repeats: int) -> list[float]:
    """Milliseconds of each call; the first two, which make and record things, do not count."""
    for _ in range(2):
        do()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        do()
        times.append(1000 * (time.perf_counter() - began))
    return times


# --- detectors ------------------------------------------------------------------------------------


class _TooLongError(EngineError):
    """Compiling takes longer than this benchmark has."""


def _detectors(
    runtime: Runtime, compile_s: float, rehearsal: bool
) -> tuple[list[str], list[tuple[str, Detector]]]:
    """Those that work here, and why the others do not."""
    settings, device = runtime.settings, runtime.device()
    entry, path = model_of(settings)
    began = time.monotonic()

    def in_time() -> None:
        if time.monotonic() - began > compile_s:
            raise _TooLongError(f"not compiled within {compile_s:.0f} s")

    def tensorrt() -> Detector:
        options = Options(precision="fp16", batch=settings.infer_batch, budget_bytes=GPU_MIB << 20)
        cache = EngineCache(runtime.store, None, runtime.worker)
        return TensorRtDetector(device, entry, path, cache, options, in_time)

    def onnx_cuda() -> Detector:
        if rehearsal:  # ONNX Runtime's CPU, on the doubles' memory
            return OnnxCudaDetector(
                device, entry, path, limit_bytes=GPU_MIB << 20, provider=CPU, place="cpu"
            )
        return OnnxCudaDetector(device, entry, path, limit_bytes=GPU_MIB << 20)

    makers: dict[str, Callable[[], Detector]] = {
        "tensorrt-fp16": tensorrt,
        "onnx-cuda": onnx_cuda,
        "onnx-cpu": lambda: _on_cpu(runtime),
    }
    notes, made = [f"model: {entry.name}"], []
    for name, make in makers.items():
        started = time.monotonic()
        try:
            made.append((name, make()))
        except DualfaceError as error:
            notes.append(f"{name} does not work here: {error.message}")
        else:
            notes.append(f"{name} was ready after {time.monotonic() - started:.1f} s")
    return notes, made


def _on_cpu(runtime: Runtime) -> Detector:
    return Detectors().of(runtime, "auto", "host")[0].get()
