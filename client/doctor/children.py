"""Runs what looks at drivers in processes of its own: a crash or a hang is a finding, not the end.

The protocol is in `shared.findings`.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from pydantic import ValidationError

from shared.findings import Finding, Line, problem
from shared.processes import die_with_parent

STEP_LIMIT_S = 30.0
"""Longest silence. Loading a driver that nobody keeps loaded takes seconds, as does compiling."""
START_LIMIT_S = 60.0
"""Until the first word, which is said once all is imported: TensorRT's libraries have gigabytes."""
WORDS_KEPT = 400
"""Characters of what a process said last that are shown when it died."""


@dataclass(frozen=True)
class Look:
    """A process that looks. `about`: what its findings begin with, where it did not name a step."""

    about: str
    module: str
    environment: Mapping[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    device: str = ""
    step_limit_s: float = STEP_LIMIT_S
    start_limit_s: float = START_LIMIT_S


def found_by(look: Look) -> list[Finding]:
    """What the process found, with what it died of. It is started again behind a step that ends it.
    Blocks until it is done, or has said nothing for too long and was killed."""
    found: list[Finding] = []
    behind: str | None = ""
    while behind is not None:
        run = _Run(look, behind)
        found += run.follow()
        # The same step once more would end it again; before the first there is nothing to skip.
        behind = run.step if run.died and run.step and run.step != behind else None
    return [each.model_copy(update={"device": look.device}) for each in found]


class _Run:
    """One process."""

    def __init__(self, look: Look, behind: str) -> None:
        self.step = ""
        self.died = False
        self._fix = "see what it says above; is the installation whole? `make setup` renews it"
        self._look = look
        arguments = ["--behind", behind] if behind else []
        self._process = subprocess.Popen(
            [sys.executable, "-m", look.module, *look.arguments, *arguments],
            env={**os.environ, **look.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            # Ctrl-C at the terminal reaches us alone; and what it starts is ended with it.
            start_new_session=True,
            # Before its first line: importing a driver's libraries takes seconds, or hangs.
            preexec_fn=partial(die_with_parent, signal.SIGKILL, os.getpid()),
        )
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._words = ""

    def follow(self) -> list[Finding]:
        """All it found."""
        readers = [
            threading.Thread(target=target, daemon=True)
            for target in (self._read_lines, self._read_words)
        ]
        for reader in readers:
            reader.start()
        try:
            return self._found(readers)
        finally:
            self._kill()
            for reader in readers:
                reader.join(timeout=5)
            for stream in (self._process.stdout, self._process.stderr):
                if stream is not None and not any(each.is_alive() for each in readers):
                    stream.close()

    def _found(self, readers: Sequence[threading.Thread]) -> list[Finding]:
        found: list[Finding] = []
        limit_s, began = self._look.start_limit_s, time.monotonic()
        while True:
            try:
                text = self._lines.get(timeout=limit_s)
            except queue.Empty:
                self.died = True
                return [*found, self._end(f"did not end within {limit_s:g} s", began)]
            if text is None:
                break
            with contextlib.suppress(ValidationError):  # some library's own words
                line = Line.model_validate_json(text)
                if line.finding is not None:
                    found.append(line.finding)
                if line.begins:
                    self.step, self._fix, began = line.begins, line.fix, time.monotonic()
                    limit_s = self._look.step_limit_s
        code = self._process.wait()
        if code == 0:
            return found
        self.died = True
        for reader in readers:
            reader.join(timeout=5)
        return [*found, self._end(self._how(code), began)]

    def _how(self, code: int) -> str:
        how = f"ended its process with code {code}"
        if code < 0:
            how = f"crashed its process ({signal.Signals(-code).name})"
        said = self._words.strip()[-WORDS_KEPT:]
        return f"{how}: {said.splitlines()[-1]}" if said else how

    def _end(self, how: str, began: float) -> Finding:
        name = self.step or self._look.about
        found = problem(name, how, self._fix)
        return found.model_copy(update={"seconds": round(time.monotonic() - began, 3)})

    def _read_lines(self) -> None:
        if self._process.stdout is not None:
            for line in self._process.stdout:
                self._lines.put(line)
        self._lines.put(None)

    def _read_words(self) -> None:
        if self._process.stderr is not None:
            for line in self._process.stderr:
                self._words = (self._words + line)[-4 * WORDS_KEPT :]

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
