"""What was measured: figures, parts, the whole; as JSON for programs and as tables for people."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime

from shared.jobs import Model

SCHEMA_VERSION = 1
_TOLD = re.compile(
    r"(av|celery|cupy.*|numpy|nvidia.*|onnxruntime.*|opencv.*|pynvvideocodec|redis|tensorrt.*|valkey.*)$",
    re.IGNORECASE,
)
"""Packages that people look for in a table."""

REHEARSAL = "REHEARSAL OVER DOUBLES: no figure means anything"


class Figure(Model):
    """One quantity. `median`, `low`, `high` of `samples` measurements, in `unit`.

    `target`: what it is to be, in words, "" for none; `met`: whether the median is, None where
    there is no target, or it was a rehearsal. `means`: what it is, in a sentence.
    """

    name: str
    unit: str
    median: float
    low: float
    high: float
    samples: int
    target: str = ""
    met: bool | None = None
    means: str = ""


def figure(
    name: str,
    unit: str,
    values: Sequence[float],
    means: str,
    *,
    most: float | None = None,
    least: float | None = None,
) -> Figure:
    """Of the measurements `values`, at least one. `most`, `least`: the target."""
    median = statistics.median(values)
    target, met = "", None
    if most is not None:
        target, met = f"at most {most:g}", median <= most
    if least is not None:
        target, met = f"at least {least:g}", median >= least
    return Figure(
        name=name,
        unit=unit,
        median=median,
        low=min(values),
        high=max(values),
        samples=len(values),
        target=target,
        met=met,
        means=means,
    )


class Outcome(Model):
    """What a part found. `line`: the gist, for people; `notes`: what to know about the figures."""

    line: str
    figures: tuple[Figure, ...]
    notes: tuple[str, ...] = ()


class Report(Model):
    """A part that was run. `why` it failed, "" if it did not; `seconds` it took."""

    name: str
    title: str
    state: Literal["measured", "failed"]
    why: str = ""
    seconds: float
    line: str = ""
    figures: tuple[Figure, ...] = ()
    notes: tuple[str, ...] = ()


class Machine(Model):
    """What it was measured on. None: not known."""

    gpu: str
    gpu_uuid: str
    compute: tuple[int, int]
    memory_bytes: int
    busy_before: float | None
    driver: str | None
    cuda_of_driver: str | None
    cores: int
    processor: str
    memory_of_host_bytes: int
    system: str
    python: str
    packages: dict[str, str]
    commit: str | None


class Results(Model):
    """A whole run. `notice` is REHEARSAL over the doubles, else ""."""

    schema_version: Literal[1] = 1
    notice: str
    rehearsal: bool
    quick: bool
    date_utc: AwareDatetime
    command: str
    machine: Machine
    parts: tuple[Report, ...]


def told(part: Report) -> str:
    """A part for the terminal."""
    if part.state == "failed":
        return f"{part.name}: failed: {part.why}"
    return f"{part.name}: {part.line} ({part.seconds:.0f} s)"


def write(results: Results, folder: Path) -> None:
    """`results.json` and `results.md`, each as a whole."""
    _replace(folder / "results.json", results.model_dump_json(indent=1) + "\n")
    _replace(folder / "results.md", markdown(results))


def _replace(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def markdown(results: Results) -> str:
    """Tables for people."""
    machine = results.machine
    versions = ", ".join(
        f"{name} {each}" for name, each in sorted(machine.packages.items()) if _TOLD.match(name)
    )
    lines = [
        f"# GPU benchmark, {results.date_utc:%Y-%m-%d %H:%M} UTC",
        "",
        *([f"**{results.notice}**", ""] if results.notice else []),
        *(["Quick run: small pictures, few repeats.", ""] if results.quick else []),
        f"- {machine.gpu}, compute {'.'.join(map(str, machine.compute))}, "
        f"{machine.memory_bytes >> 20} MiB, driver {machine.driver or 'unknown'} "
        f"(CUDA {machine.cuda_of_driver or 'unknown'})",
        *(
            [f"- others use this GPU: it was busy for {100 * machine.busy_before:.0f} % before"]
            if machine.busy_before
            else []
        ),
        f"- {machine.cores} cores, {machine.processor}, {machine.memory_of_host_bytes >> 30} GiB, "
        f"{machine.system}, Python {machine.python}",
        f"- {versions} (all packages: `results.json`)",
        f"- commit {machine.commit or 'unknown'}; `{results.command}`",
        "",
        "Medians; spread is from the least to the most of n measurements in this run.",
        "",
    ]
    for part in results.parts:
        lines += _section(part, results.notice)
    return "\n".join(lines)


def _section(part: Report, notice: str) -> list[str]:
    lines = [f"## {part.name}: {part.title}", ""]
    if notice:
        lines += [f"*{notice}.*", ""]
    if part.state == "failed":
        return [*lines, f"failed: {part.why}", ""]
    lines += [part.line, ""]
    lines += [
        "| figure | median | spread | n | target | what it means |",
        "|---|---|---|---|---|---|",
    ]
    lines += [_row(each) for each in part.figures]
    lines += ["", *(f"- {note}" for note in part.notes), *([""] if part.notes else [])]
    return lines


def _row(each: Figure) -> str:
    verdict = {None: "", True: " (met)", False: " (missed)"}[each.met]
    spread = f"{_number(each.low)} to {_number(each.high)}"
    return (
        f"| {each.name} | {_number(each.median)} {each.unit} | {spread} | {each.samples} "
        f"| {each.target}{verdict} | {each.means} |"
    )


def _number(value: float) -> str:
    """Three digits that count."""
    if value == 0 or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"
