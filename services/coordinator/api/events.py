"""What happens to a job, as server-sent events: at once, in order, resumable."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated

from fastapi import APIRouter, Header, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from services.coordinator.api.access import Reader
from services.coordinator.api.jobs import JobId
from services.coordinator.api.problems import EVERYWHERE, Responses, responses
from services.coordinator.api.service import Served, Service
from shared.errors import ErrorCode, PermanentError, TemporaryError
from shared.ledger import Event
from shared.redisdb import RedisError
from shared.rest import JobEvent, event_of

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], responses=responses(*EVERYWHERE))

KEEP_ALIVE_S = 15.0
"""Between two comments: shorter than what proxies take for a dead connection."""

LONGEST_S = 3600.0
"""Then the stream ends and the client comes again, with a key that may have been revoked."""

LastEventId = Annotated[
    str,
    Header(
        alias="Last-Event-ID",
        pattern=r"^(\d{1,19}-\d{1,19})?$",
        description="go on after this event",
    ),
]

_EVENTS: Responses = {
    200: {
        "description": "Events `state`, `progress`, `warning`; the data of each is a JobEvent. "
        "The stream ends with the job.",
        "content": {"text/event-stream": {}},
    },
    204: {"description": "Nothing comes after that event: the job has ended."},
}


@router.get(
    "/{job_id}/events",
    response_class=Response,
    responses=_EVENTS | responses(404),
)
async def events(
    service: Served, key: Reader, job_id: JobId, last_event_id: LastEventId = ""
) -> Response:
    """Watch a job."""
    view = await run_in_threadpool(service.view, job_id, key)
    try:
        waiting = await run_in_threadpool(service.ledger.events, job_id, last_event_id or None)
    except ValueError as error:
        raise PermanentError(ErrorCode.BAD_OPTION, f"Last-Event-ID: {error}.") from error
    if view.state.ended and not waiting:
        return Response(status_code=204)  # tells an EventSource not to come again
    return _Watching(service, job_id, last_event_id or None)


class _Watching(StreamingResponse):
    """A stream that takes its room before it says that there is one, and gives it back however it
    ends: also where nobody read a word of it."""

    def __init__(self, service: Service, job: str, after: str | None) -> None:
        self._service = service
        self._job = job
        self._after = after
        super().__init__(
            iter(()),
            media_type="text/event-stream",
            # A proxy is not to collect them first.
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI. Raises TemporaryError BUSY, before anything was answered, when too many watch."""
        with self._service.bell.watching(self._job) as rung:
            self.body_iterator = _stream(self._service, self._job, self._after, rung)
            await super().__call__(scope, receive, send)


async def _stream(
    service: Service, job: str, after: str | None, rung: asyncio.Event
) -> AsyncIterator[bytes]:
    """Ends when the job has, after LONGEST_S, or with Redis; clients come again by themselves."""
    loop = asyncio.get_running_loop()
    until = loop.time() + LONGEST_S
    with suppress(RedisError, TemporaryError):
        while loop.time() < until:
            rung.clear()
            # The state first: what comes after it is read then is not lost.
            live = await run_in_threadpool(service.ledger.is_live, job)
            found = await run_in_threadpool(service.ledger.events, job, after)
            for event in found:
                after = event.id
                yield _format(event)
            if found:
                continue
            if not live:
                return
            try:
                await asyncio.wait_for(rung.wait(), KEEP_ALIVE_S)
            except TimeoutError:
                yield b": still here\n\n"


def _format(event: Event) -> bytes:
    data: JobEvent = event_of(event)
    return format_sse_event(
        event=event.kind, data_str=data.model_dump_json(exclude_none=True), id=event.id
    )
