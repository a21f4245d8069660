"""Work in processes of their own: a broken CUDA context ends with the process that has it."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any

START_PATIENCE_S = 120.0
"""A CUDA context takes up to some seconds, many at a time more."""

END_PATIENCE_S = 30.0
"""Until the fork server has told how a process ended."""


class FailedError(Exception):
    """A process could not do its work; says why."""


def alone(work: Callable[..., Any], *arguments: Any, patience_s: float) -> Any:
    """What `work(channel, *arguments)` returns, called in a new process; `channel` may be ignored.
    Raises FailedError."""
    with Crew(work, 1, *arguments) as crew:
        return crew.answer(0, patience_s)


class Crew:
    """Processes that do the same work, `work(channel, *arguments)`: for each a channel to talk
    through. What is left at the end is killed."""

    def __init__(self, work: Callable[..., Any], count: int, *arguments: Any) -> None:
        """`work` is a function of a module. Processes come from the fork server, as the stack's do:
        it has imported what they need and has never touched CUDA."""
        self._context = multiprocessing.get_context("forkserver")
        self._work, self._count, self._arguments = work, count, arguments
        self._members: list[tuple[BaseProcess, Connection]] = []

    def __enter__(self) -> Crew:
        for _ in range(self._count):
            ours, theirs = self._context.Pipe()
            process = self._context.Process(
                target=_member, args=(theirs, self._work, self._arguments), daemon=True
            )
            process.start()
            theirs.close()
            self._members.append((process, ours))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process, ours in self._members:
            ours.close()
            process.join(0.2)
            if process.is_alive():
                process.kill()
            process.join()

    def tell(self, index: int, word: Any) -> None:
        """Send `word` to a member's channel. Raises FailedError when it is gone."""
        try:
            self._members[index][1].send(word)
        except OSError as error:
            raise self._gone(index) from error

    def hear(self, index: int, patience_s: float) -> Any:
        """What a member sends next, or returned. Raises FailedError when it failed or is late."""
        process, ours = self._members[index]
        if not ours.poll(patience_s):
            raise FailedError(f"{self._work.__name__} did not answer within {patience_s:.0f} s")
        try:
            kind, value = ours.recv()
        except (EOFError, OSError) as error:
            raise self._gone(index) from error
        if kind == "failed":
            process.join(1.0)
            raise FailedError(value)
        return value

    answer = hear

    def ready(self) -> None:
        """Wait until each member has sent something."""
        deadline = time.monotonic() + START_PATIENCE_S
        for index in range(self._count):
            self.hear(index, max(0.1, deadline - time.monotonic()))

    def _gone(self, index: int) -> FailedError:
        process = self._members[index][0]
        process.join(END_PATIENCE_S)
        return FailedError(f"{self._work.__name__} ended with code {process.exitcode}")


class Channel:
    """A member's end."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def say(self, value: Any) -> None:
        """To `Crew.hear`."""
        self._connection.send(("said", value))

    def wait(self) -> Any:
        """For `Crew.tell`. Raises EOFError when nobody will say anything any more."""
        return self._connection.recv()


def _member(connection: Connection, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        connection.send(("done", work(Channel(connection), *arguments)))
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        return  # nobody listens any more
    except Exception as error:  # noqa: BLE001 - whatever a driver's package raises is the answer
        text = str(error).strip().splitlines() or [""]
        connection.send(("failed", f"{type(error).__name__}: {text[0]}"))
