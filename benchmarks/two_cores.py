"""Speed of the whole system against one ffmpeg process, alternating, medians of the ratios.

    python -m benchmarks.two_cores --input VIDEO [--rounds 5]

Without --input a sample is made. "warm": from submitting a job to a stack whose workers are up to
the result in place; "cold": the whole `dualface run` process, start and stop of the stack included.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.memory import Watch
from benchmarks.reference import reference_command, timed
from benchmarks.views import typical_views
from client.requests import Options, make_request
from client.run import Outcome, run_on
from client.sample import make_sample
from client.stack import running_stack
from client.warm import warm_up
from shared.ledger import STAGES
from shared.settings import Settings


class Quiet:
    """Shows nothing."""

    def __enter__(self) -> Quiet:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def show(self, request: object, view: object) -> None:
        """Nothing."""


def warm_run(settings: Settings, source: Path, target: Path) -> Outcome:
    """One job on a stack that is up; the stack's start is not counted."""
    with running_stack(settings) as stack:
        stack.wait_until_consuming()
        request = make_request(source, target, Options())
        return run_on(stack, [request], Quiet(), time.monotonic())[0]


def main(arguments: Sequence[str]) -> int:
    """Print a table; 0 unless something failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="dualface-bench-") as name:
        folder = Path(name)
        settings = Settings().model_copy(update={"state_dir": folder / "state"})
        source = chosen.input or _sample(settings, folder / "sample.mp4")
        return _compare(settings, source, folder, chosen.rounds)


def _sample(settings: Settings, path: Path) -> Path:
    make_sample(path, seconds=20, size=(1920, 1080), portraits=settings.cache_dir / "portraits")
    return path


def _compare(settings: Settings, source: Path, folder: Path, rounds: int) -> int:
    request = make_request(source, folder / "cold.mp4", Options())
    views = typical_views(source, request.source, request.plan, settings)
    print(f"reference crops: {views[0]}, {views[1]}", flush=True)
    reference = reference_command(source, views, request.plan, folder / "ref.mp4")
    cold_command = [sys.executable, "-m", "client.cli", "run", str(source), "-o"]
    cold_command.append(str(folder / "cold.mp4"))
    warm_ratios, cold_ratios, cpu = [], [], []
    for round_ in range(1, rounds + 1):
        ref = timed(reference)
        outcome = warm_run(settings, source, folder / "warm.mp4")
        if outcome.error is not None or outcome.result is None or outcome.view is None:
            print(f"failed: {outcome.error}")
            return 1
        cold = timed(cold_command)
        frames = outcome.result.frames
        warm_ratios.append(ref.wall_s / outcome.seconds)
        cold_ratios.append(ref.wall_s / cold.wall_s)
        cpu.append({s: 1000 * outcome.view.cpu_s.get(s, 0.0) / frames for s in STAGES})
        print(
            f"round {round_}: ffmpeg {frames / ref.wall_s:5.1f} frames/s "
            f"({1000 * ref.cpu_s / frames:.1f} CPU s/1000), "
            f"warm {frames / outcome.seconds:5.1f} ({warm_ratios[-1]:.3f}), "
            f"cold {frames / cold.wall_s:5.1f} ({cold_ratios[-1]:.3f})",
            flush=True,
        )
    print(
        f"median ratio to ffmpeg: warm {statistics.median(warm_ratios):.3f}, "
        f"cold {statistics.median(cold_ratios):.3f}"
    )
    stages = ", ".join(f"{s} {statistics.median(c[s] for c in cpu):.1f}" for s in STAGES)
    print(f"median CPU seconds per 1000 frames by stage: {stages}")
    with Watch() as watch:  # in a run of its own: to look costs time
        timed(cold_command)
    print(f"peak memory of all processes: {watch.peak_mib:.0f} MiB")
    return 0


if __name__ == "__main__":
    warm_up()
    sys.exit(main(sys.argv[1:]))
