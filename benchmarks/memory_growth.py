"""Does memory depend on the length of a video? Peak of all processes for a short and a long one.

    python -m benchmarks.memory_growth --input VIDEO [--seconds 300]

The long one is the short one, repeated without re-encoding up to `--seconds`. Without --input a
sample of 20 s is made. Fails (exit code 1) when the short one takes more than LIMIT_MIB, or the
long one more than GROWTH times the short one.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer

from benchmarks.memory import Sample, Watch
from benchmarks.reference import timed
from client.sample import make_sample
from shared.settings import Settings

LIMIT_MIB = 2048.0
GROWTH = 1.10
SETTLED = 0.25
"""Share of a run after which every process has what it needs, for good."""


def repeat(source: Path, target: Path, seconds: float) -> int:
    """Write `source` again and again, at least `seconds` in all; how often it was written.

    Packets are copied, moved by whole lengths of the picture, so that sound stays in sync; a sound
    packet that would not come after the one before (the encoder's priming) is left out.
    """
    with av.open(str(source)) as opened, av.open(str(target), "w") as out:
        video, length = opened.streams.video[0], _length(opened)
        streams = {s.index: out.add_stream_from_template(s) for s in _copied(opened)}
        last: dict[int, int] = {}
        rounds = max(1, math.ceil(seconds / length))
        for number in range(rounds):
            for packet in opened.demux(_copied(opened)):
                if packet.pts is None or packet.dts is None:
                    continue
                shift = round(number * length / packet.time_base)
                packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                index = packet.stream_index
                if index == video.index or packet.dts > last.get(index, packet.dts - 1):
                    last[index] = packet.dts
                    packet.stream = streams[index]
                    out.mux(packet)
            opened.seek(0)
    return rounds


def _copied(opened: InputContainer) -> list[av.VideoStream | av.AudioStream]:
    return [*opened.streams.video[:1], *opened.streams.audio[:1]]


def _length(opened: InputContainer) -> Fraction:
    """Seconds from the first frame to the end of the last, exact; leaves `opened` at its start."""
    video = opened.streams.video[0]
    packets = [packet for packet in opened.demux(video) if packet.pts is not None]
    opened.seek(0)
    starts = [packet.pts or 0 for packet in packets]
    ends = [(packet.pts or 0) + (packet.duration or 0) for packet in packets]
    return (max(ends) - min(starts)) * Fraction(video.time_base or 1)


def measure(source: Path, folder: Path) -> tuple[list[Sample], float]:
    """Samples of a whole `dualface run` process, and its seconds."""
    command = [sys.executable, "-m", "client.cli", "run", str(source), "--out", str(folder)]
    with Watch() as watch:
        run = timed(command)
    return watch.samples, run.wall_s


def peaks(samples: Sequence[Sample]) -> dict[str, float]:
    """The most private memory of each kind of process, MiB."""
    names = sorted({name for sample in samples for name in sample.private_mib})
    return {name: max(s.private_mib.get(name, 0.0) for s in samples) for name in names}


def _report(title: str, samples: Sequence[Sample], frames: int, wall_s: float) -> float:
    """Print one run; its peak in MiB."""
    peak = max(sample.total_mib for sample in samples)
    print(
        f"{title}: {frames} frames in {wall_s:.1f} s = {frames / wall_s:.1f} frames/s, "
        f"peak {peak:.0f} MiB",
        flush=True,
    )
    settled = samples[-1].at_s * SETTLED
    early = peaks([sample for sample in samples if sample.at_s <= settled])
    late = peaks([sample for sample in samples if sample.at_s > settled])
    for name, mib in late.items():
        print(f"  {name:20}{early.get(name, 0.0):7.1f} -> {mib:7.1f} MiB private", flush=True)
    return peak


def _frames(path: Path) -> int:
    with av.open(str(path)) as opened:
        return sum(1 for packet in opened.demux(video=0) if packet.size)


def main(arguments: Sequence[str]) -> int:
    """Print both runs; 1 when a bound is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", type=Path)
    parser.add_argument("--seconds", type=float, default=300.0)
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="dualface-bench-") as name:
        folder = Path(name)
        short = chosen.input or folder / "sample.mp4"
        if chosen.input is None:
            cache = Settings().cache_dir / "portraits"
            make_sample(short, seconds=20, size=(1920, 1080), portraits=cache)
        long = folder / "long.mp4"
        rounds = repeat(short, long, chosen.seconds)
        tops = [
            _report(title, *_measured(video, folder))
            for title, video in (("once", short), (f"{rounds} times", long))
        ]
    ratio = tops[1] / tops[0]
    print(f"{ratio:.3f} times the memory for {rounds} times the length")
    return int(tops[0] > LIMIT_MIB or ratio > GROWTH)


def _measured(video: Path, folder: Path) -> tuple[list[Sample], int, float]:
    samples, wall_s = measure(video, folder)
    return samples, _frames(video), wall_s


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
