"""What a look at the machine found; and how a process that looks tells one that waits for it.

Looking at drivers can crash or hang, so it is done by processes of their own: `python -m
services.STAGE.probe` says on standard output, a line of JSON each, which step it begins and what it
found. Who started it knows then which step a process died of, and goes on behind it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TextIO, TypeAlias

from pydantic import Field, model_validator

from shared.errors import DeviceLostError, DualfaceError, EngineError
from shared.jobs import Model

Fact: TypeAlias = str | int | float | bool | list[str] | None


class State(StrEnum):
    """How it is."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"
    NOT_HERE = "not here"


class Finding(Model):
    """One thing that was looked at. `fix` is there for all that is not ok."""

    check: str = Field(description="stable name, for programs")
    state: State
    text: str = Field(description="for people")
    fix: str = Field(default="", description="what to do")
    device: str = Field(default="", description="UUID of the GPU or slice it is about")
    seconds: float = Field(default=0.0, ge=0)
    facts: dict[str, Fact] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _can_be_mended(self) -> Finding:
        if self.state is not State.OK and not self.fix:
            raise ValueError(f"{self.check}: nobody knows what to do about it")
        return self


def ok(check: str, text: str, **facts: Fact) -> Finding:
    """All is well."""
    return Finding(check=check, state=State.OK, text=text, facts=facts)


def warning(check: str, text: str, fix: str, **facts: Fact) -> Finding:
    """Works, but not as it could."""
    return Finding(check=check, state=State.WARNING, text=text, fix=fix, facts=facts)


def problem(check: str, text: str, fix: str, **facts: Fact) -> Finding:
    """Something will not work."""
    return Finding(check=check, state=State.PROBLEM, text=text, fix=fix, facts=facts)


def not_here(check: str, text: str, fix: str, **facts: Fact) -> Finding:
    """Something that can be done without is not there."""
    return Finding(check=check, state=State.NOT_HERE, text=text, fix=fix, facts=facts)


@dataclass(frozen=True, slots=True)
class Step:
    """One look. `fix`: what helps when it raises, crashes or hangs."""

    name: str
    look: Callable[[], Iterable[Finding]]
    fix: str


class Line(Model):
    """What a process that looks says: `begins` a step (`fix` is of the step), or a `finding`."""

    begins: str = ""
    fix: str = ""
    finding: Finding | None = None


def look(steps: Sequence[Step], arguments: Sequence[str]) -> int:
    """The `main` of a process that looks: 0 when all steps are done, whatever they found.

    `arguments`: `--behind STEP` leaves out all up to that one, which ended a process before. What
    libraries print goes to standard error.
    """
    told = _own_output()
    behind = arguments[1] if arguments[:1] == ["--behind"] else ""
    names = [step.name for step in steps]
    for step in steps[names.index(behind) + 1 if behind else 0 :]:
        _say(told, Line(begins=step.name, fix=step.fix))
        began = time.monotonic()
        for finding in _found(step):
            seconds = round(time.monotonic() - began, 3)
            _say(told, Line(finding=finding.model_copy(update={"seconds": seconds})))
    return 0


def _found(step: Step) -> list[Finding]:
    try:
        return list(step.look())
    except DeviceLostError as error:
        return [problem(step.name, error.message, step.fix)]
    except EngineError as error:
        kind = problem if error.able else not_here
        return [kind(step.name, error.message, step.fix)]
    except DualfaceError as error:
        return [problem(step.name, error.message, step.fix)]
    except Exception as error:  # noqa: BLE001 - whatever a driver's package may raise is a finding
        return [problem(step.name, f"{type(error).__name__}: {error}", step.fix)]


def _own_output() -> TextIO:
    """Standard output, from which libraries are kept away from now on."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(kept, "w", encoding="utf-8")


def _say(told: TextIO, line: Line) -> None:
    told.write(line.model_dump_json() + "\n")
    told.flush()
