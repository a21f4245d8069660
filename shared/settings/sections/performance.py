"""How much is worked on at a time, and with what."""

import os
from typing import ClassVar, Literal

from pydantic import AliasChoices, Field

from shared.settings.section import WEEK_S, Section


def _cores() -> int:
    return len(os.sched_getaffinity(0))


class Performance(Section):
    """How much is worked on at a time, and with what."""

    section: ClassVar[str] = "performance"

    max_concurrent_streams: int = Field(
        default=1, ge=1, le=256,
        validation_alias=AliasChoices("max_concurrent_streams", "decode_workers"),
        description="Segments worked on at a time per arena. 1 without a GPU: decoding is the "
        "cheapest stage, and one decoder keeps the batches in order. DUALFACE_DECODE_WORKERS is "
        "its old name: as strong as the new one's layer, weaker than the new one itself."
    )  # fmt: skip
    segments_in_flight: int = Field(
        default=2, ge=1, description="Segments of one job that are with decoders at a time."
    )
    jobs_ahead: int = Field(
        default=16, ge=1, description="Jobs of one priority that are split before their segments "
        "are needed: segments are a second copy of the source in the store. Also how many jobs of "
        "one priority share the decoders at a time."
    )  # fmt: skip
    segment_target_s: float = Field(
        default=10.0,
        gt=0,
        le=WEEK_S,
        description="Whole GOPs are joined up to about this length, seconds.",
    )
    batch_frames: int = Field(
        default=32, ge=1, le=64, description="Most frames of a batch (also a chunk's GOP): long "
        "enough that a queue hop (3 ms) and an IDR cost little, short enough that the last chunks "
        "keep all cores busy. Fewer when a slot holds fewer."
    )  # fmt: skip
    detect_every: int = Field(default=5, ge=1, description="Frames per detection; 1: every one.")
    infer_batch: int = Field(
        default=8, ge=1, le=64, description="Frames that a GPU looks for faces in at a time."
    )
    encode_preset_gpu: Literal["p1", "p2", "p3", "p4", "p5", "p6", "p7"] = Field(
        default="p4", description="NVENC's preset: p1 is the fastest, p7 the best."
    )
    decode_threads: int = Field(default=2, ge=1, description="Threads of a software decoder.")
    infer_threads: int = Field(default=1, ge=1, description="Threads of ONNX Runtime on the CPU.")
    infer_precision: Literal["auto", "fp32", "fp16", "int8"] = Field(
        default="auto", description="Of detection models. auto: INT8 where its evaluation says so "
        "(docs/int8.md) and it is faster, else what an engine is best at: FP32 on a CPU."
    )  # fmt: skip
    encode_workers: int = Field(
        default_factory=_cores, ge=1, le=1024,
        description="Encoder processes per host without a GPU: one "
        "single-threaded x264 per core wastes nothing on frame-thread synchronisation."
    )  # fmt: skip
    encode_threads: int = Field(default=1, ge=1, description="Threads of one software encoder.")
    worker_nice: int = Field(
        default=5, ge=0, le=19, description="How far the processes that work on frames stand back "
        "for those that answer: API, coordinator, Redis, and whoever sits at the machine."
    )  # fmt: skip
