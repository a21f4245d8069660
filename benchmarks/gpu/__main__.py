"""The command line; see the package."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.gpu import decode, ipc, kernels, naive, stages, whole
from benchmarks.gpu.about import look, machine
from benchmarks.gpu.bench import FULL, QUICK, REHEARSAL, Bench
from benchmarks.gpu.children import FailedError, alone
from benchmarks.gpu.results import REHEARSAL as NOTICE
from benchmarks.gpu.results import Outcome, Report, Results, markdown, told, write
from client.gpus import look as look_for_gpus
from client.gpus import places, suited
from client.warm import warm_up
from shared.errors import DualfaceError
from shared.gpu import devices
from shared.settings import Settings

START_S = 120.0

Part = tuple[str, Callable[[Bench], Outcome]]
"""Its title, and what measures it."""

PARTS: dict[str, Part] = {
    "decode": (decode.TITLE, decode.measure),
    "stages": (stages.TITLE, stages.measure),
    "ipc": (ipc.TITLE, ipc.measure),
    "kernels": (kernels.TITLE, kernels.measure),
    "whole": (whole.TITLE, whole.measure),
    "bytes": (whole.BYTES_TITLE, whole.measure_bytes),
    "vram": (whole.VRAM_TITLE, whole.measure_vram),
    "naive": (naive.TITLE, naive.measure),
}
NAMES = tuple(PARTS)


def main(arguments: Sequence[str]) -> int:
    """0 when every part was measured, 1 when one failed, 2 where there is no GPU."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description="What the GPU path does on a real GPU."
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the files")
    parser.add_argument("--only", action="append", choices=NAMES, help="this part; may be repeated")
    parser.add_argument("--quick", action="store_true", help="small pictures, few repeats")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="dualface-gpu-bench-") as name:
        try:
            bench = _bench(Path(name), quick=chosen.quick)
        except (DualfaceError, FailedError) as error:
            print(f"There is no GPU to measure: {error}", file=sys.stderr)
            return 2
        chosen.out.mkdir(parents=True, exist_ok=True)
        command = f"python -m benchmarks.gpu {' '.join(arguments)}"
        results = Results(
            notice=NOTICE if bench.rehearsal else "",
            rehearsal=bench.rehearsal,
            quick=chosen.quick or bench.rehearsal,
            date_utc=datetime.now(UTC),
            command=command,
            machine=machine(bench.gpu),
            parts=(),
        )
        results = run_parts(bench, results, _parts(chosen.only or NAMES), chosen.out)
    print()
    print(markdown(results))
    return int(any(part.state == "failed" for part in results.parts))


def _bench(folder: Path, *, quick: bool) -> Bench:
    """Raises DualfaceError or FailedError where there is no GPU that can be used."""
    chosen = Settings.load()
    hardware = look_for_gpus(chosen)
    there = devices(chosen, hardware)
    if len(there) > 1:
        # One is measured; what is probed for it alone is not kept for the stacks of this machine.
        one = {"gpu_devices": tuple(there[:1]), "config_dir": folder / "config"}
        chosen = chosen.model_copy(update=one)
    base = suited(chosen, hardware)
    base = base.model_copy(
        # A state of its own, on this machine.
        update={"state_dir": folder / "state", "store_dir": None, "store": "", "redis_url": ""}
    )
    first = places(base, hardware)[0]
    gpu = alone(look, first, patience_s=START_S)
    sizes = REHEARSAL if gpu.double else QUICK if quick else FULL
    streams = max(base.max_concurrent_streams, *sizes.streams)
    base = base.model_copy(update={"max_concurrent_streams": streams, "batch_frames": sizes.batch})
    settings = places(base, hardware)[0]
    return Bench(base, settings, gpu, sizes, folder, gpu.double)


def run_parts(bench: Bench, results: Results, parts: Mapping[str, Part], out: Path) -> Results:
    """One after the other, whatever becomes of each; files are written after each, for who is
    interrupted."""
    if results.notice:
        print(results.notice, flush=True)
    for name, part in parts.items():
        report = _reported(bench, name, part)
        print(told(report), flush=True)
        results = results.model_copy(update={"parts": (*results.parts, report)})
        write(results, out)
    return results


def _reported(bench: Bench, name: str, part: Part) -> Report:
    title, measure = part
    began = time.monotonic()
    try:
        outcome = measure(bench)
    except Exception as error:  # noqa: BLE001 - whatever it is, the others are measured all the same
        why = (str(error).strip().splitlines() or [""])[0] or type(error).__name__
        spent_s = time.monotonic() - began
        return Report(name=name, title=title, state="failed", why=why, seconds=spent_s)
    figures = outcome.figures
    if bench.rehearsal:  # no target is met or missed
        figures = tuple(each.model_copy(update={"met": None}) for each in figures)
    return Report(
        name=name,
        title=title,
        state="measured",
        seconds=time.monotonic() - began,
        line=outcome.line,
        figures=figures,
        notes=outcome.notes,
    )


def _parts(names: Sequence[str]) -> dict[str, Part]:
    """Those of `names`, in the order of NAMES."""
    return {name: part for name, part in PARTS.items() if name in names}


if __name__ == "__main__":
    warm_up()
    sys.exit(main(sys.argv[1:]))
