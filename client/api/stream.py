"""Server-sent events, line by line: pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from pydantic import ValidationError

from client.api.errors import unreadable
from shared.rest import JobEvent

SILENCE_S = 50.0
"""Longest silence of a stream: the service says something every 15 s."""
LINE_BYTES_MAX = 1 << 20


class Told(NamedTuple):
    """One event of a job. `kind`: `state`, `progress` or `warning`; `id` goes into `after`."""

    id: str
    kind: str
    event: JobEvent

    @property
    def ends(self) -> bool:
        """True for the last one: the job has ended."""
        return self.event.state is not None and self.event.state.ended


class Reader:
    """Makes events of bytes as they come. Lines end with LF or CRLF alone, whatever else Python
    takes for the end of a line."""

    def __init__(self) -> None:
        self._rest = b""
        self._fields: dict[str, str] = {}

    def feed(self, data: bytes) -> Iterator[Told | None]:
        """What `data` completes; None for a sign of life."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LINE_BYTES_MAX:
            raise unreadable("an event without an end")
        for line in lines:
            text = line.removesuffix(b"\r").decode(errors="replace")
            if text.startswith(":"):
                yield None
            elif text:
                name, _, value = text.partition(":")
                value = value.removeprefix(" ")
                before = self._fields.get(name)
                # Data may come as several lines.
                many = name == "data" and before is not None
                self._fields[name] = f"{before}\n{value}" if many else value
            elif self._fields:
                fields, self._fields = self._fields, {}
                if "data" in fields:
                    yield _told(fields)


def _told(fields: dict[str, str]) -> Told:
    try:
        event = JobEvent.model_validate_json(fields["data"], extra="ignore")
    except ValidationError as error:
        raise unreadable("an event") from error
    return Told(fields.get("id", ""), fields.get("event", "message"), event)
