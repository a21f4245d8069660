"""The client that blocks."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import TypeVar, Unpack

import httpx

from client.api.address import Address, address_for, is_loopback
from client.api.bodies import OnProgress, Stamp, StoppedError
from client.api.checks import usable_environment
from client.api.errors import ApiError, BusyError
from client.api.flows import Flows, JobOptions, JobRef, OnBegin, name_of, path_of
from client.api.patience import Patience
from client.api.steps import CONNECT_S, WRITE_S, Call, Fetch, Flow, Pause, Step, Together, Work
from client.api.stream import Told
from client.api.watching import CLOSE_S, LOOK_S, POLL_S, Watch
from shared.jobs import JobState
from shared.rest import Job, Session, Stored, System, Thumbnail

T = TypeVar("T")

READ_S = 30.0


class Client:
    """The REST API. Use it as a context, or `close` it. Threads may share one.

    Every method raises ApiError (`client.api.errors`), and what can pass by itself is tried again
    first, as `patience` says. No method waits for ever but `wait` and `events` without a limit.
    What can be no id, key or option is a PermanentError BAD_OPTION before anything is sent.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        patience: Patience | None = None,
        read_s: float = READ_S,
    ) -> None:
        """Without `url`: DUALFACE_API_URL and DUALFACE_API_KEY, else the local stack that is up.

        `read_s`: longest silence of a service that was asked something. Raises PermanentError
        STACK_FAILED when there is no service to be found, BAD_OPTION for an address or key that is
        none, and for a proxy or certificates of the environment that can't be used.
        """
        self.address = address_for(url, key)
        self._read_s = read_s
        self._flows = Flows(patience or Patience())
        with usable_environment():
            self._http = httpx.Client(trust_env=not is_loopback(self.address.url))

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._http.close()

    # --- jobs -------------------------------------------------------------------------------------

    def submit(
        self,
        source: Path | str,
        *,
        idempotency_key: str | None = None,
        on_progress: OnProgress | None = None,
        direct: bool | None = None,
        **options: Unpack[JobOptions],
    ) -> Job:
        """Make a job of a file here, or of what `https://...`, `s3://...`, `upload:...` name.

        The same `idempotency_key` is the same job, however often and from wherever it is sent; a
        file is then sent through the service as one request. Without one, one call is one job, and
        a large file goes in parts straight to the object store where the service gives links to it
        (`direct`: always, or never). Raises PermanentError too: SOURCE_MISSING, SOURCE_EMPTY,
        SOURCE_UNREADABLE, SOURCE_CHANGED (while it was sent).
        """
        return self._run(self._flows.submit(source, options, idempotency_key, on_progress, direct))

    def get(self, job: JobRef) -> Job:
        """A job as it stands."""
        return self._run(self._flows.get(job))

    def list(
        self,
        *,
        state: JobState | None = None,
        live: bool = False,
        owner: str | None = None,
        page: int = 50,
    ) -> Iterator[Job]:
        """Jobs, newest first, asked for `page` at a time as they are wanted. `owner`: for admins,
        who else see everybody's."""
        cursor: str | None = None
        while True:
            found = self._run(self._flows.page(state, live, owner, cursor, page))
            yield from found.jobs
            cursor = found.next
            if cursor is None:
                return

    def cancel(self, job: JobRef) -> Job:
        """End a job. Raises ConflictError when it has ended in another way."""
        return self._run(self._flows.cancel(job))

    def retry(self, job: JobRef) -> Job:
        """Have a job that failed or was cancelled made again, under its id. Raises ConflictError
        when it has not, or its source is not kept any more."""
        return self._run(self._flows.retry(job))

    def events(self, job: JobRef, after: str | None = None) -> Iterator[Told]:
        """What happens to a job, as it happens, from its beginning or the event `after` on, to its
        end; broken connections are mended, and nothing is told twice."""
        for told in self._told(job, after):
            if told is not None:
                yield told

    def wait(self, job: JobRef, timeout: float | None = None) -> Job:
        """Until the job has ended. Raises TimeoutError after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            found = self.get(job)
            if found.state.ended:
                return found
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError(f"The job {found.id} is {found.state} after {timeout:g} s.")
            if left is None or left > CLOSE_S:
                self._follow(found, deadline)
            else:
                time.sleep(min(left, LOOK_S))

    # --- files ------------------------------------------------------------------------------------

    def upload(
        self,
        path: Path,
        *,
        name: str | None = None,
        on_progress: OnProgress | None = None,
        on_begin: OnBegin | None = None,
        stamp: Stamp | None = None,
        direct: bool | None = None,
    ) -> Stored:
        """Send a file without making a job of it yet; `submit(stored.source)` does.

        `on_begin` is given the upload's `source` before anything is sent: who writes it down can
        submit it after a crash. A file that is not, or no longer, as `stamp` says is not sent.
        """
        return self._run(
            self._flows.upload(path, name or name_of(path), on_progress, direct, on_begin, stamp)
        )

    def drop(self, upload: str) -> None:
        """Forget an upload (its id) that is not to become a job."""
        self._run(self._flows.drop(upload))

    def result(self, job: JobRef, path: Path, *, on_progress: OnProgress | None = None) -> int:
        """The video as a file, which appears when it is whole; its bytes.

        Goes on where a connection broke. Raises PermanentError OUTPUT_UNWRITABLE, NO_SPACE, BUSY
        too, and ConflictError when the job has no result.
        """
        flow = self._flows.download(path_of(job, "/result"), path, on_progress, links=True)
        return self._run(flow)

    def tracks(self, job: JobRef, path: Path, *, on_progress: OnProgress | None = None) -> int:
        """Who is where, as a file of JSON lines (`shared.tracks.TrackLine`), gzip; its bytes."""
        flow = self._flows.download(path_of(job, "/tracks"), path, on_progress, links=False)
        return self._run(flow)

    def report(self, job: JobRef) -> dict[str, object]:
        """What was done: source, plan, counts, engines, times, warnings."""
        return self._run(self._flows.document(job, "/report"))

    def thumbnails(self, job: JobRef) -> Sequence[Thumbnail]:
        """Small pictures of the result as far as it is made."""
        return self._run(self._flows.thumbnails(job))

    def picture(self, thumbnail: Thumbnail) -> bytes:
        """One of them, JPEG."""
        return self._run(self._flows.picture(thumbnail))

    # --- the service ------------------------------------------------------------------------------

    def system(self) -> System:
        """Workers, limits, queues; for admins."""
        return self._run(self._flows.system())

    def session(self) -> Session:
        """Whose key this is, and what it allows."""
        return self._run(self._flows.session())

    # --- carrying flows out -----------------------------------------------------------------------

    def _run(self, flow: Flow[T], halt: threading.Event | None = None) -> T:
        """`halt`: set when nobody wants the outcome any more."""
        halt = halt or threading.Event()
        try:
            step = next(flow)
            while True:
                try:
                    answer = self._do(step, halt)
                except (httpx.RequestError, ApiError) as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(answer)
        except StopIteration as end:
            made: T = end.value
            return made
        finally:
            flow.close()

    def _do(self, step: Step, halt: threading.Event) -> object:
        match step:
            case Call():
                return self._http.send(self._request(step, halt), follow_redirects=step.follow)
            case Fetch():
                return self._fetch(step, halt)
            case Pause():
                if halt.wait(step.seconds):
                    raise StoppedError
                return None
            case Work():
                return step.do()
            case Together():
                self._all(step)
                return None

    def _all(self, step: Together) -> None:
        halt = threading.Event()
        pool = ThreadPoolExecutor(step.at_once, thread_name_prefix="dualface-part")
        try:
            futures = [pool.submit(self._run, flow, halt) for flow in step.flows]
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
        finally:
            # Whatever ended this, Ctrl-C too: threads stop at their next piece.
            halt.set()
            pool.shutdown(cancel_futures=True)

    def _request(self, call: Call, halt: threading.Event) -> httpx.Request:
        headers, url = head_of(self.address, call)
        content = None if call.body is None else call.body.pieces(halt.is_set)
        return self._http.build_request(
            call.method,
            url,
            params=call.params or None,
            headers=headers,
            json=call.json,
            content=content,
            timeout=timeout_of(call, self._read_s),
        )

    def _fetch(self, step: Fetch, halt: threading.Event) -> httpx.Response:
        request = self._request(step.call, halt)
        response = self._http.send(request, stream=True, follow_redirects=step.call.follow)
        try:
            if response.is_error:
                response.read()
                return response
            take = step.begin(response)
            for piece in response.iter_raw():
                take(piece)
            return response
        finally:
            response.close()

    # --- watching ---------------------------------------------------------------------------------

    def _told(self, job: JobRef, after: str | None) -> Iterator[Told | None]:
        """Events, and None for signs of life between them."""
        watch = Watch(self._flows, job, after)
        while not watch.over:
            try:
                request = self._request(watch.call(), threading.Event())
                response = self._http.send(request, stream=True)
                try:
                    if response.is_error:
                        response.read()
                    if watch.begun(response):
                        for data in response.iter_raw():
                            yield from watch.heard(data)
                            if watch.over:
                                return
                finally:
                    response.close()
            except httpx.RequestError as error:
                watch.broke(error)
            if not watch.over:
                time.sleep(watch.wait_s())

    def _follow(self, job: Job, deadline: float | None) -> None:
        """Until something is to be looked at: the job has ended, time is short, nobody tells."""
        try:
            for told in self._told(job, None):
                if told is not None and told.ends:
                    return
                if deadline is not None and deadline - time.monotonic() < CLOSE_S:
                    return
        except BusyError:
            time.sleep(POLL_S)


def head_of(address: Address, call: Call) -> tuple[dict[str, str], str]:
    """Headers and address of a request."""
    headers = dict(call.headers)
    if call.body is not None:
        headers["Content-Length"] = str(call.body.size)
    if not call.ours:
        return headers, call.path
    if address.key:
        headers["Authorization"] = f"Bearer {address.key}"
    return headers, address.url.rstrip("/") + call.path


def timeout_of(call: Call, read_s: float) -> httpx.Timeout:
    """Of a request."""
    connect_s = min(CONNECT_S, read_s)
    return httpx.Timeout(connect=connect_s, write=WRITE_S, pool=60, read=call.read_s or read_s)
