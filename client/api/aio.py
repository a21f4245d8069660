"""The client that awaits. Its methods are those of `Client`, which says what each does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeVar, Unpack

import httpx

from client.api.address import address_for, is_loopback
from client.api.bodies import OnProgress, Stamp
from client.api.checks import usable_environment
from client.api.errors import ApiError, BusyError
from client.api.flows import Flows, JobOptions, JobRef, OnBegin, name_of, path_of
from client.api.patience import Patience
from client.api.steps import Call, Fetch, Flow, Pause, Step, Together, Work
from client.api.stream import Told
from client.api.sync import READ_S, head_of, timeout_of
from client.api.watching import POLL_S, Watch
from shared.jobs import JobState
from shared.rest import Job, Session, Stored, System, Thumbnail

T = TypeVar("T")


class AsyncClient:
    """The REST API, for one event loop. Use it as a context, or `await close()`. Cancelling a call
    hangs up; files are read in threads."""

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        patience: Patience | None = None,
        read_s: float = READ_S,
    ) -> None:
        """As `Client`."""
        self.address = address_for(url, key)
        self._read_s = read_s
        self._flows = Flows(patience or Patience())
        with usable_environment():
            self._http = httpx.AsyncClient(trust_env=not is_loopback(self.address.url))

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Hang up."""
        await self._http.aclose()

    # --- jobs -------------------------------------------------------------------------------------

    async def submit(
        self,
        source: Path | str,
        *,
        idempotency_key: str | None = None,
        on_progress: OnProgress | None = None,
        direct: bool | None = None,
        **options: Unpack[JobOptions],
    ) -> Job:
        """Make a job of a file here, or of what a reference names."""
        return await self._run(
            self._flows.submit(source, options, idempotency_key, on_progress, direct)
        )

    async def get(self, job: JobRef) -> Job:
        """A job as it stands."""
        return await self._run(self._flows.get(job))

    async def list(
        self,
        *,
        state: JobState | None = None,
        live: bool = False,
        owner: str | None = None,
        page: int = 50,
    ) -> AsyncIterator[Job]:
        """Jobs, newest first."""
        cursor: str | None = None
        while True:
            found = await self._run(self._flows.page(state, live, owner, cursor, page))
            for job in found.jobs:
                yield job
            cursor = found.next
            if cursor is None:
                return

    async def cancel(self, job: JobRef) -> Job:
        """End a job."""
        return await self._run(self._flows.cancel(job))

    async def retry(self, job: JobRef) -> Job:
        """Have a job that failed or was cancelled made again."""
        return await self._run(self._flows.retry(job))

    async def events(self, job: JobRef, after: str | None = None) -> AsyncIterator[Told]:
        """What happens to a job, as it happens."""
        watch = Watch(self._flows, job, after)
        while not watch.over:
            try:
                request = self._request(watch.call())
                response = await self._http.send(request, stream=True)
                try:
                    if response.is_error:
                        await response.aread()
                    if watch.begun(response):
                        async for data in response.aiter_raw():
                            for told in watch.heard(data):
                                if told is not None:
                                    yield told
                            if watch.over:
                                return
                finally:
                    await response.aclose()
            except httpx.RequestError as error:
                watch.broke(error)
            if not watch.over:
                await asyncio.sleep(watch.wait_s())

    async def wait(self, job: JobRef, timeout: float | None = None) -> Job:
        """Until the job has ended. Raises TimeoutError after `timeout` seconds."""
        async with asyncio.timeout(timeout):
            while True:
                found = await self.get(job)
                if found.state.ended:
                    return found
                try:
                    async for told in self.events(job):
                        if told.ends:
                            break
                except BusyError:
                    await asyncio.sleep(POLL_S)

    # --- files ------------------------------------------------------------------------------------

    async def upload(
        self,
        path: Path,
        *,
        name: str | None = None,
        on_progress: OnProgress | None = None,
        on_begin: OnBegin | None = None,
        stamp: Stamp | None = None,
        direct: bool | None = None,
    ) -> Stored:
        """Send a file without making a job of it yet."""
        return await self._run(
            self._flows.upload(path, name or name_of(path), on_progress, direct, on_begin, stamp)
        )

    async def drop(self, upload: str) -> None:
        """Forget an upload that is not to become a job."""
        await self._run(self._flows.drop(upload))

    async def result(
        self, job: JobRef, path: Path, *, on_progress: OnProgress | None = None
    ) -> int:
        """The video as a file."""
        flow = self._flows.download(path_of(job, "/result"), path, on_progress, links=True)
        return await self._run(flow)

    async def tracks(
        self, job: JobRef, path: Path, *, on_progress: OnProgress | None = None
    ) -> int:
        """Who is where, as a file."""
        flow = self._flows.download(path_of(job, "/tracks"), path, on_progress, links=False)
        return await self._run(flow)

    async def report(self, job: JobRef) -> dict[str, object]:
        """What was done."""
        return await self._run(self._flows.document(job, "/report"))

    async def thumbnails(self, job: JobRef) -> Sequence[Thumbnail]:
        """Small pictures of the result as far as it is made."""
        return await self._run(self._flows.thumbnails(job))

    async def picture(self, thumbnail: Thumbnail) -> bytes:
        """One of them, JPEG."""
        return await self._run(self._flows.picture(thumbnail))

    # --- the service ------------------------------------------------------------------------------

    async def system(self) -> System:
        """Workers, limits, queues; for admins."""
        return await self._run(self._flows.system())

    async def session(self) -> Session:
        """Whose key this is, and what it allows."""
        return await self._run(self._flows.session())

    # --- carrying flows out -----------------------------------------------------------------------

    async def _run(self, flow: Flow[T]) -> T:
        try:
            step = next(flow)
            while True:
                try:
                    answer = await self._do(step)
                except (httpx.RequestError, ApiError) as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(answer)
        except StopIteration as end:
            made: T = end.value
            return made
        finally:
            flow.close()

    async def _do(self, step: Step) -> object:
        match step:
            case Call():
                return await self._http.send(self._request(step), follow_redirects=step.follow)
            case Fetch():
                return await self._fetch(step)
            case Pause():
                await asyncio.sleep(step.seconds)
                return None
            case Work():
                return await asyncio.to_thread(step.do)
            case Together():
                await self._all(step)
                return None

    async def _all(self, step: Together) -> None:
        room = asyncio.Semaphore(step.at_once)

        async def run(flow: Flow[object]) -> None:
            async with room:
                await self._run(flow)

        tasks = [asyncio.create_task(run(flow)) for flow in step.flows]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _request(self, call: Call) -> httpx.Request:
        headers, url = head_of(self.address, call)
        content = None if call.body is None else _awaited(call.body.pieces())
        return self._http.build_request(
            call.method,
            url,
            params=call.params or None,
            headers=headers,
            json=call.json,
            content=content,
            timeout=timeout_of(call, self._read_s),
        )

    async def _fetch(self, step: Fetch) -> httpx.Response:
        request = self._request(step.call)
        response = await self._http.send(request, stream=True, follow_redirects=step.call.follow)
        try:
            if response.is_error:
                await response.aread()
                return response
            take = step.begin(response)
            # Into the page cache, in pieces of 64 KiB: a thread for each would cost more.
            async for piece in response.aiter_raw():
                take(piece)
            return response
        finally:
            await response.aclose()


async def _awaited(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    """The same, read in threads."""
    while True:
        piece = await asyncio.to_thread(next, pieces, None)
        if piece is None:
            return
        yield piece
