"""What commands print: for people on a terminal, for people in a file, for programs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from types import TracebackType

from pydantic import BaseModel
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from client.progress import PLAIN_EVERY_S
from shared.jobs import JobState
from shared.rest import Job, JobEvent

NARROW = 80
"""Columns; below it a job's id leaves no room for a table."""
LAST_LEAST = 8
"""Of a table's last column."""
STYLES = {
    JobState.SUCCEEDED: "green",
    JobState.FAILED: "red",
    JobState.CANCELLED: "yellow",
}


class Out:
    """Results go to standard output, everything else to standard error. `as_json`: nothing but
    JSON goes to standard output, one document a line."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.console = Console(soft_wrap=True, markup=False, highlight=False)
        self.errors = Console(stderr=True, soft_wrap=True, markup=False, highlight=False)

    def say(self, text: str, style: str | None = None) -> None:
        """For people."""
        if not self.as_json:
            self.console.print(text, style=style)

    def line(self, document: object) -> None:
        """For programs, at once."""
        if self.as_json:
            print(json.dumps(_jsonable(document), ensure_ascii=False), flush=True)

    def note(self, text: str) -> None:
        """For people, beside the results."""
        self.errors.print(text)

    def error(self, text: str) -> None:
        """A sentence about what went wrong."""
        self.errors.print(f"dualface: {text}", style="red")


def plain(text: str) -> str:
    """Names come from others: a control character would command the terminal."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)


def table(out: Out, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table as wide as the terminal. Ids are for copying, so it is the last column that is cut
    off; where the others don't fit, each row is a block. Into a file: whole, with tabs between."""
    console = out.console
    if not console.is_terminal:
        for row in rows:
            print("\t".join(map(plain, row)))
        return
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    left = console.width - sum(widths[:-1]) - 2 * len(heads)
    if left < LAST_LEAST:
        for row in rows:
            print_rows(out, plain(row[0]), list(zip(heads, map(plain, row), strict=True))[1:])
        return
    made = Table(box=None, pad_edge=False, header_style="dim")
    for head, width in zip(heads[:-1], widths, strict=False):
        made.add_column(head, no_wrap=True, min_width=width)
    made.add_column(heads[-1], no_wrap=True)
    for row in rows:
        last = Text(plain(row[-1]))
        last.truncate(left, overflow="ellipsis")
        made.add_row(*(Text(plain(cell)) for cell in row[:-1]), last)
    console.print(made, soft_wrap=False)


def job_table(out: Out, jobs: Sequence[Job]) -> None:
    """Jobs, one a line; two where the terminal is narrow."""
    if out.console.is_terminal and out.console.width < NARROW:
        for job in jobs:
            out.console.print(job.id, style="bold")
            text = Text(f"  {share_text(job)} {plain(job.name)}", style=STYLES.get(job.state, ""))
            text.truncate(out.console.width, overflow="ellipsis")
            out.console.print(text)
        return
    rows = [(job.id, job.state.value, percent(job), _when(job), job.name) for job in jobs]
    table(out, ("job", "state", "done", "submitted", "video"), rows)


def job_rows(job: Job) -> list[tuple[str, str]]:
    """What is to be said of one job."""
    made, error = job.result, job.error
    rows = [("video", plain(job.name)), ("state", share_text(job)), ("submitted", _when(job))]
    if job.progress.frames_per_s:
        rows.append(("speed", f"{job.progress.frames_per_s:g} frames/s"))
    if job.progress.seconds_left is not None:
        rows.append(("left", f"about {clock(job.progress.seconds_left)}"))
    if job.engines:
        rows.append(("engines", ", ".join(f"{k} {v}" for k, v in sorted(job.engines.items()))))
    if made is not None:
        rows += [("frames", str(made.frames)), ("people found", str(made.people))]
        counts = {
            "lost": made.frames_lost,
            "damaged": made.frames_concealed,
            "dropped": made.frames_dropped,
            "shown twice": made.frames_replaced,
        }
        rows += [(name, f"{count} frames") for name, count in counts.items() if count]
        rows += [("note", plain(warning)) for warning in made.warnings]
    if error is not None:
        rows.append(("why", f"{plain(error.message)} ({error.code})"))
    return rows


def print_rows(out: Out, head: str, rows: Sequence[tuple[str, str]]) -> None:
    """A block of names and values."""
    out.say(head, style="bold")
    for name, text in rows:
        out.say(f"  {name + ':':14}{text}")


def share_text(job: Job) -> str:
    """Its state, and how far it is."""
    told = job.progress
    frames = f" {told.frames}/{told.expected} frames" if told.expected else ""
    return f"{job.state.value} {percent(job)}{frames}"


def percent(job: Job) -> str:
    """0 % to 100 %, rounded down: nothing is done before it is."""
    return f"{int(job.progress.share * 100)}%"


def clock(seconds: float) -> str:
    """Minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class Bars:
    """How transfers and jobs get on: bars on a terminal, a line now and then elsewhere, on standard
    error; for programs nothing. Threads may share one. Use it as a context."""

    def __init__(self, out: Out) -> None:
        self._out = out
        self._live = out.errors.is_terminal
        self._rows: dict[str, TaskID] = {}
        self._said: dict[str, tuple[float, str]] = {}
        self._progress = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[text]}", markup=False),
            console=out.errors,
            expand=out.errors.width < NARROW,
            transient=True,
        )

    def __enter__(self) -> Bars:
        if self._live:
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._progress.stop()

    def bytes(self, name: str, what: str, done: int, total: int) -> None:
        """Of a transfer; `what`: sending, fetching."""
        self._show(name, what, done, total, f"{what} {done / 1e6:.1f}/{total / 1e6:.1f} MB")

    def event(self, name: str, event: JobEvent) -> None:
        """Of a job."""
        state = event.state.value if event.state is not None else ""
        frames, expected = event.frames or 0, event.expected or 0
        if event.warning is None:
            self._show(name, state, frames, expected, f"{state} {frames}/{expected or '?'} frames")

    def over(self, name: str) -> None:
        """Its row goes."""
        row = self._rows.pop(name, None)
        if row is not None:
            self._progress.remove_task(row)

    def _show(self, name: str, kind: str, done: int, total: int, text: str) -> None:
        if self._live:
            if name not in self._rows:
                shown = _shortened(plain(name), max(8, self._out.errors.width // 3))
                self._rows[name] = self._progress.add_task(shown, text="")
            self._progress.update(self._rows[name], completed=done, total=total or None, text=text)
        elif not self._out.as_json:
            now = time.monotonic()
            at, before = self._said.get(name, (-PLAIN_EVERY_S, ""))
            if now - at >= PLAIN_EVERY_S or before != kind:
                self._said[name] = (now, kind)
                print(f"{plain(name)}: {text}", file=sys.stderr, flush=True)


def _jsonable(value: object) -> object:
    if isinstance(value, BaseModel):
        return json.loads(value.model_dump_json())
    if isinstance(value, dict):
        return {str(name): _jsonable(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(each) for each in value]
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _when(job: Job) -> str:
    return job.submitted_at.astimezone().strftime("%m-%d %H:%M")
