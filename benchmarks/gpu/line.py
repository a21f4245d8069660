"""All stages of one process: the engines that the system's workers would take, called directly."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from services.compose.engines import renderers
from services.compose.engines.base import Renderer
from services.compose.plan import ComposeSettings, ComposeState, plan_batch
from services.decode.engines import decoders
from services.decode.engines.base import SegmentDecoder
from services.decode.plan import batch_length
from services.encode.engines import encoders
from services.encode.engines.base import ChunkEncoder, Frame
from services.infer.engines import Detectors
from services.infer.engines.base import Detector, Downloaded
from services.infer.engines.onnx_cpu import use_one_thread
from services.infer.plan import frames_to_detect, interval
from shared.errors import EngineBusyError, EngineError, OutOfMemoryError
from shared.faces import BatchFaces, Face
from shared.jobs import JobSpec, OutputPlan, Segment, SourceInfo
from shared.media.canvas import plan_output
from shared.media.layout import FrameLayout, PixelFormat, Planes
from shared.messages import Message
from shared.redisdb import connect
from shared.runtime import Runtime, make_runtime
from shared.settings import Settings
from shared.storage import open_store
from shared.tracks import View

E = TypeVar("E")

NOWHERE = "redis://127.0.0.1:1/0"
"""For what is never asked."""


class NoOutbox:
    """Nothing is handed on."""

    def send(self, task: str, message: Message, queue: str) -> None:
        """Never called."""
        raise NotImplementedError


def runtime_of(settings: Settings, worker: str) -> Runtime:
    """What chains of engines are made of; does no I/O."""
    redis = connect(settings.redis_url or NOWHERE)
    return make_runtime(settings, redis, open_store(settings), NoOutbox(), worker)


@dataclass
class Times:
    """Seconds per stage and batch, wall, each with the device's work done."""

    decode: list[float] = field(default_factory=list)
    infer: list[float] = field(default_factory=list)
    compose: list[float] = field(default_factory=list)
    encode: list[float] = field(default_factory=list)

    def sums(self) -> dict[str, float]:
        """Of each stage."""
        return {name: sum(getattr(self, name)) for name in ("decode", "infer", "compose", "encode")}


class Line:
    """Decode to encode in one process, on slots of its own. Engines are chosen once, each by a
    trial on the first batch."""

    def __init__(
        self, runtime: Runtime, source: SourceInfo, spec: JobSpec, batch: int, folder: Path
    ) -> None:
        use_one_thread()  # as the workers do
        self.runtime = runtime
        self.device = runtime.device()
        self.source = source
        self.output: OutputPlan = plan_output(spec, source)
        self.batch = batch
        self.layout = _nv12(source.width, source.height)
        self.target = _nv12(self.output.width, self.output.height)
        self.decoded: Any = self.device.empty((batch * self.layout.frame_bytes,))
        self.composed: Any = self.device.empty((batch * self.target.frame_bytes,))
        self._folder = folder
        self.decoders: list[SegmentDecoder] = list(decoders(runtime, "device"))
        self.detectors = Detectors().of(runtime, spec.detector, "device")
        self.renderers: list[Renderer] = list(renderers(runtime, "device"))
        self.encoders: list[ChunkEncoder] = list(encoders(runtime, "device"))
        self.detector: Detector | None = None

    # --- choosing ---------------------------------------------------------------------------------

    def choose(self, segment: Segment, path: Path) -> dict[str, str]:
        """The first engine of each stage that does this segment's first batch; their names."""
        self.decoders = [_first(self.decoders, lambda each: self._one_batch(each, segment, path))]
        planes = self.planes(1)
        for lazy in self.detectors if self.detector is None else ():
            with suppress(EngineError, OutOfMemoryError):
                detector = lazy.get()
                self.look(detector, planes)
                self.detector = detector
                break
        views = self.default_views()
        self.renderers = [_first(self.renderers, lambda each: self.draw(each, [views]))]
        self.encoders = [_first(self.encoders, lambda each: self.pack(each, [0], 0))]
        assert self.detector is not None
        return {
            "decode": self.decoders[0].name,
            "infer": self.detector.name,
            "compose": self.renderers[0].name,
            "encode": self.encoders[0].name_for(self.output.codec),
        }

    def _one_batch(self, decoder: SegmentDecoder, segment: Segment, path: Path) -> None:
        with closing(self.batches(decoder, segment, path)) as frames:
            next(frames)

    # --- the stages -------------------------------------------------------------------------------

    def planes(self, count: int) -> list[Planes]:
        """Of the first decoded frames."""
        return [self.layout.planes(self.decoded, index) for index in range(count)]

    def batches(
        self, decoder: SegmentDecoder, segment: Segment, path: Path
    ) -> Generator[list[int]]:
        """Decode a segment; the times of each batch, whose frames are in the decoded slot."""
        pts: list[int] = []
        index = 0
        staging = self.runtime.device.staging() if decoder.memory == "host" else None
        for frame in decoder.decode(path, segment, self.source):
            planes = self.layout.planes(self.decoded, len(pts))
            if staging is None:
                frame.write_to(planes)
            else:
                filled = staging.blank(planes)
                frame.write_to(filled)
                staging.up(filled, planes)
            pts.append(frame.pts)
            if len(pts) == batch_length(segment.frames, self.batch, index):
                self.device.finish()
                yield pts
                pts, index = [], index + 1
        if pts:
            self.device.finish()
            yield pts

    def look(self, detector: Detector, planes: Sequence[Planes]) -> list[tuple[Face, ...]]:
        """Faces, by any detector."""
        if detector.memory == "device":
            return detector.detect(planes, self.layout)
        return detector.detect(Downloaded(planes, self.runtime.device.staging()), self.layout)

    def draw(self, renderer: Renderer, views: Sequence[tuple[View, View]]) -> None:
        """All frames of a batch into the composed slot."""
        for index, pair in enumerate(views):
            source = self.layout.planes(self.decoded, index)
            canvas = self.target.planes(self.composed, index)
            renderer.render(source, self.layout, pair, self.output, canvas)
        self.device.finish()

    def pack(self, encoder: ChunkEncoder, pts: Sequence[int], number: int) -> Path:
        """The composed slot as a chunk."""
        path = self._folder / f"chunk-{number:06d}.nut"
        encoder.encode(self._frames(encoder, pts), self.target, self.output, path)
        return path

    def _frames(self, encoder: ChunkEncoder, pts: Sequence[int]) -> Iterator[Frame]:
        for index, time_ in enumerate(pts):
            planes = self.target.planes(self.composed, index)
            if encoder.memory == "host":
                planes = self.runtime.device.staging().down(planes)
            yield time_, planes

    def default_views(self) -> tuple[View, View]:
        """Of a frame in which nobody was seen."""
        faces = BatchFaces(frames=(0,), faces=((),))
        plan = plan_batch(ComposeState(), faces, [0], self.source, self.output, ComposeSettings())[
            1
        ]
        return plan.views[0]

    # --- all of it --------------------------------------------------------------------------------

    def run(self, segments: Sequence[tuple[Segment, Path]], every: int) -> tuple[list[Path], Times]:
        """Chunks of all batches, in order, and what each stage took. `every`: frames per look."""
        assert self.detector is not None
        chunks: list[Path] = []
        times, state = Times(), ComposeState()
        for segment, path in segments:
            began = time.perf_counter()
            for pts in self.batches(self.decoders[0], segment, path):
                began = _lap(times.decode, began)
                frames = frames_to_detect(len(pts), interval(every, not chunks))
                planes = [self.layout.planes(self.decoded, index) for index in frames]
                faces = tuple(self.look(self.detector, planes))
                began = _lap(times.infer, began)
                found = BatchFaces(frames=frames, faces=faces)
                state, plan = plan_batch(
                    state, found, pts, self.source, self.output, ComposeSettings()
                )
                self.draw(self.renderers[0], plan.views)
                began = _lap(times.compose, began)
                chunks.append(self.pack(self.encoders[0], pts, len(chunks)))
                began = _lap(times.encode, began)
        return chunks, times


def _nv12(width: int, height: int) -> FrameLayout:
    return FrameLayout(width=width, height=height, format=PixelFormat.NV12)


def _lap(into: list[float], began: float) -> float:
    now = time.perf_counter()
    into.append(now - began)
    return now


def _first(chain: Sequence[E], trial: Callable[[E], object]) -> E:
    """The first engine that passes. Raises what the last one raised."""
    last: Exception | None = None
    for each in chain:
        try:
            trial(each)
        except (EngineError, EngineBusyError, OutOfMemoryError) as error:
            last = error
        else:
            return each
    assert last is not None
    raise last
