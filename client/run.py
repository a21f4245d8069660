"""`dualface run`: start the stack, submit, show progress, put results in place, leave nothing."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Protocol
from urllib.parse import quote, unquote_to_bytes

from client.placing import part_of, place, split_name
from client.requests import Request
from client.stack import Stack, running_stack
from shared.errors import (
    DualfaceError,
    ErrorCode,
    PermanentError,
    StoreAwayError,
    StoreRefusedError,
    TemporaryError,
)
from shared.jobs import JobState
from shared.ledger import JobResult, JobView, Ledger
from shared.names import JOBS, job_folder
from shared.redisdb import RedisError
from shared.settings import Settings
from shared.storage import open_store
from shared.storage.base import ObjectStore
from shared.workers import withdraw_gone


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
PARTS = "df:parts"
"""Set of files being put in place, written down before they are there: a run that is killed then
leaves one beside an output that the next run need not know."""
CLEAN_PATIENCE_S = 3.0
ENDING_PATIENCE_S = 30.0
"""For the coordinator to clean up after an earlier try of the same job."""
REDIS_PATIENCE_S = 60.0


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
    with interruptible() as stopped, running_stack(settings) as stack:
        try:
            return run_on(stack, requests, display, began, stopped)
        finally:
            # Once more when nobody can be just about to store something.
            stack.halt()
            _remove_objects(stack, requests)


def run_on(
    stack: Stack,
    requests: Sequence[Request],
    display: Display,
    began: float,
    stopped: Sequence[int] = (),
) -> list[Outcome]:
    """Make all requests on a stack that is there; `began`: when seconds count from, monotonic.

    Raises InterruptedRunError once `stopped` (of `interruptible`) has a number.
    """
    store = open_store(stack.settings, on_wait=stack.watch)
    ledger = Ledger(stack.redis, stack.settings.retention_s, stack.settings.attempts)
    by_job = {request.job: request for request in requests}
    run = _Run(stack, ledger, store, by_job, began, stopped)
    try:
        run.patiently(run.begin)
        return run.follow(display)
    finally:
        run.clean()


def _remove_objects(stack: Stack, requests: Sequence[Request]) -> None:
    store = open_store(stack.settings, patience_s=CLEAN_PATIENCE_S)
    try:
        for request in requests:
            store.delete(job_folder(request.job))
    except (StoreAwayError, StoreRefusedError) as error:
        raise DualfaceError(
            error.code,
            f"{error.message} So objects of this run are left there; the next run or `dualface up` "
            "with this state folder removes them.",
        ) from error


class _Run:
    """The requests of one run, from submission to removal."""

    def __init__(
        self,
        stack: Stack,
        ledger: Ledger,
        store: ObjectStore,
        requests: dict[str, Request],
        began: float,
        stopped: Sequence[int],
    ) -> None:
        self._stack = stack
        self._ledger = ledger
        self._store = store
        self._requests = requests
        self._left = set[str]()
        self._began = began
        self._stopped = stopped
        self._outcomes: dict[str, Outcome] = {}

    def patiently(self, step: Callable[[], None]) -> None:
        """`step`, which may be repeated, until it gets through. Redis may go away meanwhile: the
        stack restarts its own; one of others must be back within REDIS_PATIENCE_S."""
        began = time.monotonic()
        while True:
            if self._stopped:
                raise InterruptedRunError(self._stopped[0])
            self._stack.watch()
            try:
                return step()
            except (RedisError, TemporaryError) as error:
                if time.monotonic() - began > REDIS_PATIENCE_S:
                    if isinstance(error, StoreAwayError):
                        raise
                    raise DualfaceError(
                        ErrorCode.STACK_FAILED,
                        f"Redis has not answered for {REDIS_PATIENCE_S:.0f} s ({error}).",
                    ) from error
            time.sleep(POLL_S)

    def begin(self) -> None:
        """Drop what a killed run of other requests left; submit or take up ours."""
        if not self._stack.joined:
            self._drop_leftovers()
        deadline = time.monotonic() + ENDING_PATIENCE_S
        for job, request in self._requests.items():
            part_of(request.output).unlink(missing_ok=True)
            while self._ledger.is_ending(job) and time.monotonic() < deadline:
                self._stack.watch()
                time.sleep(0.05)
            if not self._store.exists(request.spec.source):
                self._store.adopt(request.spec.source, request.input)
            self._ledger.submit(job, request.spec)

    def _drop_leftovers(self) -> None:
        if self._stack.own_server:
            # What they had in hands goes on, or away, at once: their signs of life outlive them.
            withdraw_gone(self._stack.redis)
        for job in self._ledger.live():
            if job not in self._requests:
                self._left.add(job)
                self._ledger.fail(job, ErrorCode.CANCELLED, "Left by a run that was killed.")
        for part in self._stack.redis.smembers(PARTS):
            Path(os.fsdecode(unquote_to_bytes(str(part)))).unlink(missing_ok=True)
        self._stack.redis.delete(PARTS)
        if self._stack.own_server and not self._stack.settings.store:
            # Objects whose records went with an append-only file that somebody removed. Not in a
            # bucket, where others may have theirs.
            for job in {key.split("/")[1] for key in self._store.keys(JOBS)}:
                if job not in self._requests and self._ledger.state(job) is None:
                    self._store.delete(job_folder(job))

    def follow(self, display: Display) -> list[Outcome]:
        """Until every job has ended and every result is in place."""
        with display:
            while len(self._outcomes) < len(self._requests):
                self.patiently(lambda: self._look(display))
                time.sleep(POLL_S)
        return [self._outcomes[job] for job in self._requests]

    def _look(self, display: Display) -> None:
        for job, request in self._requests.items():
            view = self._ledger.view(job) if job not in self._outcomes else None
            if view is None:
                continue
            display.show(request, view)
            if view.state.ended:
                self._outcomes[job] = self._end(request, view)

    def clean(self) -> None:
        """Nothing of our jobs stays: neither records nor objects, whatever happened. Records stay
        where Redis can't be written; the next run with this Redis drops them."""
        with suppress(RedisError, TemporaryError):
            for job in self._requests:
                self._ledger.fail(job, ErrorCode.CANCELLED, "Cancelled by the person who ran it.")
            deadline = time.monotonic() + CLEAN_PATIENCE_S
            ours = self._left | set(self._requests)
            while set(self._ledger.ended()) & ours and time.monotonic() < deadline:
                time.sleep(0.02)
        store = open_store(self._stack.settings, patience_s=CLEAN_PATIENCE_S)
        with suppress(StoreAwayError, StoreRefusedError):
            for job in self._requests:
                # As long as there are objects, a record says so: the next coordinator removes them.
                store.delete(job_folder(job))
                with suppress(RedisError, TemporaryError):
                    self._ledger.drop(job)

    def _end(self, request: Request, view: JobView) -> Outcome:
        error: str | None = view.message or None
        if view.state is JobState.SUCCEEDED and view.result is not None:
            try:
                part = quote(os.fsencode(part_of(request.output).absolute()))
                self._stack.redis.sadd(PARTS, part)
                with self._store.local(view.result.key) as path:
                    place(path, request.output)
                self._stack.redis.srem(PARTS, part)
            except PermanentError as problem:
                error = problem.message
        return Outcome(request, view, time.monotonic() - self._began, error)


@contextmanager
def interruptible() -> Iterator[Sequence[int]]:
    """SIGINT, SIGTERM and SIGHUP become InterruptedRunError, once; later ones are ignored while
    things are put away, and to the end of the process. May be nested.

    Yields a list that then has the signal's number: Python drops an exception that a handler raises
    within a destructor or a fork hook, so whoever goes on for long looks there now and then.
    """

    def stop(number: int, _: FrameType | None) -> None:
        stopped.append(number)
        for each in kinds:
            signal.signal(each, signal.SIG_IGN)
        raise InterruptedRunError(number)

    stopped: list[int] = []
    kinds = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(kind, stop) for kind in kinds]
    try:
        yield stopped
    except InterruptedRunError:
        raise
    except Exception as error:
        # Libraries in C take an exception out of a callback for a failure of their own.
        if stopped:
            raise InterruptedRunError(stopped[0]) from error
        raise
    finally:
        for kind, handler in zip(kinds, before, strict=True):
            signal.signal(kind, signal.SIG_IGN if stopped else handler)


def default_output(path: Path, folder: Path, taken: Container[str] = ()) -> Path:
    """`folder`/NAME-split.mp4, or another name where others of `folder` are `taken`."""
    return folder / split_name(path.stem, taken=taken)
