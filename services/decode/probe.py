"""`python -m services.decode.probe`: which decoders work here, by decoding a tiny video with each.

`--gpu`: those of the first visible GPU; else those of the CPU. `--brief`: without counting how many
sessions open, which takes them from others. The protocol is that of `shared.findings`.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from services.decode.engines.base import SegmentDecoder
from services.decode.engines.pyav import PyAvDecoder
from services.decode.split import split
from shared.cuda.counts import decoding_engines
from shared.errors import DualfaceError, EngineError
from shared.findings import Finding, Step, look, ok, problem, warning
from shared.jobs import Segment, SourceInfo
from shared.media.layout import FrameLayout, PixelFormat, Plane
from shared.media.probe import probe

if TYPE_CHECKING:
    from shared.cuda.device import Device

WIDTH, HEIGHT, FRAMES, RATE = 320, 240, 8, 25
ENCODERS = {"h264": "libx264", "hevc": "libx265"}
MOST_SESSIONS = 16
CLOSE_ENOUGH = 4.0
"""Mean difference of luma samples from what was drawn. Encoding makes one or two; the next frame is
16 away, green or black further."""

SOFTWARE_FIX = "the installation is broken: `make setup` renews it"
NVDEC_FIX = (
    "install PyNvVideoCodec>=2.2.4 and a driver from 580 on; in a container allow the driver's "
    "`video` libraries: NVIDIA_DRIVER_CAPABILITIES=compute,video,utility"
)
SESSIONS_FIX = "set DUALFACE_NVDEC_SESSIONS to what opens, or end what else uses the GPU's memory"

Maker = Callable[[], SegmentDecoder]


@dataclass(frozen=True)
class _Video:
    """A tiny video as a decoder gets it, and what is to be seen in it: (frames, HEIGHT, WIDTH)."""

    path: Path
    segment: Segment
    source: SourceInfo
    luma: Plane


def main(arguments: Sequence[str]) -> int:
    """See above."""
    flags = {each for each in arguments if each in ("--gpu", "--brief")}
    rest = [each for each in arguments if each not in flags]
    with TemporaryDirectory(prefix="dualface-probe-") as folder:
        bench = _Bench(Path(folder))
        steps = bench.of_gpu(brief="--brief" in flags) if "--gpu" in flags else bench.of_cpu()
        return look(steps, rest)


class _Bench:
    """Decoders and what they are tried with."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._videos: dict[str, _Video] = {}
        self._opened: Device | None = None

    def of_cpu(self) -> Sequence[Step]:
        """FFmpeg's own."""
        make = partial(PyAvDecoder, 1)
        return (Step("decode.pyav", partial(self._decodes, "decode.pyav", make), SOFTWARE_FIX),)

    def of_gpu(self, *, brief: bool) -> Sequence[Step]:
        """NVDEC, by two ways."""
        steps = [
            Step("decode.nvdec", partial(self._decodes, "decode.nvdec", self._nvdec), NVDEC_FIX),
            Step(
                "decode.pyav-cuda",
                partial(self._decodes, "decode.pyav-cuda", self._pyav_cuda),
                NVDEC_FIX,
            ),
        ]
        if not brief:
            steps.append(Step("decode.sessions", self._sessions, SESSIONS_FIX))
        return steps

    def _device(self) -> Device:
        if self._opened is None:
            # CuPy: only in a process that may die of it.
            from shared.cuda.device import Device

            self._opened = Device()
        return self._opened

    def _nvdec(self) -> SegmentDecoder:
        from services.decode.engines.nvdec import NvdecDecoder

        return NvdecDecoder(self._device())

    def _pyav_cuda(self) -> SegmentDecoder:
        from services.decode.engines.pyav_cuda import PyAvCudaDecoder

        return PyAvCudaDecoder(self._device())

    def _video(self, codec: str) -> _Video:
        if codec not in self._videos:
            self._videos[codec] = _made(self._folder / codec, ENCODERS[codec])
        return self._videos[codec]

    def _decodes(self, check: str, make: Maker) -> Iterator[Finding]:
        decoder = make()
        done = []
        for codec in ENCODERS:
            wrong = self._wrong(decoder, self._video(codec))
            if wrong:
                fix = NVDEC_FIX if check != "decode.pyav" else SOFTWARE_FIX
                yield problem(check, f"{decoder.name} does not decode {codec}: {wrong}", fix)
            else:
                done.append(codec)
        _close(decoder)
        if done:
            text = f"{decoder.name} decodes {', '.join(done)}"
            if check != "decode.nvdec":
                yield ok(check, text, codecs=done)
                return
            engines = decoding_engines()
            text += f", {engines} x NVDEC" if engines else ""
            yield ok(check, text, codecs=done, engines=engines)

    def _wrong(self, decoder: SegmentDecoder, video: _Video) -> str:
        """What is wrong with what it makes of the video, "" if nothing."""
        shown = 0
        for frame in decoder.decode(video.path, video.segment, video.source):
            if shown >= len(video.luma):
                return "it shows more frames than there are"
            luma = self._luma(decoder, frame.write_to)
            difference = np.abs(luma.astype(np.int16) - video.luma[shown]).mean()
            if difference > CLOSE_ENOUGH:
                return f"frame {shown} is another picture (mean difference {difference:.1f})"
            shown += 1
        return "" if shown == len(video.luma) else f"{shown} of {len(video.luma)} frames"

    def _luma(self, decoder: SegmentDecoder, write: Callable[[tuple[Plane, ...]], None]) -> Plane:
        if decoder.memory == "host":
            layout = FrameLayout(width=WIDTH, height=HEIGHT)
            planes = layout.planes(np.zeros(layout.frame_bytes, np.uint8))
            write(planes)
            return planes[0]
        device = self._device()
        layout = FrameLayout(width=WIDTH, height=HEIGHT, format=PixelFormat.NV12)
        planes = layout.planes(device.empty((layout.frame_bytes,)))
        write(planes)
        device.finish()
        copy = np.empty((HEIGHT, WIDTH), np.uint8)
        device.download(planes[0], copy)
        return copy

    def _sessions(self) -> Iterator[Finding]:
        """Open decoders, each in the middle of a video, until one is refused."""
        video, opened, refusal = self._video("h264"), 0, ""
        make = self._first_able()
        with contextlib.ExitStack() as stack:
            while opened < MOST_SESSIONS and not refusal:
                try:
                    decoder = make()
                    stack.callback(_close, decoder)
                    frames = decoder.decode(video.path, video.segment, video.source)
                    stack.enter_context(contextlib.closing(frames))
                    next(frames)
                except DualfaceError as error:
                    refusal = error.message
                else:
                    opened += 1
        more = " or more" if opened == MOST_SESSIONS else ""
        text = f"{opened}{more} decoders at a time"
        if refusal:
            yield warning("decode.sessions", f"{text}: {refusal}", SESSIONS_FIX, opened=opened)
        else:
            yield ok("decode.sessions", text, opened=opened)

    def _first_able(self) -> Maker:
        """The best decoder that can be made. Raises EngineError when none can."""
        try:
            _close(self._nvdec())
        except EngineError:
            _close(self._pyav_cuda())
            return self._pyav_cuda
        return self._nvdec


def _close(decoder: SegmentDecoder) -> None:
    if decoder.session is not None:
        decoder.session.close()


def _made(folder: Path, encoder: str) -> _Video:
    """Draw the video, encode it, split it."""
    folder.mkdir()
    path = folder / "source.mp4"
    # Neither may start a thread per core, nor talk.
    params = "log-level=none:pools=1:frame-threads=1" if encoder == "libx265" else "threads=1"
    options = {"preset": "ultrafast", f"{encoder.removeprefix('lib')}-params": params}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(encoder, rate=Fraction(RATE), options=options)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(FRAMES):
            container.mux(stream.encode(_picture(number)))
        container.mux(stream.encode(None))
    source = probe(path)
    ((segment, file),) = split(path, source, folder, 60.0)
    return _Video(file, segment, source, np.stack([_slope(number) for number in range(FRAMES)]))


def _slope(number: int) -> Plane:
    """Luma of a picture; the next one is 16 brighter."""
    columns, rows = np.arange(WIDTH), np.arange(HEIGHT)
    slope = (columns[None, :] + rows[:, None]) // 8 + 16 * number + 20
    return np.asarray(slope, dtype=np.uint8)


def _picture(number: int) -> VideoFrame:
    frame = VideoFrame(WIDTH, HEIGHT, "yuv420p")
    values = (_slope(number), np.uint8(110), np.uint8(150))
    for plane, value in zip(frame.planes, values, strict=True):
        rows = np.zeros((plane.height, plane.line_size), np.uint8)
        rows[:, : plane.width] = value
        plane.update(rows.tobytes())
    frame.pts = number
    frame.time_base = Fraction(1, RATE)
    return frame


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
