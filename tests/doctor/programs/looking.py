"""Looks with steps that go wrong: `python -m tests.doctor.programs.looking STEP...`, named by what
they do. With `--pid FILE` a step that hangs writes down its process id."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from shared.errors import DeviceLostError, EngineError
from shared.findings import Finding, Step, look, ok


def does(name: str, note: str) -> Iterator[Finding]:
    kind = name.partition("-")[0]
    if kind == "hangs":
        if note:
            Path(note).write_text(str(os.getpid()))
        while True:
            time.sleep(60)
    if kind == "crashes":
        print("something of a library", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)
    if kind == "exits":
        os._exit(3)
    if kind == "lacks":
        raise EngineError("it is not installed")
    if kind == "breaks":
        raise EngineError("it should have worked", able=True)
    if kind == "loses":
        raise DeviceLostError("the context is gone")
    if kind == "raises":
        raise RuntimeError("a driver's own words")
    if kind == "talks":
        print('{"finding": "of somebody else"}', flush=True)
        os.write(1, b"and past Python\n")
    yield ok(name, f"{name} is well")


def main(arguments: list[str]) -> int:
    note = ""
    if arguments[:1] == ["--pid"]:
        note, arguments = arguments[1], arguments[2:]
    cut = arguments.index("--behind") if "--behind" in arguments else len(arguments)
    steps = [Step(name, partial(does, name, note), f"mend {name}") for name in arguments[:cut]]
    return look(steps, arguments[cut:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
