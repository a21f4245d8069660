"""Child processes of the embedded stack: start, watch, restart, stop; nothing outlives the parent.

Python processes come from a fork server (`multiprocessing`) that has imported everything once: six
interpreters that each import Celery, pydantic, NumPy and FFmpeg cost 10 CPU seconds at every start,
six forks of a warm one cost none, and share its memory. See docs/decisions/002-embedded-stack.md.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import forkserver
from pathlib import Path
from typing import Protocol

from client.warm import OURS
from shared.errors import DualfaceError, ErrorCode
from shared.processes import die_with_parent
from shared.settings import Settings

RESTARTS = 5
"""Within RESTART_WINDOW_S; what dies more often has a cause that restarting won't mend."""
RESTART_WINDOW_S = 60.0
USELESS = 2
"""Exit code of a process that says why it can't run; it is not restarted."""


class Handle(Protocol):
    """One running process."""

    @property
    def pid(self) -> int | None:
        """Its id."""

    def exit_code(self) -> int | None:
        """None while it runs."""

    def wait(self, seconds: float) -> None:
        """Until it ends, at most `seconds`."""


class Maker(Protocol):
    """Starts a process whose output goes to a log file."""

    def __call__(self, log: Path) -> Handle: ...


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold back the signals of OURS. In the middle of a start they would leave a server without
    its configuration, and an exception out of a fork hook is dropped by Python."""
    held: list[int] = []
    before = [signal.signal(number, lambda caught, _: held.append(caught)) for number in OURS]
    try:
        yield
    finally:
        for number, handler in zip(OURS, before, strict=True):
            signal.signal(number, handler)
        for caught in held[:1]:
            signal.raise_signal(caught)


@dataclass
class Child:
    """One supervised process."""

    name: str
    log: Path
    make: Maker
    handle: Handle | None = None
    starts: list[float] = field(default_factory=list)

    def start(self) -> None:
        """Start the process. An interruption waits until it is known, and so can be ended."""
        self.starts.append(time.monotonic())
        with _uninterrupted():
            self.handle = self.make(self.log)

    @property
    def running(self) -> bool:
        """True while the process lives."""
        return self.handle is not None and self.handle.exit_code() is None

    def watch(self) -> None:
        """Restart the process if it died.

        Raises DualfaceError when it dies again and again, or says that it can't run.
        """
        if self.running:
            return
        now = time.monotonic()
        self.starts = [at for at in self.starts if now - at < RESTART_WINDOW_S]
        useless = self.handle is not None and self.handle.exit_code() == USELESS
        if useless or len(self.starts) > RESTARTS:
            raise DualfaceError(ErrorCode.STACK_FAILED, self._last_words(useless))
        self.start()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process, if it lives."""
        if self.running and self.handle is not None and self.handle.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.handle.pid, number)

    def kill(self) -> None:
        """End the process and everything in its session, at once."""
        if self.handle is None or self.handle.pid is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.handle.pid, signal.SIGKILL)
        if self.running:  # it has only just begun, and no session of its own yet
            self.signal(signal.SIGKILL)
        self.handle.wait(10)

    def _last_words(self, useless: bool) -> str:
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        lines = text.strip().splitlines()
        if useless and lines:
            return lines[-1]
        return f"The {self.name} process ends again and again; see {self.log}."


def stop_all(children: Sequence[Child], patience_s: float) -> None:
    """SIGTERM to all, then SIGKILL to those (and their children) that stay beyond `patience_s`."""
    for child in children:
        child.signal(signal.SIGTERM)
    deadline = time.monotonic() + patience_s
    for child in children:
        if child.handle is not None:
            child.handle.wait(max(0.0, deadline - time.monotonic()))
        child.kill()


@dataclass(frozen=True)
class Program:
    """Makes processes of an executable; `stdin` is written to it."""

    command: Sequence[str]
    stdin: str

    def __call__(self, log: Path) -> Handle:
        with log.open("ab") as output:
            process = subprocess.Popen(
                self.command,
                env={},
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                # A session of its own: Ctrl-C at the terminal reaches us alone.
                start_new_session=True,
                preexec_fn=partial(die_with_parent, signal.SIGTERM, os.getpid()),
            )
        if process.stdin is not None:
            with process.stdin as pipe:
                pipe.write(self.stdin.encode())
        return _ProgramHandle(process)


@dataclass(frozen=True)
class _ProgramHandle:
    process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int | None:
        return self.process.pid

    def exit_code(self) -> int | None:
        return self.process.poll()

    def wait(self, seconds: float) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=seconds)


@dataclass(frozen=True)
class Module:
    """Makes processes of a Python module's `main(settings) -> exit code`, by the fork server.

    `last_signal` is what the process gets when the fork server (so: we) died.
    """

    name: str
    settings: Settings
    last_signal: signal.Signals = signal.SIGKILL

    def __call__(self, log: Path) -> Handle:
        context = multiprocessing.get_context("forkserver")
        process = context.Process(
            target=_run_module, args=(self.name, self.settings, str(log), int(self.last_signal))
        )
        try:
            process.start()
        except (EOFError, ConnectionError) as error:
            raise DualfaceError(
                ErrorCode.STACK_FAILED,
                f"The worker processes can't be started ({error!r}); is the installation whole? "
                "`make setup` renews it.",
            ) from error
        return _ModuleHandle(process)


def _run_module(name: str, settings: Settings, log: str, last_signal: int) -> None:
    os.setsid()
    die_with_parent(signal.Signals(last_signal))
    for each in OURS:
        # Ignoring drops what came before the session was our own; it was meant for the command.
        signal.signal(each, signal.SIG_IGN)
        signal.signal(each, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, OURS)
    _let_go_of_the_fork_server()
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for standard in (1, 2):
        os.dup2(fd, standard)
    os.close(fd)
    sys.exit(importlib.import_module(name).main(settings))


def _let_go_of_the_fork_server() -> None:
    """Close this process's end of the pipe that keeps the fork server alive.

    It ends when every holder of that pipe is gone, and hands the pipe to each of its children: a
    killed command would leave the fork server, and so all its children, running for ever.
    """
    server = vars(forkserver._forkserver)
    fd = server.get("_forkserver_alive_fd")
    if isinstance(fd, int):
        os.close(fd)
        server["_forkserver_alive_fd"] = None


@dataclass(frozen=True)
class _ModuleHandle:
    process: multiprocessing.context.ForkServerProcess

    @property
    def pid(self) -> int | None:
        return self.process.pid

    def exit_code(self) -> int | None:
        return self.process.exitcode

    def wait(self, seconds: float) -> None:
        self.process.join(seconds)
