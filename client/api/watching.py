"""Following a job over connections that may break: what to ask, when to come again. Pure."""

from __future__ import annotations

from collections.abc import Iterator

import httpx

from client.api.checks import checked_field
from client.api.errors import ApiError, BusyError, elsewhere, error_of, unreachable
from client.api.flows import Flows, JobRef, path_of
from client.api.steps import Call
from client.api.stream import SILENCE_S, Reader, Told

CLOSE_S = 20.0
"""So close to its deadline a `wait` looks itself: a stream may be silent for 15 s."""
LOOK_S = 0.5
POLL_S = 5.0
"""Between two looks where the service lets nobody else watch."""


class Watch:
    """The state of one watcher. Call `call`, then `begun` or `broke`, `heard` for what comes, and
    `wait_s` before the next round, until it is `over`."""

    def __init__(self, flows: Flows, job: JobRef, after: str | None) -> None:
        self._flows = flows
        self._path = path_of(job, "/events")
        self._after = after and checked_field("The id of an event", after)
        self._reader = Reader()
        self._tried = 0
        self._error: ApiError | None = None
        self.over = False

    def call(self) -> Call:
        """The next request."""
        self._reader = Reader()
        self._error = None
        self._tried += 1
        headers = {"Accept": "text/event-stream"}
        if self._after is not None:
            headers["Last-Event-ID"] = self._after
        return Call("GET", self._path, headers=headers, read_s=SILENCE_S)

    def begun(self, response: httpx.Response) -> bool:
        """True when there is a stream to be read. Raises ApiError for what will not pass; an error
        that may has to be read to its end before."""
        self._flows.heard = True
        if response.status_code == httpx.codes.NO_CONTENT:
            self.over = True  # the job has ended, and all was told
            return False
        if response.has_redirect_location:
            raise elsewhere(response)
        if response.is_error:
            self._error = error_of(response)
            return False
        return True

    def heard(self, data: bytes) -> Iterator[Told | None]:
        """What the stream says; None for signs of life."""
        for told in self._reader.feed(data):
            self._tried = 0
            if told is not None:
                self._after = told.id or self._after
                self.over = told.ends
            yield told

    def broke(self, error: httpx.RequestError) -> None:
        """The connection did."""
        self._error = unreachable(_url(error, self._path), error)

    def wait_s(self) -> float:
        """Seconds until the next round. Raises ApiError when there is to be none."""
        # A stream that ends without a word was cut off by the service's restart, or an older one
        # had no room for it.
        error = self._error or BusyError("ended", "The service does not let this job be watched.")
        wait_s = self._flows.patience.wait_s(error, max(1, self._tried), heard=self._flows.heard)
        if wait_s is None:
            raise error
        return wait_s


def _url(error: httpx.RequestError, path: str) -> httpx.URL | str:
    try:
        return error.request.url
    except RuntimeError:  # httpx: none was made
        return path
