"""What becomes of damaged and doctored videos? Thousands of them through the whole decode side.

    python -m benchmarks.mutations --count 2000 --seed 1 [--footage DIR] [--only K]

Mutation K of a seed is always the same file: a small video (made here, or a clip of at most
LARGEST_BYTES in DIR) with flipped bits, zeroed, swapped or cut parts, the tail of another, or sizes
and counts in its boxes that lie. Each is probed, split, decoded and muxed in a child process with a
deadline and a memory limit. Prints the outcomes, and the number of every case that is none of
"succeeded, with or without losses" and "failed with a code"; exit code 1 when there is one.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fractions import Fraction
from multiprocessing.connection import Connection, wait
from pathlib import Path
from random import Random
from typing import TypeVar

import av
import numpy as np

from services.decode.engines.pyav import PyAvDecoder
from services.decode.plan import batch_frames
from services.decode.split import split
from services.encode.engines.pyav import PyAvEncoder
from services.encode.mux import mux
from shared.errors import DualfaceError, TemporaryError
from shared.jobs import JobSpec, OutputPlan, Rect
from shared.media.bounds import data_bytes
from shared.media.canvas import plan_output
from shared.media.layout import FrameLayout
from shared.media.probe import probe
from tests.videos import (
    CLOSED_GOP_X264,
    MPEG2,
    OPEN_GOP_X264,
    OPEN_GOP_X265,
    VP9,
    VideoSpec,
    make_video,
)

MIB = 1 << 20
LARGEST_BYTES = 400_000
"""Of a clip: larger ones take long and have no other headers."""

SLOT_BYTES = 106 * MIB
BATCH_FRAMES = 32
"""A slot of the default arena."""

SEGMENT_S = 0.5
"""Short, so that small clips have several."""

TILE = FrameLayout(width=64, height=64)
"""Composing is left out: every frame becomes a small grey one."""

OURS = ("internal", "check_failed", "output_unwritable", "temporary", "bad_option", "stage_failed")
"""Codes that say no truth about a source: an error of ours behind one."""

T = TypeVar("T")
Mutator = Callable[[Random, bytearray, bytes], object]


@dataclass(frozen=True)
class Clip:
    """A good file to begin with."""

    name: str
    data: bytes

    @property
    def suffix(self) -> str:
        """Of its name, with the dot."""
        return Path(self.name).suffix


@dataclass(frozen=True)
class Outcome:
    """What became of one file. `peak_mib`: memory at most, beyond what the process had before."""

    number: int
    what: str
    code: str
    detail: str = ""
    took_s: float = 0.0
    peak_mib: float = 0.0

    @property
    def bad(self) -> bool:
        """True when it is neither a success nor a failure with a code."""
        return self.code.startswith(("traceback", "crash", "time-out", "left", *OURS))


# ---------------------------------------------------------------- clips and what is done to them


def small_clips(folder: Path) -> list[Clip]:
    """One of each container and most codecs, a second long."""
    short = {"frames": 24, "size": (96, 64), "gop": 8}
    sound = {**short, "audio": "aac"}
    specs = {
        "closed.mp4": replace(CLOSED_GOP_X264, **sound),
        "open.mov": replace(OPEN_GOP_X264, **sound),
        "fragments.mp4": replace(
            CLOSED_GOP_X264,
            **sound,
            container_options={"movflags": "frag_keyframe+empty_moov+default_base_moof"},
        ),
        "hevc.mp4": replace(OPEN_GOP_X265, **short),
        "open.mkv": replace(OPEN_GOP_X264, **short, audio="flac"),
        "open.ts": replace(OPEN_GOP_X264, **sound),
        "mpeg2.mpg": replace(MPEG2, **short, audio="mp2"),
        "vp9.webm": replace(VP9, **short, audio="libopus"),
        "mpeg4.avi": VideoSpec(
            codec="mpeg4", time_base=Fraction(1, 25), **short, audio="pcm_s16le"
        ),
        "h264.flv": replace(CLOSED_GOP_X264, **sound, time_base=Fraction(1, 1000)),
        "raw.h264": replace(OPEN_GOP_X264, **short, container="h264"),
        "ffv1.nut": VideoSpec(codec="ffv1", bframes=0, **short),
        "av1.mp4": VideoSpec(
            codec="libsvtav1", bframes=0, **short, options={"preset": "12", "svtav1-params": "lp=1"}
        ),
        "small.gif": VideoSpec(codec="gif", bframes=0, **short, pixel_format="rgb8"),
    }
    clips = []
    for name, spec in specs.items():
        path = make_video(folder / name, spec)
        clips.append(Clip(name, path.read_bytes()))
        path.unlink()
    return clips


def real_clips(footage: Path) -> list[Clip]:
    """The small ones among the clips in `footage`."""
    paths = sorted(p for kind in ("faces", "people", "odd") for p in (footage / kind).glob("*"))
    good = [p for p in paths if p.suffix != ".yuv" and p.stat().st_size <= LARGEST_BYTES]
    return [Clip(path.name, path.read_bytes()) for path in good]


def _flip_head(rnd: Random, data: bytearray, _: bytes) -> None:
    _flip(rnd, data, 0, min(len(data), 2048))


def _flip_tail(rnd: Random, data: bytearray, _: bytes) -> None:
    """An MP4's index lies at the end."""
    _flip(rnd, data, max(0, len(data) - 4096), len(data))


def _flip_anywhere(rnd: Random, data: bytearray, _: bytes) -> None:
    _flip(rnd, data, 0, len(data))


def _flip(rnd: Random, data: bytearray, start: int, end: int) -> None:
    for _ in range(rnd.choice((1, 2, 8, 32, 128))):
        data[rnd.randrange(start, end)] ^= 1 << rnd.randrange(8)


def _cut(rnd: Random, data: bytearray, _: bytes) -> None:
    del data[rnd.randrange(1, len(data)) :]


def _behead(rnd: Random, data: bytearray, _: bytes) -> None:
    del data[: rnd.randrange(1, min(len(data), 4096))]


def _other_tail(rnd: Random, data: bytearray, other: bytes) -> None:
    del data[rnd.randrange(1, len(data)) :]
    data += other[rnd.randrange(len(other)) :]


def _other_head(rnd: Random, data: bytearray, other: bytes) -> None:
    length = min(len(data), len(other), 1 << rnd.randrange(4, 13))
    data[:length] = other[:length]


def _swap(rnd: Random, data: bytearray, _: bytes) -> None:
    length = rnd.choice((4, 64, 1024, 8192))
    if len(data) > 2 * length:
        a, b = (rnd.randrange(len(data) - length) for _ in range(2))
        data[a : a + length], data[b : b + length] = data[b : b + length], data[a : a + length]


def _blank(rnd: Random, data: bytearray, _: bytes) -> None:
    start = rnd.randrange(len(data))
    length = min(len(data) - start, 1 << rnd.randrange(2, 15))
    data[start : start + length] = rnd.choice((b"\0", b"\xff")) * length


def _repeat(rnd: Random, data: bytearray, _: bytes) -> None:
    start = rnd.randrange(len(data))
    part = bytes(data[start : start + (1 << rnd.randrange(4, 14))])
    data[start:start] = part * rnd.choice((1, 3, 20))


# Boxes whose sizes, counts, times, sides and places are worth lying about.
_BOXES = (
    *(b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"stts", b"ctts", b"stsc", b"stsz"),
    *(b"stco", b"stss", b"elst", b"mvhd", b"tkhd", b"mdhd", b"avc1", b"avcC", b"hvc1", b"hvcC"),
    *(b"mp4a", b"esds", b"moof", b"traf", b"tfhd", b"tfdt", b"trun", b"mvex", b"trex", b"av01"),
)
# The same for others: RIFF chunks, EBML ids (sizes, timestamp scale, sides), FLV and NUT marks.
_MARKS = (
    *(b"strh", b"strf", b"avih", b"idx1", b"movi", b"LIST", b"00dc", b"01wb", b"onMetaData"),
    *(b"\x2a\xd7\xb1", b"\x44\x89", b"\xe0", b"\xb0", b"\xba", b"\x1f\x43\xb6\x75", b"\xe7"),
    *(b"\xa3", b"\xa0", b"\x23\xe3\x83", b"\xb5", b"\x9f", b"NM", b"NS", b"NK", b"\x47\x40"),
)
_LIES = (0, 1, 7, 8, 0x7F, 0xFF, 0xFFFF, 0x10000, 1 << 24, 1 << 30, (1 << 31) - 1, 1 << 31)


def _lie(rnd: Random, data: bytearray, _: bytes) -> None:
    """A wrong number just before or behind a mark, one to four bytes wide."""
    for _ in range(rnd.choice((1, 1, 2, 4))):
        marks = [m for m in (*_BOXES, *_MARKS) if m in data]
        mark = rnd.choice(marks) if marks else bytes(data[:1])
        place = _find(rnd, data, mark)
        value = rnd.choice((*_LIES, 0xFFFFFFFF - rnd.choice(_LIES) % (1 << 32)))
        width = rnd.choice((1, 2, 4))
        if mark in _BOXES and rnd.random() < 0.4:
            at = place - 4
        else:
            at = place + len(mark) + rnd.choice((0, 1, 2, 4, 8, 12, 16, 20, 24))
        if 0 <= at <= len(data) - width:
            data[at : at + width] = (value % (1 << 8 * width)).to_bytes(width, "big")


def _find(rnd: Random, data: bytearray, mark: bytes) -> int:
    places, place = [], data.find(mark)
    while place >= 0 and len(places) < 64:
        places.append(place)
        place = data.find(mark, place + 1)
    return rnd.choice(places) if places else 0


MUTATORS: dict[str, Mutator] = {
    "flips in the head": _flip_head,
    "flips in the tail": _flip_tail,
    "flips anywhere": _flip_anywhere,
    "cut off": _cut,
    "head missing": _behead,
    "tail of another": _other_tail,
    "head of another": _other_head,
    "swapped blocks": _swap,
    "blanked range": _blank,
    "repeated block": _repeat,
    "lying sizes": _lie,
    "more lying sizes": _lie,
}


def mutation(clips: Sequence[Clip], seed: int, number: int) -> tuple[str, Clip]:
    """Mutation `number` of `seed`: what was done, and the file. The same every time."""
    rnd = Random(f"{seed}:{number}")
    clip, other = rnd.choice(clips), rnd.choice(clips)
    data, done = bytearray(clip.data), []
    for _ in range(rnd.choice((1, 1, 1, 2, 3))):
        name = rnd.choice(list(MUTATORS))
        if len(data) > 64:
            MUTATORS[name](rnd, data, other.data)
            done.append(name)
    return f"{clip.name}: {', '.join(done)}", Clip(clip.name, bytes(data))


# ---------------------------------------------------------------- one file through the system


def examine(path: Path, folder: Path) -> str:
    """What the system makes of the source at `path`, as a code; `folder` is for its files.

    Raises what is no error of the system.
    """
    try:
        return "losses" if _process(path, folder) else "ok"
    except TemporaryError as error:
        return f"temporary {error.code.value}: {error}"
    except DualfaceError as error:
        return f"{error.code.value}: {error}"


def _process(path: Path, folder: Path) -> int:
    """Probe, split, decode and mux; how many frames were lost, repaired or concealed."""
    source = probe(path)
    layout = FrameLayout(width=source.width, height=source.height)
    most = batch_frames(SLOT_BYTES, layout, BATCH_FRAMES)
    planes = layout.planes(np.empty(layout.frame_bytes, np.uint8))
    output = _tiny(plan_output(JobSpec(source="any"), source))
    lost, times, chunks = 0, list[int](), list[Path]()
    with ExitStack() as stack:
        for segment, file in split(path, source, folder, SEGMENT_S):
            stack.callback(file.unlink, missing_ok=True)
            decoder = PyAvDecoder(threads=2)
            shown = []
            for frame in decoder.decode(file, segment, source):
                frame.write_to(planes)
                shown.append(frame.pts)
            report = decoder.report
            lost += report.lost + report.repaired + report.concealed + report.no_room
            for start in range(0, len(shown), most):
                chunk = folder / f"{len(chunks):06d}.nut"
                stack.callback(chunk.unlink, missing_ok=True)
                _encode(shown[start : start + most], output, chunk)
                chunks.append(chunk)
            times += shown
        result = folder / "result.mp4"
        stack.callback(result.unlink, missing_ok=True)
        report = mux(chunks, path, source, output, "mp4", result, times)
        return lost + len(report.warnings)


def _tiny(output: OutputPlan) -> OutputPlan:
    half = Rect(x=0, y=0, w=TILE.width // 2, h=TILE.height)
    tiles = (half, half.model_copy(update={"x": half.w}))
    size = {"width": TILE.width, "height": TILE.height}
    return output.model_copy(update={**size, "tiles": tiles, "preset": "ultrafast"})


def _encode(times: Sequence[int], output: OutputPlan, path: Path) -> None:
    planes = TILE.planes(np.full(TILE.frame_bytes, 128, np.uint8))
    PyAvEncoder().encode(((pts, planes) for pts in times), TILE, output, path)


# ---------------------------------------------------------------- children


def _measured(number: int, clip: Clip, what: str, folder: Path) -> Outcome:
    """Examine one file in this process."""
    path = folder / f"input{clip.suffix}"
    path.write_bytes(clip.data)
    gc.collect()  # what the file before left half closed is not this one's doing
    files, before = len(os.listdir("/proc/self/fd")), _reset_peak()
    began, detail = time.monotonic(), ""
    work = folder / "work"
    work.mkdir(exist_ok=True)
    try:
        code, _, detail = examine(path, work).partition(": ")
    except Exception as error:  # noqa: BLE001 what escapes is what is looked for
        code, detail = f"traceback {type(error).__name__}", traceback.format_exc()
    took = time.monotonic() - began
    peak = _peak() - before
    gc.collect()
    left = sorted(each.name for each in work.iterdir())
    if left or len(os.listdir("/proc/self/fd")) > files:
        code, detail = "left something open or behind", f"{left}"
        for name in left:
            (work / name).unlink()
    return Outcome(number, what, code, detail, took, peak / MIB)


def peak_of(work: Callable[[], T]) -> tuple[T, int]:
    """What `work` returns, and how much more memory this process had meanwhile at most, bytes."""
    before = _reset_peak()
    return work(), _peak() - before


def _reset_peak() -> int:
    """Start counting the peak anew; what is resident now, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return 0


def _serve(connection: Connection, clips: Sequence[Clip], seed: int, memory_mib: int) -> None:
    """A child: examine what it is told to until the parent hangs up."""
    # What the parent left to the collector stays there: a decoder's threads are not in a fork, and
    # to close it here would wait for them for ever.
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    av.logging.set_level(None)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    most = data_bytes() + memory_mib * MIB  # what the parent had is in a fork, too
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    with tempfile.TemporaryDirectory() as folder:
        while True:
            try:
                number = connection.recv()
            except EOFError:
                return
            what, clip = mutation(clips, seed, number)
            connection.send(_measured(number, clip, what, Path(folder)))


class _Child:
    """A process that examines one file after the other."""

    def __init__(self, clips: Sequence[Clip], seed: int, memory_mib: int) -> None:
        context = multiprocessing.get_context("fork")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, clips, seed, memory_mib), daemon=True
        )
        self._process.start()
        theirs.close()
        self.number = -1
        self.deadline = 0.0

    def start(self, number: int, limit_s: float) -> None:
        self.number, self.deadline = number, time.monotonic() + limit_s
        self.connection.send(number)

    def signal_name(self) -> str:
        """What ended it."""
        self._process.join()
        code = self._process.exitcode or 0
        return signal.Signals(-code).name if code < 0 else f"exit {code}"

    def kill(self) -> None:
        self.connection.close()
        self._process.kill()
        self._process.join()


@dataclass(frozen=True)
class Limits:
    """Of one file: seconds and MiB; and how many are examined at a time."""

    seconds: float = 60.0
    memory_mib: int = 4096
    children: int = 2


def run(
    clips: Sequence[Clip], seed: int, numbers: Iterable[int], limits: Limits
) -> Iterator[Outcome]:
    """Outcomes of the mutations with these numbers, as they come."""
    waiting = deque(numbers)
    children: list[_Child] = []
    try:
        while waiting or any(child.number >= 0 for child in children):
            while waiting and len(children) < limits.children:
                children.append(_Child(clips, seed, limits.memory_mib))
            for child in children:
                if child.number < 0 and waiting:
                    child.start(waiting.popleft(), limits.seconds)
            yield from _collect(clips, seed, children)
    finally:
        for child in children:
            child.kill()


def _collect(clips: Sequence[Clip], seed: int, children: list[_Child]) -> Iterator[Outcome]:
    """What came within a second; children that died or took too long are removed."""
    busy = {child.connection: child for child in children if child.number >= 0}
    ready = wait(list(busy), timeout=1.0)
    for connection, child in busy.items():
        number, bad = child.number, ""
        if connection in ready:
            try:
                outcome: Outcome = child.connection.recv()
                child.number = -1
                yield outcome
                continue
            except (EOFError, ConnectionResetError):
                bad = f"crash {child.signal_name()}"
        elif time.monotonic() > child.deadline:
            bad = "time-out"
        if bad:
            child.kill()
            children.remove(child)
            yield Outcome(number, mutation(clips, seed, number)[0], bad)


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(prog="benchmarks.mutations", description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--footage", type=Path, help="folder with faces/, people/ and odd/")
    parser.add_argument("--only", type=int, help="this mutation alone, with its traceback")
    parser.add_argument("--keep", type=Path, help="with --only: write the file here")
    parser.add_argument("--limit-s", type=float, default=60.0)
    parser.add_argument("--memory-mib", type=int, default=4096)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        clips = small_clips(Path(folder))
    if options.footage is not None:
        clips += real_clips(options.footage)
    numbers = range(options.count) if options.only is None else [options.only]
    if options.keep is not None and options.only is not None:
        options.keep.write_bytes(mutation(clips, options.seed, options.only)[1].data)
    limits = Limits(options.limit_s, options.memory_mib)
    began = time.monotonic()
    outcomes = []
    for outcome in run(clips, options.seed, numbers, limits):
        outcomes.append(outcome)
        if outcome.bad or options.only is not None:
            _print_case(outcome)
    _print_sum(outcomes, clips, time.monotonic() - began)
    return int(any(outcome.bad for outcome in outcomes))


def _print_case(outcome: Outcome) -> None:
    print(f"--only {outcome.number}: {outcome.code}  ({outcome.what})", flush=True)
    print(f"    {outcome.took_s:.2f} s, {outcome.peak_mib:.0f} MiB")
    if outcome.detail:
        print(outcome.detail, flush=True)


def _print_sum(outcomes: Sequence[Outcome], clips: Sequence[Clip], took_s: float) -> None:
    print(f"{len(outcomes)} files of {len(clips)} clips in {took_s:.0f} s")
    for code, count in Counter(outcome.code for outcome in outcomes).most_common():
        print(f"{count:6d}  {code}")
    for title, key in (("slowest", "took_s"), ("most memory", "peak_mib")):
        worst = sorted(outcomes, key=lambda each: -getattr(each, key))[:5]
        cases = (
            f"{each.took_s:.1f} s {each.peak_mib:.0f} MiB (--only {each.number})" for each in worst
        )
        print(f"{title}: {', '.join(cases)}")


if __name__ == "__main__":
    sys.exit(main())
