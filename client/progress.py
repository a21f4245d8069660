"""Live progress: bars on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from client.requests import Request
from shared.jobs import JobState
from shared.ledger import STAGES, JobView

PLAIN_EVERY_S = 2.0
"""Into a file or a pipe; a change of state is told at once."""


class Rate:
    """Frames per second over the last few seconds, and what that means for the rest."""

    WINDOW_S = 8.0

    def __init__(self) -> None:
        self._points: list[tuple[float, int]] = []

    def add(self, frames: int) -> None:
        """Note how many frames are done now."""
        now = time.monotonic()
        if not self._points or frames != self._points[-1][1]:
            self._points.append((now, frames))
        while len(self._points) > 2 and now - self._points[0][0] > self.WINDOW_S:
            self._points.pop(0)

    @property
    def per_s(self) -> float:
        """Frames per second; 0 while unknown."""
        if len(self._points) < 2:
            return 0.0
        (begin, first), (end, last) = self._points[0], self._points[-1]
        return (last - first) / (end - begin) if end > begin else 0.0

    def left_s(self, frames: int) -> float | None:
        """Seconds for `frames` more, None while unknown."""
        return frames / self.per_s if self.per_s > 0 else None


class Display:
    """Shows how jobs get on. Use it as a context."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rates: dict[str, Rate] = {}
        self._bars: dict[str, TaskID] = {}
        self._said: dict[str, tuple[float, JobState]] = {}
        self._progress = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[stages]}"),
            console=console,
            transient=True,
        )

    def __enter__(self) -> Display:
        if self._console.is_terminal:
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._console.is_terminal:
            self._progress.stop()

    def show(self, request: Request, view: JobView) -> None:
        """Update what is shown of a job."""
        rate = self._rates.setdefault(view.job, Rate())
        rate.add(view.done[3])
        if self._console.is_terminal:
            self._bar(request, view, rate)
        else:
            self._line(request, view, rate)

    def _bar(self, request: Request, view: JobView, rate: Rate) -> None:
        if view.job not in self._bars:
            name = request.input.name
            self._bars[view.job] = self._progress.add_task(name, rate="", stages="")
        self._progress.update(
            self._bars[view.job],
            total=view.expected or None,
            completed=view.done[3],
            rate=_rate_text(view, rate),
            stages=_stages_text(view),
        )

    def _line(self, request: Request, view: JobView, rate: Rate) -> None:
        now = time.monotonic()
        at, state = self._said.get(view.job, (-PLAIN_EVERY_S, None))
        if now - at < PLAIN_EVERY_S and state is view.state:
            return
        self._said[view.job] = (now, view.state)
        self._console.print(
            f"{request.input.name}: {view.state.value} {view.done[3]}/{view.expected or '?'} frames"
            f" {_rate_text(view, rate)} ({_stages_text(view)})",
            highlight=False,
            soft_wrap=True,
        )


def _rate_text(view: JobView, rate: Rate) -> str:
    if view.state in (JobState.QUEUED, JobState.SPLITTING, JobState.MUXING):
        return view.state.value
    left = rate.left_s(max(0, view.expected - view.done[3]))
    if left is None:
        return "starting"
    return f"{rate.per_s:.1f} frames/s, {int(left) // 60}:{int(left) % 60:02d} left"


def _stages_text(view: JobView) -> str:
    names = {"decode": "decoded", "infer": "looked at", "compose": "composed", "encode": "encoded"}
    return " ".join(f"{names[s]} {n}" for s, n in zip(STAGES, view.done, strict=True))
