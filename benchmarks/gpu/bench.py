"""What all parts share: sizes, folders, settings, clips."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from benchmarks.gpu.about import Gpu
from benchmarks.gpu.clips import make_clip
from client.sample import make_sample
from services.decode.split import split
from shared.errors import PermanentError
from shared.jobs import Segment, SourceInfo
from shared.media.probe import probe
from shared.models import ModelEntry, choose, pull
from shared.settings import Settings


@dataclass(frozen=True)
class Sizes:
    """How much is measured. Sides in px, times in seconds.

    `decode_s`: length of one measurement of decoders. `rounds`: how often what is compared takes
    turns. `repeats`: of short things. `naive_s`: of the naive pipeline. `compile_s`: until a
    TensorRT engine is given up. `total_s`: after which no further round begins.
    """

    picture: tuple[int, int] = (1920, 1080)
    smaller: tuple[int, int] = (1280, 720)
    clip_s: float = 10.0
    hevc_s: float = 5.0
    sample_s: float = 20.0
    decoders: tuple[int, ...] = (1, 2, 4, 8)
    decode_s: float = 2.0
    streams: tuple[int, ...] = (1, 4)
    batch: int = 32
    rounds: int = 3
    repeats: int = 50
    naive_s: float = 15.0
    compile_s: float = 120.0
    total_s: float = 440.0


FULL = Sizes()
QUICK = Sizes(
    picture=(640, 360),
    smaller=(480, 272),
    clip_s=4.0,
    hevc_s=4.0,
    sample_s=6.0,
    decode_s=0.5,
    rounds=1,
    repeats=10,
    naive_s=3.0,
    total_s=200.0,
)
REHEARSAL = Sizes(
    picture=(192, 160),
    smaller=(176, 144),
    clip_s=1.0,
    hevc_s=0.5,
    sample_s=16 / 30,
    decoders=(1, 2),
    decode_s=0.05,
    streams=(1, 2),
    batch=8,
    rounds=1,
    repeats=1,
    naive_s=0.2,
    compile_s=60.0,
    total_s=200.0,
)
"""Over the doubles a kernel's threads run one after the other."""


@dataclass(frozen=True)
class Clip:
    """A source, probed and cut as the system does it."""

    path: Path
    source: SourceInfo
    segments: tuple[tuple[Segment, Path], ...]

    @property
    def frames(self) -> int:
        """Of all segments."""
        return sum(segment.frames for segment, _ in self.segments)

    @property
    def mbit_per_s(self) -> float:
        """Of the file."""
        return 8e-6 * self.path.stat().st_size / (self.frames / _rate(self.source))


@dataclass
class Bench:
    """One run, with a state folder of its own. `base` are the settings that a stack is started
    with, `settings` those that its processes on the first GPU get."""

    base: Settings
    settings: Settings
    gpu: Gpu
    sizes: Sizes
    folder: Path
    rehearsal: bool
    kept: dict[str, object] = field(default_factory=dict)
    """What one part leaves for another."""
    began: float = field(default_factory=time.monotonic)

    @property
    def late(self) -> bool:
        """True when no further round should begin: the rest needs the time."""
        return time.monotonic() - self.began > self.sizes.total_s - 2 * self.sizes.naive_s

    @cached_property
    def h264(self) -> Clip:
        """The clip for decoders."""
        return self.clip("h264", self.sizes.picture, self.sizes.clip_s)

    @cached_property
    def hevc(self) -> Clip:
        """The same picture."""
        return self.clip("hevc", self.sizes.picture, self.sizes.hevc_s)

    @cached_property
    def sample(self) -> tuple[Clip, str]:
        """Two people at a table, and what is to be said of it; the clip for decoders where their
        portraits can't be had."""
        path = self.folder / "sample.mp4"
        portraits = self.settings.cache_dir / "portraits"
        try:
            make_sample(
                path, seconds=self.sizes.sample_s, size=self.sizes.picture, portraits=portraits
            )
        except PermanentError as error:
            return self.h264, f"No sample could be made ({error.message}): a clip without faces."
        return self.cut(path), ""

    def clip(self, codec: str, size: tuple[int, int], seconds: float) -> Clip:
        """A new one."""
        name = f"{codec}-{size[0]}x{size[1]}-{seconds:g}s.mp4"
        return self.cut(make_clip(self.folder / name, codec, size, seconds))

    def cut(self, path: Path) -> Clip:
        """Probe and split a source."""
        source = probe(path, "mp4")
        folder = self.folder / f"{path.stem}-segments"
        folder.mkdir()
        return Clip(
            path, source, tuple(split(path, source, folder, self.settings.segment_target_s))
        )


def model_of(settings: Settings) -> tuple[ModelEntry, Path]:
    """The model that a job without a wish gets, fetched where it is missing. Raises
    PermanentError."""
    folder, more = settings.cache_dir / "models", settings.model_folders
    entry = choose("auto", folder, more)
    return entry, pull(entry.name, folder, more)


def _rate(source: SourceInfo) -> float:
    return source.frame_rate[0] / source.frame_rate[1]
