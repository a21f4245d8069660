"""What values suit which hardware: facts in, values with their reasons out. No I/O.

On a machine without a GPU these are the defaults. The figures of what a stream takes are worked
out, not measured on a GPU: 640 MiB for its frames on their way (six batches of 35 frames of 1080p),
250 MiB for the pictures that its decoder and its encoder keep.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

FRAMES_MIB, PICTURES_MIB = 640, 250
STREAM_MIB = FRAMES_MIB + PICTURES_MIB
"""VRAM of one stream of 1080p."""
CONTEXT_MIB = 500
"""VRAM that CUDA takes for a process, whatever it does there; some, by others' reports."""
HEADROOM = 0.9
"""Of the streams that memory has room for: videos larger than 1080p come, too."""
STREAMS_PER_ENCODER = 4
"""More don't make an encoder of the GPU faster, they only take memory."""
CORES_PER_STREAM = 8
"""Where the CPU encodes what the GPU decodes: one stream feeds so many x264."""
LEAST_NVDEC = 8
UNTRIED_NVENC = 3
"""Safe with all drivers of consumer GPUs but the oldest."""
BATCHES = ((24_000, 32), (12_000, 16), (5_000, 8), (0, 4))
"""Frames that are looked at in one go, by the least VRAM in MiB."""
TURING, ADA = (7, 5), (8, 9)
"""Capabilities from which NVENC is of that generation."""
STREAMS = "performance.max_concurrent_streams"


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """One GPU or MIG slice, as probed. `memory_mib`: its own, not what is free of it. `compute`:
    its capability. Engines: how many; 0: it has no hardware for that (A100 and H100 have no NVENC).
    `nvenc_sessions`: how many opened at a time when tried, None: not tried; `nvenc_refused`: False
    where none of them was refused, so that the trial's end is no limit."""

    uuid: str
    name: str
    memory_mib: int
    compute: tuple[int, int]
    nvenc_engines: int = 0
    nvdec_engines: int = 0
    nvenc_sessions: int | None = None
    nvenc_refused: bool = True


@dataclass(frozen=True, slots=True)
class HardwareFacts:
    """This machine. `cores`: of all of it, which the arenas of its GPUs share. `driver`: of NVIDIA,
    "" without one. `release`: ours. `gpus`: those that are used, an arena each."""

    cores: int
    release: str
    driver: str = ""
    gpus: tuple[GpuFacts, ...] = ()


@dataclass(frozen=True, slots=True)
class Derived:
    """A value for a setting, and in one sentence how it came about."""

    value: object
    reason: str


def derive(
    facts: HardwareFacts, *, memory_share: float = 0.875, engine_margin: float = 0.15
) -> dict[str, Derived]:
    """Values by the dotted names of settings. With several GPUs those that suit the weakest: a
    setting is for all arenas of the machine.

    `memory_share`, `engine_margin`: as `gpu.memory_share` and `gpu.engine_margin`.
    """
    if not facts.gpus:
        reason = (
            "no GPU: decoding is the cheapest stage, and one decoder keeps the batches in order"
        )
        return {STREAMS: Derived(1, reason)}
    weakest = min(facts.gpus, key=lambda gpu: gpu.memory_mib)
    usable_mib = weakest.memory_mib * memory_share
    streams, why = min(_bounds(facts, weakest, usable_mib * (1 - engine_margin)))
    values = {
        STREAMS: Derived(max(1, streams), why),
        "performance.infer_batch": _batch(weakest),
        "gpu.nvdec_sessions": _decoders(facts.gpus, max(1, streams)),
    }
    encoding = [gpu for gpu in facts.gpus if gpu.nvenc_engines]
    sessions = _sessions(encoding)
    if not encoding:
        values["gpu.nvenc_sessions"] = Derived(0, "no GPU here has NVENC: x264 encodes")
    elif sessions is not None:
        values["gpu.nvenc_sessions"] = Derived(*sessions)
    if encoding:
        values["performance.encode_preset_gpu"] = _preset(encoding)
    return values


def encoders_on_cores(
    cores: int,
    memory_mib: int,
    streams: int,
    *,
    memory_share: float = 0.875,
    engine_margin: float = 0.15,
    arena_mib: int | None = None,
) -> int:
    """Encoder processes of a GPU whose frames are encoded by `cores` of the host, one thread each.

    Each has a context on the GPU, to fetch frames from there: as many as fit beside the frames,
    pictures and decoders of its `streams` into the share without the margin, which is for models
    and for the processes that every arena has. At least one. `arena_mib`: for frames, as set.
    """
    frames_mib = FRAMES_MIB * streams if arena_mib is None else arena_mib
    room_mib = memory_mib * memory_share * (1 - engine_margin)
    room_mib -= frames_mib + (PICTURES_MIB + CONTEXT_MIB) * streams
    return max(1, min(cores, int(room_mib // CONTEXT_MIB)))


def _bounds(
    facts: HardwareFacts, weakest: GpuFacts, frames_mib: float
) -> Iterator[tuple[int, str]]:
    """What bounds the number of streams of one GPU, and by how much."""
    room = int(frames_mib / STREAM_MIB * HEADROOM)
    yield (
        room,
        f"{weakest.name} has room for so many: {frames_mib:.0f} MiB for frames, {STREAM_MIB} MiB "
        f"each at 1080p, a tenth kept for larger videos",
    )
    cores = facts.cores // len(facts.gpus)
    yield (
        cores,
        "one per core: tracking and handing on are the CPU's, which "
        f"{len(facts.gpus)} GPU(s) share",
    )
    encoding = [gpu for gpu in facts.gpus if gpu.nvenc_engines]
    if not encoding:
        yield (
            cores // CORES_PER_STREAM,
            f"no NVENC: x264 on {cores} cores per GPU keeps up with one for each "
            f"{CORES_PER_STREAM}",
        )
        return
    engines = min(gpu.nvenc_engines for gpu in encoding)
    yield (
        engines * STREAMS_PER_ENCODER,
        f"{engines} x NVENC per GPU, and more than {STREAMS_PER_ENCODER} on one only wait",
    )
    tried = _sessions(encoding)
    sessions = UNTRIED_NVENC if tried is None else tried[0]
    yield (
        sessions // len(encoding),
        f"{sessions} sessions of NVENC, shared by {len(encoding)} GPU(s)",
    )


def _sessions(encoding: Sequence[GpuFacts]) -> tuple[int, str] | None:
    """Sessions of NVENC at a time on the whole machine, and why; None: not tried. A limit is a
    driver's, for all its GPUs; where none of them met one, each opens what it opened alone."""
    tried = [gpu for gpu in encoding if gpu.nvenc_sessions is not None]
    counts = [gpu.nvenc_sessions or 0 for gpu in tried]
    if not tried:
        return None
    if len(tried) == len(encoding) and not any(gpu.nvenc_refused for gpu in tried):
        reason = f"none of so many, tried on {len(tried)} GPU(s), was refused: no limit is known"
        return sum(counts), reason
    return min(counts), "so many opened at a time when tried"


def _batch(gpu: GpuFacts) -> Derived:
    fitting = next(frames for least_mib, frames in BATCHES if gpu.memory_mib >= least_mib)
    return Derived(fitting, f"{gpu.name} has {gpu.memory_mib} MiB")


def _decoders(gpus: Sequence[GpuFacts], streams: int) -> Derived:
    if not any(gpu.nvdec_engines for gpu in gpus):
        return Derived(0, "no GPU here has NVDEC: the CPU decodes")
    reason = "no driver limits them, some 100 MiB of memory each does"
    return Derived(max(LEAST_NVDEC, streams), reason)


def _preset(gpus: Sequence[GpuFacts]) -> Derived:
    oldest = min(gpu.compute for gpu in gpus)
    if oldest < TURING:
        return Derived("p3", "NVENC before Turing: slower presets cost much and gain little")
    if oldest < ADA:
        return Derived("p4", "NVENC of Turing or Ampere")
    return Derived("p5", "NVENC of Ada or later is fast enough for a better preset")
