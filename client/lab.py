"""Asking a module of `services.infer.lab`, by its name: the client imports no service."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

from shared.errors import DualfaceError, ErrorCode, PermanentError
from shared.jobs import Model
from shared.models.lab import REFUSED, Refusal
from shared.processes import die_with_parent

Answer = TypeVar("Answer", bound=Model)


def ask(
    module: str,
    request: Model,
    answer: type[Answer],
    patience_s: float | None,
    on_line: Callable[[bytes], bool] = lambda _: False,
) -> Answer:
    """What the module answers, run in a process of its own, of which nothing stays.

    `on_line` gets each line that it writes to standard error meanwhile, in a thread, and tells
    whether it was meant for it. Blocks for `patience_s` at most; None: for as long as it takes.
    Raises PermanentError with what it refuses, DualfaceError STAGE_FAILED when it ends without an
    answer, or not in time.
    """
    with subprocess.Popen(
        [sys.executable, "-P", "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # a session of its own: Ctrl-C at the terminal reaches us alone
        start_new_session=True,
        preexec_fn=partial(die_with_parent, signal.SIGKILL, os.getpid()),
    ) as process:
        heard = _Heard(process, on_line)
        try:
            heard.say(request.model_dump_json().encode())
            process.wait(patience_s)
        except subprocess.TimeoutExpired as error:
            raise DualfaceError(
                ErrorCode.STAGE_FAILED, f"it did not end within {patience_s:.0f} s"
            ) from error
        finally:
            if process.poll() is None:
                process.kill()
            heard.end()
    if process.returncode == REFUSED:
        refusal = Refusal.model_validate_json(heard.answer)
        raise PermanentError(refusal.code, refusal.message)
    if process.returncode != 0:
        raise DualfaceError(ErrorCode.STAGE_FAILED, _last_words(process.returncode, heard.last))
    return answer.model_validate_json(heard.answer)


class _Heard:
    """Reads both of a process's outputs, each in a thread: a full pipe would stop it."""

    def __init__(self, process: subprocess.Popen[bytes], on_line: Callable[[bytes], bool]) -> None:
        self.answer = b""
        self.last = b""
        self._process = process
        self._on_line = on_line
        self._threads = [
            threading.Thread(target=read, daemon=True) for read in (self._read, self._follow)
        ]
        for thread in self._threads:
            thread.start()

    def say(self, text: bytes) -> None:
        """Write to its input, to the end."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError), self._process.stdin as pipe:
            pipe.write(text)

    def end(self) -> None:
        """Until both outputs have ended."""
        for thread in self._threads:
            thread.join()

    def _read(self) -> None:
        assert self._process.stdout is not None
        self.answer = self._process.stdout.read()

    def _follow(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if not self._on_line(line):
                self.last = line.strip() or self.last


def _last_words(code: int, last: bytes) -> str:
    how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    words = last.decode(errors="replace")[:200]
    return f"its process {how}" + (f" ({words})" if words else "")
