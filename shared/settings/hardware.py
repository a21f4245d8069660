"""What values suit which hardware: facts in, values with their reasons out. No I/O.

On a machine without a GPU these are the defaults. The figures of what a stream takes are worked
out, not measured on a GPU: 640 MiB for its frames on their way (six batches of 35 frames of 1080p),
250 MiB for the pictures that its decoder and its encoder keep.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

STREAM_MIB = 640 + 250
"""VRAM of one stream of 1080p."""
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
    `nvenc_sessions`: how many opened at a time when tried, None: not tried."""

    uuid: str
    name: str
    memory_mib: int
    compute: tuple[int, int]
    nvenc_engines: int = 0
    nvdec_engines: int = 0
    nvenc_sessions: int | None = None


@dataclass(frozen=True, slots=True)
class HardwareFacts:
    """This machine. `driver`: of NVIDIA, "" without one. `release`: ours."""

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
    tried = [gpu.nvenc_sessions for gpu in encoding if gpu.nvenc_sessions is not None]
    if not encoding:
        values["gpu.nvenc_sessions"] = Derived(0, "no GPU here has NVENC: x264 encodes")
    elif tried:
        values["gpu.nvenc_sessions"] = Derived(min(tried), "so many opened at a time when tried")
    if encoding:
        values["performance.encode_preset_gpu"] = _preset(encoding)
    return values


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
    yield facts.cores, "one per core: tracking and handing on are the CPU's"
    encoding = [gpu for gpu in facts.gpus if gpu.nvenc_engines]
    if not encoding:
        yield (
            facts.cores // CORES_PER_STREAM,
            f"no NVENC: x264 on {facts.cores} cores keeps up with one for each {CORES_PER_STREAM}",
        )
        return
    engines = min(gpu.nvenc_engines for gpu in encoding)
    yield (
        engines * STREAMS_PER_ENCODER,
        f"{engines} x NVENC per GPU, and more than {STREAMS_PER_ENCODER} on one only wait",
    )
    known = [gpu.nvenc_sessions for gpu in encoding if gpu.nvenc_sessions is not None]
    sessions = min(known, default=UNTRIED_NVENC)
    yield (
        sessions // len(encoding),
        f"{sessions} sessions of NVENC, shared by {len(encoding)} GPU(s)",
    )


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
