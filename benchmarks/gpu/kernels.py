"""Our kernels by the device's clock, against what its memory allows.

Frames are all different ones of a batch, so that they do not stay in the GPU's cache.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.gpu.bench import Bench, model_of
from benchmarks.gpu.children import Channel, alone
from benchmarks.gpu.results import Figure, Outcome, figure
from services.compose.engines.cuda import CudaRenderer
from services.decode.engines.surfaces import SurfaceWriter
from services.encode.fade import ALL, DeviceMixer
from services.infer.engines.letterbox import Letterbox
from services.infer.engines.looks import look_of
from shared.cuda.device import Device
from shared.cuda.own import OwnDevice
from shared.errors import DeviceLostError, EngineError
from shared.jobs import JobSpec, SourceInfo
from shared.media.canvas import plan_output
from shared.media.layout import FrameLayout, PixelFormat
from shared.metrics import Meter
from shared.settings import Settings
from shared.tracks import View

TITLE = "kernels against the memory's bandwidth"
PATIENCE_S = 180.0
ROWS = 256
"""Bytes that a decoder's rows are aligned to."""
HALF_BYTES = 2


def measure(bench: Bench) -> Outcome:
    """Microseconds per frame, and which share of it the memory alone needs."""
    sizes = bench.sizes
    arguments = (bench.settings, sizes.picture, sizes.batch, sizes.repeats)
    figures, graphs = alone(_measured, *arguments, patience_s=PATIENCE_S)
    notes = [
        "The bound is bytes read and written, each once, at the bandwidth of a device-to-device "
        "copy of a whole batch in the same run (which reads and writes, too). A kernel that reads "
        "something more than once from the cache can't reach it; none can be faster but by cache.",
        "Work of a whole batch is launched as one CUDA graph, so the host's launches do not count."
        if graphs
        else "No CUDA graph could be recorded here: the host's launches count.",
    ]
    shares = [each for each in figures if each.unit == "%"]
    said = ", ".join(f"{each.name} {each.median:.0f} %" for each in shares)
    return Outcome(line=f"of the bound: {said}", figures=tuple(figures), notes=tuple(notes))


def _measured(
    channel: Channel,  # noqa: ARG001 - as `alone` calls it
    settings: Settings,
    size: tuple[int, int],
    batch: int,
    repeats: int,
) -> tuple[list[Figure], bool]:
    bed = _Bed(OwnDevice(settings, Meter())(), size, batch, repeats)
    bandwidth = bed.bandwidth()
    values = [each / 1e9 for each in bandwidth]
    figures = [
        figure("device-to-device copy", "GB/s", values, "of a batch; bytes read and written")
    ]
    best = figures[0].median * 1e9
    for name, moved, do in (*bed.surfaces(), bed.letterbox(settings), bed.tiles(), bed.fade()):
        figures += _against(name, moved, bed.seconds(do), best)
    return figures, bed.graphs


def _against(name: str, moved: int, seconds: list[float], bandwidth: float) -> list[Figure]:
    bound = moved / bandwidth
    us = [1e6 * each for each in seconds]
    share = [100 * bound / each for each in seconds]
    means = f"{moved / 1e6:.2f} MB to read and write; bound {1e6 * bound:.1f} us"
    return [
        figure(name, "us/frame", us, means),
        figure(f"{name}, bound/time", "%", share, "100: as fast as memory allows"),
    ]


Work = tuple[str, int, Callable[[int], None]]
"""Its name, bytes it moves per frame, and what gives frame `index` to the stream."""


class _Bed:
    """Frames, decoder's surfaces and canvases on the device, a batch of each."""

    def __init__(self, device: Device, size: tuple[int, int], batch: int, repeats: int) -> None:
        self.device = device
        self.batch = batch
        self.repeats = repeats
        self.graphs = True
        width, height = size
        self.layout = FrameLayout(width=width, height=height, format=PixelFormat.NV12)
        self.upright = FrameLayout(width=height, height=width, format=PixelFormat.NV12)
        self.frames = device.empty((batch * self.layout.frame_bytes,))
        self.canvas = device.empty((batch * self.layout.frame_bytes,))

    def bandwidth(self) -> list[float]:
        """Bytes/s of copies."""
        moved = 2 * int(self.frames.nbytes)
        times = [
            self.device.timed(lambda: self.device.copy(self.frames, self.canvas))
            for _ in range(self.repeats + 1)
        ]
        return [moved / each for each in times[1:]]

    def surfaces(self) -> list[Work]:
        """From a decoder's surface to a frame: copied, turned, of 10 bits."""
        writer, device, layout = SurfaceWriter(self.device), self.device, self.layout
        rows = layout.height + layout.chroma_height

        def surfaces(dtype: str, sample: int) -> Any:
            pitch = -(-layout.width * sample // ROWS) * ROWS // sample
            return device.empty((self.batch, rows, pitch), dtype)[:, :, : layout.width]

        eight, ten = surfaces("uint8", 1), surfaces("uint16", 2)
        small = layout.frame_bytes

        def write(index: int, source: Any, target: FrameLayout, turn: int, bits: int) -> None:
            planes = target.planes(self.canvas, index)
            writer.write(source[index], planes, turn, bits)

        return [
            ("surfaces, copied", 2 * small, lambda i: write(i, eight, layout, 0, 8)),
            ("surfaces, turned by 90", 2 * small, lambda i: write(i, eight, self.upright, 90, 8)),
            ("surfaces, 10 bits", 3 * small, lambda i: write(i, ten, layout, 0, 10)),
        ]

    def letterbox(self, settings: Settings) -> Work:
        """From a frame to a model's first look, FP16."""
        entry, _ = model_of(settings)
        look = look_of(entry, self.layout, entry.long_side_px)
        width, height = look.padded
        box = Letterbox(self.device, entry)
        pictures = self.device.empty((self.batch, 3, height, width), "float16")

        def fill(index: int) -> None:
            planes = self.layout.planes(self.frames, index)
            box.fill(planes, self.layout, look.w, look.h, pictures, index)

        moved = self.layout.frame_bytes + 3 * width * height * HALF_BYTES
        return f"letterbox to {width}x{height}", moved, fill

    def tiles(self) -> Work:
        """From a frame to both tiles of a canvas, each an enlarged crop."""
        layout = self.layout
        source = SourceInfo(
            format="mp4",
            codec="h264",
            stream=0,
            width=layout.width,
            height=layout.height,
            time_base=(1, 30),
            frame_rate=(30, 1),
        )
        output = plan_output(JobSpec(source="x", size=(layout.width, layout.height)), source)
        renderer = CudaRenderer(self.device)
        tile = output.tiles[0]
        high = 0.7 * layout.height
        wide = high * tile.w / tile.h
        views = (
            View(0.05 * layout.width, 0.1 * layout.height, wide, high),
            View(0.55 * layout.width, 0.2 * layout.height, wide, high),
        )

        def draw(index: int) -> None:
            source_planes = layout.planes(self.frames, index)
            canvas = layout.planes(self.canvas, index)
            renderer.render(source_planes, layout, views, output, canvas)

        moved = int(2 * 1.5 * wide * high) + output.width * output.height * 3 // 2
        return "tiles, two crops enlarged", moved, draw

    def fade(self) -> Work:
        """From two frames to one between them."""
        mixer, size = DeviceMixer(self.device), self.layout.frame_bytes
        others = self.device.empty((self.batch * size,))

        def mix(index: int) -> None:
            at = slice(index * size, (index + 1) * size)
            mixer.mix(self.frames[at], others[at], ALL // 2, self.canvas[at])

        return "fade, two frames into one", 3 * size, mix

    def seconds(self, do: Callable[[int], None]) -> list[float]:
        """Per frame, of whole batches."""

        def all_of_it() -> None:
            for index in range(self.batch):
                do(index)

        all_of_it()
        self.device.finish()
        launch = self._recorded(all_of_it)
        launch()
        return [self.device.timed(launch) / self.batch for _ in range(self.repeats)]

    def _recorded(self, work: Callable[[], None]) -> Callable[[], None]:
        from shared.cuda.graphs import record  # the double of CuPy can't

        try:
            return record(self.device, work).launch
        except DeviceLostError:
            raise
        except (EngineError, AttributeError):
            self.graphs = False
            return work
