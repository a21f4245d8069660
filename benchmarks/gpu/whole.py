"""The whole system, real processes, against the same stages in one process; and what is seen while
it runs: bytes between host and device, VRAM, how full batches are. Run once, for three parts."""

from __future__ import annotations

import re
import signal
import statistics
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from benchmarks.gpu.bench import Bench, model_of
from benchmarks.gpu.children import Crew
from benchmarks.gpu.results import Figure, Outcome, figure
from benchmarks.gpu.single import Lap, single
from benchmarks.two_cores import Quiet
from client.requests import Options, Request, make_request
from client.run import InterruptedRunError, run_on
from client.stack import Stack, running_stack
from services.decode.plan import batch_frames
from shared.arena.registry import ArenaRegistry
from shared.gpu import Gpus
from shared.jobs import JobSpec
from shared.ledger import STAGES
from shared.media.canvas import plan_output
from shared.media.layout import FrameLayout
from shared.media.probe import probe
from shared.metrics.book import render
from shared.settings import Settings

TITLE = "the whole system against one process"
VRAM_TITLE = "VRAM in use, and how full batches are"
BYTES_TITLE = "bytes between host and device per frame, by stage"
BOUNDARY_MOST_PERCENT = 3.0
VRAM_MOST_PERCENT = 87.5
FILL_LEAST_PERCENT = 90.0
PATIENCE_S = 240.0
HAND_OVERS = 3
"""Of a batch: to infer, compose, encode."""
LOOK_EVERY_S = 0.05
_COPIED = re.compile(r'^dualface_copied_bytes_total\{direction="(\w+)",stage="(\w+)"\} (\S+)', re.M)
_FILL = re.compile(r"^dualface_batch_fill_ratio_(sum|count) (\S+)", re.M)


@dataclass
class Whole:
    """What the runs gave. `batch`: frames of one; `speeds`: frames/s of all streams together, by
    their number; `copied`: bytes by stage and direction, of `copied_frames`; VRAM in bytes."""

    batch: int
    speeds: dict[int, list[float]]
    laps: list[Lap]
    engines: dict[str, str]
    engines_of_single: dict[str, str]
    copied: Counter[tuple[str, str]]
    copied_frames: int
    fill: float
    used_before: int | None
    used_most: int | None
    memory_total: int | None
    slab_bytes: int
    note: str


def whole_of(bench: Bench) -> Whole:
    """Run it, or what it gave before. One that failed is not tried again."""
    kept = bench.kept.get("whole")
    if kept is None:
        try:
            kept = _run(bench)
        except Exception as error:
            bench.kept["whole"] = error
            raise
        bench.kept["whole"] = kept
    if isinstance(kept, Exception):
        raise kept
    assert isinstance(kept, Whole)
    return kept


def measure(bench: Bench) -> Outcome:
    """Frames/s of 1 and more streams, and what the processes cost."""
    whole = whole_of(bench)
    alone = [lap.frames / lap.seconds for lap in whole.laps]
    figures = [figure("one process", "frames/s", alone, "stages one after the other, no queue")]
    figures += _boundaries(bench, whole, alone)
    for name in STAGES:
        values = [1000 * lap.by_stage[name] / lap.frames for lap in whole.laps]
        figures.append(figure(f"one process, {name}", "ms/frame", values, "its share of that"))
    rest = [1000 * lap.rest / lap.frames for lap in whole.laps]
    figures.append(figure("one process, rest", "ms/frame", rest, "probe, cut, plan, mux"))
    for count, values in whole.speeds.items():
        figures += _streams(whole, count, values, alone)
    first = min(whole.speeds)
    cost = _cost(first, whole.speeds[first], alone)
    said = ", ".join(f"x{n} {statistics.median(v):.1f}" for n, v in whole.speeds.items())
    return Outcome(
        line=f"frames/s: one process {statistics.median(alone):.1f}, system {said}; "
        f"{cost.name} {cost.median:.1f} %",
        figures=tuple(figures),
        notes=(
            *([whole.note] if whole.note else []),
            _told("system", whole.engines),
            _told("one process", whole.engines_of_single),
            "Rounds alternate: one process, then the system with each number of streams. The one "
            "process works stage after stage; the system's stages overlap, so its cost may be "
            "below zero, which does not mean that boundaries are free: `ipc` tells what one costs. "
            "The ideal line is as fast as its slowest stage in the one process.",
        ),
    )


def _streams(
    whole: Whole, count: int, values: Sequence[float], alone: Sequence[float]
) -> list[Figure]:
    ideal = [lap.frames / max(lap.by_stage.values()) for lap in whole.laps]
    shares = [100 * value / statistics.median(ideal) for value in values]
    means = "from submission to the stored result, by the ledger's times"
    return [
        figure(f"system x{count}", "frames/s", values, means),
        figure(f"system x{count} of the ideal line", "%", shares, "one worker per stage, no cost"),
        _cost(count, values, alone),
    ]


def _cost(count: int, values: Sequence[float], alone: Sequence[float]) -> Figure:
    """Of the rounds, pair by pair."""
    costs = [100 * (1 - value / one) for value, one in zip(values, alone, strict=True)]
    means = "time lost to one process's frames/s; below 0: overlap won more than processes cost"
    return figure(f"cost of processes x{count}", "%", costs, means, most=BOUNDARY_MOST_PERCENT)


def _boundaries(bench: Bench, whole: Whole, alone: Sequence[float]) -> list[Figure]:
    """What three hand-overs as `ipc` measured them are of a batch's time in one process."""
    ping = bench.kept.get("hand-over s")
    if not isinstance(ping, float):
        return []
    batch_s = [whole.batch / each for each in alone]
    values = [100 * HAND_OVERS * ping / each for each in batch_s]
    means = "of a batch's time in one process; with Redis, without Celery's own work (see `ipc`)"
    return [figure("three hand-overs", "%", values, means, most=BOUNDARY_MOST_PERCENT)]


def _told(who: str, engines: dict[str, str]) -> str:
    return f"engines of {who}: " + ", ".join(f"{stage} {each}" for stage, each in engines.items())


# --- running --------------------------------------------------------------------------------------


def _run(bench: Bench) -> Whole:
    clip, note = bench.sample
    used = Vram(bench.gpu.uuid)
    folder, metrics = bench.folder / "whole", bench.folder / "metrics"
    folder.mkdir()
    settings = bench.base.model_copy(update={"metrics": True, "metrics_dir": metrics})
    model_of(settings)
    before = used.now()
    with used, running_stack(settings) as stack:
        stack.wait_until_consuming()
        return _rounds(bench, stack, clip.path, clip.frames, folder, used, before, note)


def _rounds(
    bench: Bench,
    stack: Stack,
    path: Path,
    frames: int,
    folder: Path,
    used: Vram,
    before: int | None,
    note: str,
) -> Whole:
    metrics, streams = stack.settings.metrics_path, bench.sizes.streams
    # Engines are loaded, compiled and tried before anything counts.
    _, engines = _jobs(stack, path, folder, 1)
    used.forget()
    _jobs(stack, path, folder, max(streams))
    most = used.most
    slab, slot = _slab(stack)
    spec = make_request(path, folder / "spec.mp4", Options()).spec
    batch = _batch(path, spec, stack.settings, slot)
    mine = bench.settings.model_copy(update={"redis_url": stack.settings.redis_url})
    speeds: dict[int, list[float]] = {count: [] for count in streams}
    laps: list[Lap] = []
    with Crew(single, 1, mine, path, spec, batch, folder) as crew:
        chosen = crew.hear(0, PATIENCE_S)
        crew.tell(0, "warm up")
        crew.hear(0, PATIENCE_S)
        text, count = _figures(metrics), 0
        while len(laps) < bench.sizes.rounds and not (laps and bench.late):
            crew.tell(0, "go")
            laps.append(crew.hear(0, PATIENCE_S))
            for number in streams:
                seconds, _ = _jobs(stack, path, folder, number)
                speeds[number].append(number * frames / seconds)
                count += number * frames
        after = _figures(metrics)
    return Whole(
        batch=batch,
        speeds=speeds,
        laps=laps,
        engines=engines,
        engines_of_single=chosen,
        copied=_copied(after) - _copied(text),
        copied_frames=count,
        fill=_fill(text, after),
        used_before=before,
        used_most=most,
        memory_total=used.total,
        slab_bytes=slab,
        note=note,
    )


def _jobs(stack: Stack, path: Path, folder: Path, count: int) -> tuple[float, dict[str, str]]:
    """Seconds from the first submission to the last result, and the engines of the first job."""
    requests = [_request(path, folder / f"out-{index}.mp4") for index in range(count)]
    late: list[int] = []
    timer = threading.Timer(PATIENCE_S, late.append, (signal.SIGALRM,))
    timer.start()
    try:
        outcomes = run_on(stack, requests, Quiet(), time.monotonic(), late)
    except InterruptedRunError as error:
        raise RuntimeError(f"{count} jobs were not made within {PATIENCE_S:.0f} s") from error
    finally:
        timer.cancel()
    views = []
    for outcome in outcomes:
        if outcome.error is not None or outcome.view is None:
            raise RuntimeError(f"a job failed: {outcome.error}")
        views.append(outcome.view)
        outcome.request.output.unlink()
    ends = [view.ended_ms for view in views if view.ended_ms is not None]
    seconds = (max(ends) - min(view.submitted_ms for view in views)) / 1000
    return max(seconds, 0.001), views[0].engines


def _request(path: Path, output: Path) -> Request:
    return make_request(path, output, Options())


def _slab(stack: Stack) -> tuple[int, int]:
    """Bytes of the arena, and of a slot."""
    (descriptor, *_) = ArenaRegistry(stack.redis).all()
    if descriptor.kind != "cuda":
        raise RuntimeError("the stack did not get an arena on the GPU; see its logs")
    return descriptor.total_bytes, descriptor.slot_bytes


def _batch(path: Path, spec: JobSpec, settings: Settings, slot_bytes: int) -> int:
    """Frames of a batch, as the system has them."""
    source = probe(path, "mp4")
    output = plan_output(spec, source)
    layouts = (
        FrameLayout(width=source.width, height=source.height),
        FrameLayout(width=output.width, height=output.height),
    )
    return min(batch_frames(slot_bytes, each, settings.batch_frames) for each in layouts)


# --- bytes, VRAM, batches -------------------------------------------------------------------------


def measure_bytes(bench: Bench) -> Outcome:
    """0 from decode to compose."""
    whole = whole_of(bench)
    figures = []
    for stage in STAGES:
        for direction in ("host_to_device", "device_to_host"):
            value = whole.copied[stage, direction] / whole.copied_frames
            most = 0.0 if stage in ("decode", "compose") else None
            means = "of frames, counted where they are copied"
            if stage == "infer":
                means = "a detector's outputs; whole frames where it works on the CPU"
            if stage == "encode":
                means = "thumbnails; whole frames where there is no NVENC"
            name = f"{stage}, {direction.replace('_', ' ')}"
            figures.append(figure(name, "bytes/frame", [value], means, most=most))
    between = sum(each.median for each in figures if each.target)
    return Outcome(
        line=f"{between:.0f} bytes per frame in decode and compose",
        figures=tuple(figures),
        notes=(
            f"Of {whole.copied_frames} frames. Compressed packets, which PyNvVideoCodec takes "
            "from and gives to host memory, are not frames and not counted.",
            _told("system", whole.engines),
        ),
    )


def measure_vram(bench: Bench) -> Outcome:
    """Peak during `whole`."""
    whole = whole_of(bench)
    if whole.used_most is None or not whole.memory_total:
        raise RuntimeError("NVML does not tell this device's memory")
    total, gib = whole.memory_total, 1 << 30
    share = 100 * whole.used_most / total
    figures = [
        figure("peak of VRAM in use", "%", [share], "by whomever", most=VRAM_MOST_PERCENT),
        figure("peak of VRAM in use, bytes", "GiB", [whole.used_most / gib], "the same"),
        figure("VRAM of the card", "GiB", [total / gib], "all there is"),
        figure("the arena", "GiB", [whole.slab_bytes / gib], "part of it"),
    ]
    if whole.used_before is not None:
        means = "before the stack started: this benchmark's own and others'"
        figures.append(figure("VRAM in use before", "GiB", [whole.used_before / gib], means))
    fill = 100 * whole.fill
    means = "mean of frames in a batch to the most it may have"
    figures.append(figure("batch fill", "%", [fill], means, least=FILL_LEAST_PERCENT))
    return Outcome(
        line=f"peak {share:.1f} % of VRAM, batches {fill:.0f} % full",
        figures=tuple(figures),
        notes=(
            f"Of {max(whole.speeds)} streams at a time, before the one process of `whole` "
            f"began; looked at every {1000 * LOOK_EVERY_S:.0f} ms.",
        ),
    )


class Vram:
    """Watches a GPU's memory, while in the context."""

    def __init__(self, uuid: str) -> None:
        self._uuid = uuid
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.most: int | None = None
        self.total: int | None = None

    def now(self) -> int | None:
        """Bytes in use."""
        gpus = Gpus()
        try:
            return self._look(gpus)
        finally:
            gpus.close()

    def forget(self) -> None:
        """Begin anew."""
        self.most = None

    def __enter__(self) -> Vram:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        gpus = Gpus()
        try:
            while not self._stop.wait(LOOK_EVERY_S):
                used = self._look(gpus)
                if used is not None:
                    self.most = max(used, self.most or 0)
        finally:
            gpus.close()

    def _look(self, gpus: Gpus) -> int | None:
        loads = gpus.loads()
        mine = [load for load in loads if load.uuid == self._uuid] or loads[: len(loads) == 1]
        if not mine:
            return None
        self.total = mine[0].memory_total_bytes
        return mine[0].memory_used_bytes


def _figures(folder: Path) -> str:
    return render(folder)[0].decode()


def _copied(text: str) -> Counter[tuple[str, str]]:
    found: Counter[tuple[str, str]] = Counter()
    for direction, stage, value in _COPIED.findall(text):
        found[stage, direction] += int(float(value))
    return found


def _fill(before: str, after: str) -> float:
    """Mean of what was observed in between."""
    first = {kind: float(value) for kind, value in _FILL.findall(before)}
    last = {kind: float(value) for kind, value in _FILL.findall(after)}
    count = last.get("count", 0.0) - first.get("count", 0.0)
    if not count:
        raise RuntimeError("no batch was counted")
    return (last["sum"] - first.get("sum", 0.0)) / count
