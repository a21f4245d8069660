"""The command line; see the package."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.gpu.about import look, machine
from benchmarks.gpu.bench import FULL, QUICK, REHEARSAL, Bench
from benchmarks.gpu.children import FailedError, alone
from benchmarks.gpu.results import REHEARSAL as NOTICE
from benchmarks.gpu.results import Outcome, Part, Results, markdown, told, write
from client.gpus import places
from client.warm import warm_up
from shared.errors import DualfaceError
from shared.settings import Settings

START_S = 120.0
NAMES = ("decode", "stages", "ipc", "kernels", "whole", "bytes", "vram", "naive")


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
        results = _measured(bench, results, chosen.only or NAMES, chosen.out)
    print()
    print(markdown(results))
    return int(any(part.state == "failed" for part in results.parts))


def _bench(folder: Path, *, quick: bool) -> Bench:
    """Raises DualfaceError or FailedError where there is no GPU that can be used."""
    base = Settings()
    settings = places(base)[0][0]
    settings = settings.model_copy(update={"state_dir": folder / "state", "store_dir": None})
    gpu = alone(look, settings, patience_s=START_S)
    sizes = REHEARSAL if gpu.double else QUICK if quick else FULL
    return Bench(settings, gpu, sizes, folder, gpu.double)


def _measured(bench: Bench, results: Results, names: Sequence[str], out: Path) -> Results:
    """The parts, one after the other; files are written after each, for who is interrupted."""
    if results.notice:
        print(results.notice, flush=True)
    for name in NAMES:
        if name in names:
            part = _part(bench, name)
            print(told(part), flush=True)
            results = results.model_copy(update={"parts": (*results.parts, part)})
            write(results, out)
    return results


def _part(bench: Bench, name: str) -> Part:
    title, measure = _of(name)
    began = time.monotonic()
    try:
        outcome = measure(bench)
    except Exception as error:  # noqa: BLE001 - whatever it is, the others are measured all the same
        why = (str(error).strip().splitlines() or [""])[0] or type(error).__name__
        return Part(
            name=name, title=title, state="failed", why=why, seconds=time.monotonic() - began
        )
    return Part(
        name=name,
        title=title,
        state="measured",
        seconds=time.monotonic() - began,
        line=outcome.line,
        figures=tuple(_bare(bench, outcome)),
        notes=outcome.notes,
    )


def _bare(bench: Bench, outcome: Outcome) -> Sequence[object]:
    """Of a rehearsal no target is met or missed."""
    if not bench.rehearsal:
        return outcome.figures
    return [each.model_copy(update={"met": None}) for each in outcome.figures]


def _of(name: str) -> tuple[str, Callable[[Bench], Outcome]]:
    # A part whose imports fail is a part that failed, so each is imported when it is its turn.
    from benchmarks.gpu import decode, ipc, kernels, naive, stages, whole

    found = {
        "decode": (decode.TITLE, decode.measure),
        "stages": (stages.TITLE, stages.measure),
        "ipc": (ipc.TITLE, ipc.measure),
        "kernels": (kernels.TITLE, kernels.measure),
        "whole": (whole.TITLE, whole.measure),
        "bytes": (whole.BytesPart.TITLE, whole.BytesPart.measure),
        "vram": (whole.VramPart.TITLE, whole.VramPart.measure),
        "naive": (naive.TITLE, naive.measure),
    }
    return found[name]


if __name__ == "__main__":
    warm_up()
    sys.exit(main(sys.argv[1:]))
