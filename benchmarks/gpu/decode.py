"""Decoding: many decoders at a time, each a process, as the system has them; and what opening one
costs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from benchmarks.gpu.bench import Bench, Clip
from benchmarks.gpu.children import Channel, Crew, alone
from benchmarks.gpu.rated import rating
from benchmarks.gpu.results import Figure, Outcome, figure
from services.decode.engines.base import SegmentDecoder
from services.decode.engines.nvdec import NvdecDecoder
from services.decode.engines.pyav import PyAvDecoder
from shared.cuda.own import OwnDevice
from shared.media.layout import FrameLayout, PixelFormat
from shared.metrics import Meter
from shared.settings import Settings

TITLE = "NVDEC into device slots, decoders at a time"
PATIENCE_S = 120.0
WARM_UP_FRAMES = 64


def measure(bench: Bench) -> Outcome:
    """Frames/s by number of decoders, against their engines' rating and software; ms to open
    one."""
    figures: list[Figure] = []
    notes: list[str] = []
    lines: list[str] = []
    for clip, codec in ((bench.h264, "h264"), (bench.hevc, "hevc")):
        size = f"{clip.source.width}x{clip.source.height}"
        notes.append(
            f"{codec}: {size}, {clip.frames} frames, {clip.mbit_per_s:.1f} Mbit/s, B-frames, "
            "noise; each decoder does all of it again and again."
        )
        nvdec = _speeds(bench, clip, _nvdec, bench.sizes.decoders)
        most = max(bench.sizes.decoders)
        software = _speeds(bench, clip, _software, (1, most))
        rated = rating(codec, bench.gpu.compute, bench.gpu.uuid)
        notes.append(f"{codec}: rated: {rated.how if rated else 'unknown'}; {_engines(bench)}.")
        for count, values in nvdec.items():
            what = f"{count} processes, each a decoder of its own" if count > 1 else "one decoder"
            figures.append(figure(f"{codec} nvdec x{count}", "frames/s", values, what))
            if rated:
                most_fps = rated.of(count, bench.gpu.nvdec_engines)
                shares = [100 * value / most_fps for value in values]
                name = f"{codec} nvdec x{count} of the rating"
                figures.append(figure(name, "%", shares, f"{most_fps:.0f} frames/s by the rating"))
        threads = bench.settings.decode_threads
        for count, values in software.items():
            name = f"{codec} software x{count}"
            figures.append(
                figure(name, "frames/s", values, f"PyAV, {count} x {threads} threads, same run")
            )
        ratio = statistics.median(nvdec[most]) / statistics.median(software[most])
        figures.append(
            figure(
                f"{codec} nvdec to software, x{most}", "times", [ratio], "ratio of the two medians"
            )
        )
        lines.append(f"{codec} x{most} {statistics.median(nvdec[most]):.0f} frames/s")
    figures += _opening(bench)
    return Outcome(line=", ".join(lines), figures=tuple(figures), notes=tuple(notes))


def _engines(bench: Bench) -> str:
    """What is known of their number."""
    count = bench.gpu.nvdec_engines
    return f"engines: {count}" if count else "how many engines it has nobody tells, taken for one"


def _speeds(
    bench: Bench, clip: Clip, work: Callable[..., object], counts: Sequence[int]
) -> dict[int, list[float]]:
    """Frames/s of all decoders together, by how many; the numbers take turns."""
    found: dict[int, list[float]] = {count: [] for count in counts}
    arguments = (bench.settings, clip, bench.sizes.decode_s, bench.sizes.batch)
    with Crew(work, max(counts), *arguments) as crew:
        crew.ready()
        for _ in range(bench.sizes.rounds):
            for count in counts:
                for index in range(count):
                    crew.tell(index, "go")
                done = [crew.hear(index, PATIENCE_S) for index in range(count)]
                found[count].append(sum(frames / seconds for frames, seconds in done))
    return found


def _nvdec(channel: Channel, settings: Settings, clip: Clip, seconds: float, batch: int) -> None:
    device = OwnDevice(settings, Meter())()
    layout = _layout(clip, PixelFormat.NV12)
    slot = device.empty((batch * layout.frame_bytes,))
    _turns(channel, NvdecDecoder(device), clip, layout, slot, seconds, batch, device.finish)


def _software(channel: Channel, settings: Settings, clip: Clip, seconds: float, batch: int) -> None:
    layout = _layout(clip, PixelFormat.I420)
    slot = np.empty(batch * layout.frame_bytes, np.uint8)
    decoder = PyAvDecoder(settings.decode_threads)
    _turns(channel, decoder, clip, layout, slot, seconds, batch, lambda: None)


def _turns(
    channel: Channel,
    decoder: SegmentDecoder,
    clip: Clip,
    layout: FrameLayout,
    slot: np.ndarray,
    seconds: float,
    batch: int,
    finish: Callable[[], None],
) -> None:
    """Warm up, then decode for `seconds` whenever told to; says (frames, seconds)."""

    def frames() -> Iterator[None]:
        written = 0
        while True:
            for segment, path in clip.segments:
                for frame in decoder.decode(path, segment, clip.source):
                    frame.write_to(layout.planes(slot, written % batch))
                    written += 1
                    if written % batch == 0:
                        finish()  # as a batch is handed on
                    yield

    endless = frames()
    for _ in range(WARM_UP_FRAMES):
        next(endless)
    finish()
    channel.say("ready")
    while True:
        channel.wait()
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            next(endless)
            count += 1
        finish()
        channel.say((count, time.perf_counter() - began))


def _layout(clip: Clip, pixels: PixelFormat) -> FrameLayout:
    return FrameLayout(width=clip.source.width, height=clip.source.height, format=pixels)


# --- opening --------------------------------------------------------------------------------------


def _opening(bench: Bench) -> list[Figure]:
    large = bench.clip("h264", bench.sizes.picture, 0.4)
    small = bench.clip("h264", bench.sizes.smaller, 0.4)
    repeats = max(2, bench.sizes.repeats // 5)
    arguments = (bench.settings, large, small, repeats)
    fresh, kept, changed = alone(_first_frames, *arguments, patience_s=PATIENCE_S)
    kept_ms = statistics.median(kept)
    return [
        figure(
            "first frame, decoder closed before", "ms", fresh, "segment given to frame in a slot"
        ),
        figure("first frame, decoder kept", "ms", kept, "the same, same size of picture"),
        figure("first frame, decoder reconfigured", "ms", changed, "the same, other size before"),
        figure(
            "opening a decoder",
            "ms",
            [each - kept_ms for each in fresh],
            "closed before, less the median of kept (published for H100: 50 to 70)",
        ),
        figure(
            "reconfiguring a decoder",
            "ms",
            [each - kept_ms for each in changed],
            "other size before, less the median of kept (published for H100: 5 to 6)",
        ),
    ]


def _first_frames(
    channel: Channel,  # noqa: ARG001 - as `alone` calls it
    settings: Settings,
    large: Clip,
    small: Clip,
    repeats: int,
) -> tuple[list[float], list[float], list[float]]:
    """Milliseconds to the first frame of `large`: decoder closed before, kept, reconfigured."""
    device = OwnDevice(settings, Meter())()
    decoder = NvdecDecoder(device)
    slot = device.empty((_layout(large, PixelFormat.NV12).frame_bytes,))

    def first_ms(clip: Clip) -> float:
        layout = _layout(clip, PixelFormat.NV12)
        segment, path = clip.segments[0]
        began, ms = time.perf_counter(), 0.0
        for frame in decoder.decode(path, segment, clip.source):
            if not ms:
                frame.write_to(layout.planes(slot))
                device.finish()
                ms = 1000 * (time.perf_counter() - began)
        return ms  # decoded to its end: a decoder that is left in the middle is closed

    first_ms(large)  # kernels and capabilities
    fresh, kept, changed = [], [], []
    for _ in range(repeats):
        decoder.close()
        fresh.append(first_ms(large))
        kept.append(first_ms(large))
        first_ms(small)
        changed.append(first_ms(large))
    return fresh, kept, changed
