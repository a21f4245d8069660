"""`python -m services.encode.probe`: which encoders work here, by encoding a few frames with each.

A listing proves nothing: FFmpeg lists NVENC on machines without a GPU, and A100, H100 and H200 have
none. `--gpu`: encoders of the first visible GPU; else those of the CPU. `--brief`: without counting
how many sessions open, which takes them from others. The protocol is that of `shared.findings`.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import av
import numpy as np

from services.encode.engines.base import ChunkEncoder, Frame
from services.encode.engines.pyav import PyAvEncoder
from shared.cuda.counts import encoding_engines
from shared.errors import DualfaceError, EngineBusyError, EngineError
from shared.findings import Finding, Step, look, not_here, ok, problem, warning
from shared.jobs import Codec, ColorTags, OutputPlan, Rect
from shared.media.layout import FrameLayout, PixelFormat, Plane

if TYPE_CHECKING:
    from shared.cuda.device import Device

WIDTH, HEIGHT, FRAMES, RATE = 320, 240, 6, 25
MOST_SESSIONS = 16
PRESET_GPU, PRESET_CPU = "p4", "ultrafast"
CODECS = {PRESET_GPU: (Codec.H264, Codec.HEVC), PRESET_CPU: tuple(Codec)}
"""What each kind is used for."""

SOFTWARE_FIX = "the installation is broken: `make setup` renews it"
NVENC_FIX = (
    "nothing, if this GPU has no encoder (A100, H100, H200, ...): frames are encoded by the CPU. "
    "Else a driver from 580 on; in a container allow the driver's `video` libraries: "
    "NVIDIA_DRIVER_CAPABILITIES=compute,video,utility"
)
SESSIONS_FIX = "set DUALFACE_NVENC_SESSIONS to what opens; other programs' encoders count, too"

Maker = Callable[[], ChunkEncoder]


def main(arguments: Sequence[str]) -> int:
    """See above."""
    flags = {each for each in arguments if each in ("--gpu", "--brief")}
    rest = [each for each in arguments if each not in flags]
    with TemporaryDirectory(prefix="dualface-probe-") as folder:
        bench = _Bench(Path(folder))
        steps = bench.of_gpu(brief="--brief" in flags) if "--gpu" in flags else bench.of_cpu()
        return look(steps, rest)


class _Bench:
    """Encoders and what they are tried with."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._opened: Device | None = None

    def of_cpu(self) -> Sequence[Step]:
        """libx264, libx265 and libsvtav1."""
        encodes = partial(self._encodes, "encode.pyav", lambda: PyAvEncoder(1), PRESET_CPU)
        return (Step("encode.pyav", encodes, SOFTWARE_FIX),)

    def of_gpu(self, *, brief: bool) -> Sequence[Step]:
        """NVENC, by two ways."""
        nvenc = partial(self._encodes, "encode.nvenc", self._nvenc, PRESET_GPU)
        pyav = partial(self._encodes, "encode.pyav-nvenc", self._pyav_nvenc, PRESET_GPU)
        steps = [
            Step("encode.nvenc", nvenc, NVENC_FIX),
            Step("encode.pyav-nvenc", pyav, NVENC_FIX),
        ]
        if not brief:
            steps.append(Step("encode.sessions", self._sessions, SESSIONS_FIX))
        return steps

    def _device(self) -> Device:
        if self._opened is None:
            # CuPy: only in a process that may die of it.
            from shared.cuda.device import Device

            self._opened = Device()
        return self._opened

    def _nvenc(self) -> ChunkEncoder:
        from services.encode.engines.nvenc import NvencEncoder

        return NvencEncoder(self._device(), PRESET_GPU)

    def _pyav_nvenc(self) -> ChunkEncoder:
        from services.encode.engines.pyav_nvenc import PyAvNvencEncoder

        return PyAvNvencEncoder(self._device(), PRESET_GPU)

    def _encodes(self, check: str, make: Maker, preset: str) -> Iterator[Finding]:
        encoder = make()
        try:
            found = {codec: self._tried(check, encoder, codec, preset) for codec in CODECS[preset]}
        finally:
            _close(encoder)
        done = [codec.value for codec, wrong in found.items() if wrong is None]
        wrong = [each for each in found.values() if each is not None]
        # What encodes nothing has one reason.
        yield from wrong if done else wrong[:1]
        if done:
            text = f"{check.partition('.')[2]} encodes {', '.join(done)}"
            if check != "encode.nvenc":
                yield ok(check, text, codecs=done)
                return
            engines = encoding_engines()
            text += f", {engines} x NVENC" if engines else ""
            yield ok(check, text, codecs=done, engines=engines)

    def _tried(
        self, check: str, encoder: ChunkEncoder, codec: Codec, preset: str
    ) -> Finding | None:
        """What is wrong with how it encodes, None if nothing."""
        name = encoder.name_for(codec)
        fix = NVENC_FIX if preset == PRESET_GPU else SOFTWARE_FIX
        try:
            wrong = self._wrong(encoder, codec, preset)
        except EngineBusyError as error:
            return warning(check, f"{name}: {error.message}", SESSIONS_FIX)
        except EngineError as error:
            kind = problem if error.able else not_here
            return kind(check, f"{name}: {error.message}", fix)
        return problem(check, f"{name}: {wrong}", fix) if wrong else None

    def _wrong(self, encoder: ChunkEncoder, codec: Codec, preset: str) -> str:
        """What is wrong with the chunk that it makes, "" if nothing."""
        path = self._folder / f"{codec.value}.nut"
        layout = self._layout(encoder)
        encoder.encode(self._frames(encoder), layout, _output(codec, preset), path)
        with av.open(str(path)) as container:
            seen = [frame.to_ndarray()[:HEIGHT, :WIDTH] for frame in container.decode(video=0)]
        if len(seen) != FRAMES:
            return f"{len(seen)} of {FRAMES} frames are in its chunk"
        far = [np.abs(luma.astype(int) - _slope(n)).mean() for n, luma in enumerate(seen)]
        return "" if max(far) < 8 else "its chunk shows another picture"

    def _layout(self, encoder: ChunkEncoder) -> FrameLayout:
        of_gpu = encoder.memory == "device"
        format_ = PixelFormat.NV12 if of_gpu else PixelFormat.I420
        return FrameLayout(width=WIDTH, height=HEIGHT, format=format_)

    def _frames(self, encoder: ChunkEncoder, count: int = FRAMES) -> Iterator[Frame]:
        layout = self._layout(encoder)
        for number in range(count):
            host = np.full(layout.frame_bytes, 128, np.uint8)
            layout.planes(host)[0][:] = _slope(number)
            if encoder.memory == "host":
                yield number, layout.planes(host)
                continue
            device = self._device()
            frame = device.empty((layout.frame_bytes,))
            device.upload(host, frame)
            yield number, layout.planes(frame)

    def _sessions(self) -> Iterator[Finding]:
        """Begin chunks, each in the middle of the one before, until a session is refused."""
        nest = _Nest(self._first_able(), self._frames, self._layout, self._folder)
        with contextlib.ExitStack() as stack:
            nest.open(stack)
        opened, refusal = nest.opened, nest.refusal
        more = " or more" if opened >= MOST_SESSIONS else ""
        text = f"{opened}{more} encoders at a time"
        if opened == 0:
            yield not_here("encode.sessions", f"{text}: {refusal}", NVENC_FIX, opened=0)
        else:
            # A limit is how consumer GPUs are; whether it is the one that is set, others judge.
            said = f"{text}; {refusal}" if refusal else text
            yield ok("encode.sessions", said, opened=opened, refused=bool(refusal))

    def _first_able(self) -> Maker:
        """The best encoder that can be made. Raises EngineError when none can."""
        try:
            _close(self._nvenc())
        except EngineError:
            _close(self._pyav_nvenc())
            return self._pyav_nvenc
        return self._nvenc


class _Nest:
    """Encoders that are all at work at once, in one thread: each begins when the one before has
    asked for its first frame, which it does with its session open."""

    def __init__(
        self,
        make: Maker,
        frames: Callable[[ChunkEncoder, int], Iterator[Frame]],
        layout: Callable[[ChunkEncoder], FrameLayout],
        folder: Path,
    ) -> None:
        self._make = make
        self._frames = frames
        self._layout = layout
        self._folder = folder
        self.opened = 0
        self.refusal = ""

    def open(self, stack: contextlib.ExitStack) -> None:
        """One more, and all behind it; their sessions are closed with `stack`."""
        number = self.opened
        try:
            encoder = self._make()
            stack.callback(_close, encoder)
            encoder.encode(
                self._begun(encoder, stack),
                self._layout(encoder),
                _output(Codec.H264, PRESET_GPU),
                self._folder / f"session-{number}.nut",
            )
        except DualfaceError as error:
            self.refusal = self.refusal or error.message

    def _begun(self, encoder: ChunkEncoder, stack: contextlib.ExitStack) -> Iterator[Frame]:
        self.opened += 1
        if self.opened < MOST_SESSIONS:
            self.open(stack)
        yield from self._frames(encoder, 2)


def _close(encoder: ChunkEncoder) -> None:
    if encoder.session is not None:
        encoder.session.close()


def _slope(number: int) -> Plane:
    """Luma of a picture; the next one is 16 brighter."""
    columns, rows = np.arange(WIDTH), np.arange(HEIGHT)
    slope = (columns[None, :] + rows[:, None]) // 8 + 16 * number + 20
    return np.asarray(slope, dtype=np.uint8)


def _output(codec: Codec, preset: str) -> OutputPlan:
    half = WIDTH // 2
    tiles = Rect(x=0, y=0, w=half, h=HEIGHT), Rect(x=half, y=0, w=half, h=HEIGHT)
    return OutputPlan(
        width=WIDTH,
        height=HEIGHT,
        tiles=tiles,
        codec=codec,
        crf=28,
        preset=preset,
        color=ColorTags(),
        time_base=(1, RATE),
        frame_rate=(RATE, 1),
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
