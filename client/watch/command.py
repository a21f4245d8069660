"""`dualface watch`."""

from __future__ import annotations

import os
from datetime import datetime

from client.api import AsyncClient
from client.remote import reported
from client.run import InterruptedRunError
from client.showing import Out, plain
from client.stopping import stoppable
from client.watch.record import Entry, State, open_record
from client.watch.watcher import Watcher, Wishes
from shared.errors import ErrorCode, PermanentError
from shared.jobs import read_spec


def watch_command(wishes: Wishes, *, as_json: bool) -> int:
    """Until it is asked to stop, which is its good end: 0. 2 for a key that may not, 3 when no
    service answers at the start; later it waits for one."""
    out = Out(as_json=as_json)
    read_spec({"source": "-", **wishes.options})  # before every file is sent and then refused
    _check_folders(wishes)

    async def work() -> int:
        async with AsyncClient() as client:
            await client.session()
            with open_record(wishes.folder) as record:
                out.note(f"Watching {wishes.folder}; results go to {wishes.out}.")
                tell = Telling(out)
                await Watcher(client, record, wishes, tell).run()
        return 0

    try:
        return reported(out, lambda: stoppable(work()))
    except InterruptedRunError:
        out.note("Stopped; the next `dualface watch` of the folder goes on.")
        return 0


class Telling:
    """Prints what a watcher tells; a service that is away once, not at every try."""

    def __init__(self, out: Out) -> None:
        self._out = out
        self._said: dict[str, str] = {}

    def __call__(self, event: str, entry: Entry, text: str) -> None:
        if event == "waiting" and self._said.get(entry.name) == text:
            return
        self._said[entry.name] = text
        if entry.state.ended:
            del self._said[entry.name]
        facts = {
            "event": event,
            "file": os.fsencode(entry.name).decode(errors="replace"),
            "key": entry.key,
            "job": entry.job or None,
            "output": entry.output if entry.state is State.DONE else None,
            "code": entry.code or None,
            "message": text,
        }
        self._out.line({name: value for name, value in facts.items() if value is not None})
        line = f"{datetime.now().strftime('%H:%M:%S')} {plain(entry.name)}: {plain(text)}"
        if event in ("failed", "waiting"):
            self._out.errors.print(line, style="red" if event == "failed" else "yellow")
        else:
            self._out.say(line)


def _check_folders(wishes: Wishes) -> None:
    """Raises PermanentError."""
    if not wishes.folder.is_dir():
        raise PermanentError(ErrorCode.SOURCE_MISSING, f"There is no folder {wishes.folder}.")
    try:
        wishes.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PermanentError(
            ErrorCode.OUTPUT_UNWRITABLE,
            f"The output folder {wishes.out} can't be made ({error.strerror}).",
        ) from error
    if wishes.out.samefile(wishes.folder):
        raise PermanentError(
            ErrorCode.BAD_OPTION,
            "Results would be taken for new videos; --out is to be another folder.",
        )
