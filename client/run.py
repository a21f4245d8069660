"""`dualface run`: start the stack, submit, show progress, put results in place, leave nothing."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Protocol

from client.placing import part_of, place
from client.requests import Request
from client.stack import Stack, running_stack
from shared.errors import DualfaceError, ErrorCode, PermanentError
from shared.jobs import JobState
from shared.ledger import JobResult, JobView, Ledger
from shared.settings import Settings
from shared.storage.directory import DirectoryStore


class Display(Protocol):
    """Shows how jobs get on; entered before the first and left after the last call of `show`."""

    def __enter__(self) -> object: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> object: ...

    def show(self, request: Request, view: JobView) -> None:
        """Called for every job a few times a second."""


POLL_S = 0.2
CLEAN_PATIENCE_S = 3.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one request ended. `error` is a sentence for people, None when it succeeded."""

    request: Request
    view: JobView | None
    seconds: float
    error: str | None

    @property
    def result(self) -> JobResult | None:
        """What the job gave, if it succeeded."""
        return self.view.result if self.view is not None else None


class InterruptedRunError(DualfaceError):
    """The person (or the system) asked to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(ErrorCode.CANCELLED, "Stopped; nothing was left behind.")
        self.number = number


def run_jobs(settings: Settings, requests: Sequence[Request], display: Display) -> list[Outcome]:
    """Make all requests through one stack. Raises DualfaceError when the stack itself fails."""
    began = time.monotonic()
    with interruptible(), running_stack(settings) as stack:
        return run_on(stack, requests, display, began)


def run_on(
    stack: Stack, requests: Sequence[Request], display: Display, began: float
) -> list[Outcome]:
    """Make all requests on a stack that is there; `began`: when seconds count from, monotonic."""
    store = DirectoryStore(stack.settings.store_path)
    ledger = Ledger(stack.redis, stack.settings.retention_s, stack.settings.attempts)
    run = _Run(stack, ledger, store, {request.job: request for request in requests}, began)
    try:
        run.begin()
        return run.follow(display)
    finally:
        run.clean()


class _Run:
    """The requests of one run, from submission to removal."""

    def __init__(
        self,
        stack: Stack,
        ledger: Ledger,
        store: DirectoryStore,
        requests: dict[str, Request],
        began: float,
    ) -> None:
        self._stack = stack
        self._ledger = ledger
        self._store = store
        self._requests = requests
        self._began = began
        self._outcomes: dict[str, Outcome] = {}

    def begin(self) -> None:
        """Drop what a killed run of other requests left; submit or take up ours."""
        for job in [] if self._stack.joined else self._ledger.live():
            if job not in self._requests:
                self._ledger.fail(job, ErrorCode.CANCELLED, "Left by a run that was killed.")
        for job, request in self._requests.items():
            part_of(request.output).unlink(missing_ok=True)
            if not self._store.exists(request.spec.source):
                self._store.adopt(request.spec.source, request.input)
            self._ledger.submit(job, request.spec)

    def follow(self, display: Display) -> list[Outcome]:
        """Until every job has ended and every result is in place."""
        with display:
            while len(self._outcomes) < len(self._requests):
                self._stack.watch()
                for job, request in self._requests.items():
                    view = self._ledger.view(job)
                    if view is None or job in self._outcomes:
                        continue
                    display.show(request, view)
                    if view.state.ended:
                        self._outcomes[job] = self._end(request, view)
                time.sleep(POLL_S)
        return [self._outcomes[job] for job in self._requests]

    def clean(self) -> None:
        """Nothing of our jobs stays: neither records nor objects, whatever happened."""
        for job in self._requests:
            self._ledger.fail(job, ErrorCode.CANCELLED, "Cancelled by the person who ran it.")
        deadline = time.monotonic() + CLEAN_PATIENCE_S
        while set(self._ledger.ended()) & set(self._requests) and time.monotonic() < deadline:
            time.sleep(0.02)
        for job in self._requests:
            self._ledger.drop(job)
            self._store.delete(f"jobs/{job}")

    def _end(self, request: Request, view: JobView) -> Outcome:
        error: str | None = view.message or None
        if view.state is JobState.SUCCEEDED and view.result is not None:
            try:
                with self._store.local(view.result.key) as path:
                    place(path, request.output)
            except PermanentError as problem:
                error = problem.message
        return Outcome(request, view, time.monotonic() - self._began, error)


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP become InterruptedRunError, once; later ones are ignored while
    things are put away."""

    def stop(number: int, _: FrameType | None) -> None:
        for each in kinds:
            signal.signal(each, signal.SIG_IGN)
        raise InterruptedRunError(number)

    kinds = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(kind, stop) for kind in kinds]
    try:
        yield
    finally:
        for kind, handler in zip(kinds, before, strict=True):
            signal.signal(kind, handler)


def default_output(path: Path, folder: Path) -> Path:
    """`folder`/NAME-split.mp4."""
    return folder / f"{path.stem}-split.mp4"
