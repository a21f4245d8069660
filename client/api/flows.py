"""Everything that a client does, but for carrying it out: requests, retries, what answers mean."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, TypedDict, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from client.api.bodies import FileBody, Meter, OnProgress, Stamp, form_of, stamp_of
from client.api.checks import check_text, checked_field, checked_id
from client.api.downloads import Download
from client.api.errors import (
    ApiError,
    BusyError,
    ConflictError,
    NotFoundError,
    UnreachableError,
    elsewhere,
    error_of,
    unreachable,
    unreadable,
)
from client.api.patience import Patience
from client.api.steps import Call, Fetch, Flow, one, pause, together, work
from client.api.stream import SILENCE_S
from shared.jobs import Codec, JobState, Layout
from shared.rest import (
    Job,
    JobPage,
    Session,
    Stored,
    System,
    Thumbnail,
    Thumbnails,
    UploadedPart,
    UploadedParts,
    UploadLinks,
    UploadRequest,
)

STORING_S = 300.0
"""For the answer to an upload: by then all of it is in the store, however slow that is."""
DIRECT_FROM_BYTES = 32 << 20
"""Smaller files go through the service: links and parts would be more requests than that saves."""
PARTS_AT_ONCE = 4
REFERENCES = ("https://", "http://", "s3://", "upload:")

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")


class JobOptions(TypedDict, total=False):
    """The fields of a `shared.jobs.JobSpec` but its source; what is left out has its default."""

    name: str
    container: Literal["mp4", "mov"]
    layout: Layout
    size: tuple[int, int] | None
    codec: Codec
    crf: int
    bitrate_kbps: int | None
    preset: str
    detector: str
    detect_every: int | None
    fps_limit: float | None
    annotate: bool
    priority: int
    webhook: str | None


OnBegin = Callable[[str], object]
"""Called with `upload:ID` before the first byte goes out; again where another way is taken."""

JobRef = Job | str
"""A job, or its id."""


def path_of(job: JobRef, rest: str = "") -> str:
    """The path of a job. Raises PermanentError BAD_OPTION for what is no id and would lead
    elsewhere."""
    return f"/v1/jobs/{checked_id(job.id if isinstance(job, Job) else job)}{rest}"


def is_reference(source: str) -> bool:
    """True for what the service fetches itself, or has already; else it is a file here."""
    scheme, mark, _ = source.partition("://")
    return (scheme.lower() + mark if mark else source).startswith(REFERENCES)


class Flows:
    """The flows of one client. `heard` is True once the service has answered."""

    def __init__(self, patience: Patience) -> None:
        self.patience = patience
        self.heard = False
        self._gives_links = True

    # --- requests ---------------------------------------------------------------------------------

    def asked(self, call: Call | Fetch, *, again: bool = True) -> Flow[httpx.Response]:
        """Send until it is answered well. Not `again`: sent once more only after an answer that
        says that nothing was done."""
        tried = 0
        while True:
            tried += 1
            try:
                response = yield from one(call)
                self.heard = True
                if response.has_redirect_location:
                    raise elsewhere(response)
                if not response.is_error:
                    return response
                error = error_of(response)
            except httpx.RequestError as broken:
                error = unreachable(_address_of(broken, call), broken)
            wait_s = self.patience.wait_s(error, tried, heard=self.heard)
            if wait_s is None or not (again or isinstance(error, BusyError)):
                raise error
            yield from pause(wait_s)

    def read(self, model: type[M], call: Call, *, again: bool = True) -> Flow[M]:
        """The same, and what the answer says."""
        response = yield from self.asked(call, again=again)
        return _parsed(model, response)

    # --- jobs -------------------------------------------------------------------------------------

    def submit(
        self,
        source: Path | str,
        options: JobOptions,
        idempotency_key: str | None,
        on_progress: OnProgress | None,
        direct: bool | None,
    ) -> Flow[Job]:
        """See `Client.submit`."""
        if idempotency_key is not None:
            checked_field("The idempotency key", idempotency_key)
        for what, value in options.items():
            check_text(what, value)
        if isinstance(source, str) and is_reference(source):
            return (yield from self.enter(source, options, idempotency_key))
        path = Path(source)
        options = {"name": name_of(path), **options}
        if idempotency_key is not None:
            return (yield from self._send_form(path, options, idempotency_key, on_progress))
        stored = yield from self.upload(path, options["name"], on_progress, direct)
        return (yield from self.enter(stored.source, options, None))

    def enter(self, source: str, options: JobOptions, idempotency_key: str | None) -> Flow[Job]:
        """A job of a reference. Its key makes it one job, however often it is sent."""
        check_text("source", source)
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        spec = {"source": source, **_plain(options)}
        call = Call("POST", "/v1/jobs", headers=headers, json=spec)
        try:
            return (yield from self.read(Job, call))
        except NotFoundError:
            if not source.startswith("upload:"):
                raise
            # An upload ends when its job begins, with the same id: an earlier try arrived.
            return (yield from self.get(source.removeprefix("upload:")))

    def _send_form(
        self, path: Path, options: JobOptions, key: str, on_progress: OnProgress | None
    ) -> Flow[Job]:
        stamp = yield from work(lambda: stamp_of(path))
        meter = Meter(stamp.size, on_progress)
        body, kind = form_of(path, stamp, options["name"], _plain(options), meter)
        headers = {"Idempotency-Key": key, "Content-Type": kind}
        call = Call("POST", "/v1/jobs", headers=headers, body=body, read_s=STORING_S)
        return (yield from self.read(Job, call))

    def get(self, job: JobRef) -> Flow[Job]:
        """See `Client.get`."""
        return self.read(Job, Call("GET", path_of(job)))

    def page(
        self,
        state: JobState | None,
        live: bool,
        owner: str | None,
        cursor: str | None,
        limit: int,
    ) -> Flow[JobPage]:
        """A page of a list."""
        params: dict[str, str | int | bool] = {"limit": limit}
        if state is not None:
            params["state"] = JobState(state).value
        if live:
            params["live"] = True
        if owner is not None:
            params["owner"] = owner
        if cursor is not None:
            params["cursor"] = cursor
        return self.read(JobPage, Call("GET", "/v1/jobs", params=params))

    def cancel(self, job: JobRef) -> Flow[Job]:
        """See `Client.cancel`."""
        return self.read(Job, Call("DELETE", path_of(job)))

    def retry(self, job: JobRef) -> Flow[Job]:
        """See `Client.retry`. A second one would meet the job that the first began."""
        return self.read(Job, Call("POST", path_of(job, "/retry")), again=False)

    def system(self) -> Flow[System]:
        """See `Client.system`."""
        return self.read(System, Call("GET", "/v1/system"))

    def session(self) -> Flow[Session]:
        """See `Client.session`."""
        return self.read(Session, Call("GET", "/v1/session"))

    # --- uploads ----------------------------------------------------------------------------------

    def upload(
        self,
        path: Path,
        name: str,
        on_progress: OnProgress | None,
        direct: bool | None,
        on_begin: OnBegin | None = None,
        stamp: Stamp | None = None,
    ) -> Flow[Stored]:
        """See `Client.upload`. `stamp`: of the file as its sender knows it; no other is sent."""
        known = stamp or (yield from work(lambda: stamp_of(path)))
        wanted = known.size >= DIRECT_FROM_BYTES if direct is None else direct
        if wanted and self._gives_links:
            links = yield from self._announced_direct(name, known.size)
            if links is not None:
                try:
                    return (yield from self._send(links, path, known, on_progress, on_begin))
                except UnreachableError as error:
                    if not _is_no_place(error):
                        raise
                    # The store can't be reached from here; the service can.
                    self._gives_links = False
                    yield from self._dropped(links)
        links = yield from self._announced(name, known.size, direct=False)
        return (yield from self._send(links, path, known, on_progress, on_begin))

    def _announced(self, name: str, size: int, *, direct: bool) -> Flow[UploadLinks]:
        """One whose answer nobody heard is forgotten by the service."""
        check_text("name", name)
        request = UploadRequest(name=name[:255], size_bytes=size, direct=direct)
        call = Call("POST", "/v1/uploads", json=request.model_dump(mode="json"))
        return self.read(UploadLinks, call)

    def _send(
        self,
        links: UploadLinks,
        path: Path,
        stamp: Stamp,
        on_progress: OnProgress | None,
        on_begin: OnBegin | None,
    ) -> Flow[Stored]:
        if on_begin is not None:
            yield from work(lambda: on_begin(links.source))
        meter = Meter(stamp.size, on_progress)
        if links.parts and links.part_bytes:
            return (yield from self._send_parts(links, path, stamp, meter))
        body = FileBody(path, stamp, 0, stamp.size, meter)
        headers = {"Content-Type": "application/octet-stream"}
        call = Call("PUT", links.content, headers=headers, body=body, read_s=STORING_S)
        return (yield from self.read(Stored, call))

    def drop(self, upload: str) -> Flow[None]:
        """See `Client.drop`."""
        yield from self.asked(Call("DELETE", f"/v1/uploads/{checked_id(upload)}"))

    def _announced_direct(self, name: str, size: int) -> Flow[UploadLinks | None]:
        try:
            return (yield from self._announced(name, size, direct=True))
        except ConflictError:
            self._gives_links = False  # it keeps its objects in a folder
            return None

    def _send_parts(
        self, links: UploadLinks, path: Path, stamp: Stamp, meter: Meter
    ) -> Flow[Stored]:
        step = links.part_bytes or stamp.size
        flows = [
            self._send_part(number, link, _body(path, stamp, number, step, meter))
            for number, link in enumerate(links.parts or (), 1)
        ]
        parts = yield from together(flows, PARTS_AT_ONCE)
        call = Call(
            "POST",
            f"/v1/uploads/{checked_id(links.id)}/complete",
            json=UploadedParts(parts=parts).model_dump(mode="json"),
            read_s=STORING_S,
        )
        return (yield from self.read(Stored, call))

    def _send_part(self, number: int, link: str, body: FileBody) -> Flow[UploadedPart]:
        # No Content-Type: the link was signed without one.
        response = yield from self.asked(Call("PUT", link, body=body, read_s=STORING_S))
        etag = response.headers.get("etag", "")
        if not etag:
            raise unreadable("a part without an ETag")
        return UploadedPart(number=number, etag=etag)

    def _dropped(self, links: UploadLinks) -> Flow[None]:
        try:
            yield from self.asked(Call("DELETE", f"/v1/uploads/{links.id}"), again=False)
        except ApiError:
            return  # it is forgotten by itself within a day

    # --- results ----------------------------------------------------------------------------------

    def download(
        self, path: str, target: Path, on_progress: OnProgress | None, *, links: bool
    ) -> Flow[int]:
        """A resource as a file, atomically; its bytes. `links`: it may be had from the store."""
        got = Download(target, on_progress)
        yield from work(got.open)
        try:
            tried, linked = 0, links
            while not got.complete:
                began, tried = got.bytes, tried + 1
                params: dict[str, str | int | bool] = {"redirect": linked} if links else {}
                call = Call("GET", path, params, got.headers(), follow=linked, read_s=SILENCE_S)
                try:
                    error = yield from self._fetched(call, got)
                except httpx.RequestError as broken:
                    error = unreachable(_address_of(broken, call), broken)
                    if linked and not isinstance(broken, httpx.ReadError):
                        linked = False  # perhaps the store can't be reached from here
                if error is None:
                    continue
                tried = 1 if got.bytes > began else tried
                wait_s = self.patience.wait_s(error, tried, heard=self.heard)
                if wait_s is None:
                    raise error
                yield from pause(wait_s)
            yield from work(got.finish)
        finally:
            got.close()
        return got.bytes

    def _fetched(self, call: Call, got: Download) -> Flow[ApiError | None]:
        """One try. Returns the error to think about, None when it went well."""
        response = yield from one(Fetch(call, got.begin))
        self.heard = True
        if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE and got.bytes:
            got.again()
            return BusyError("changed", "The file changed while it was fetched.", 416)
        return error_of(response) if response.is_error else None

    def document(self, job: JobRef, rest: str) -> Flow[dict[str, object]]:
        """A JSON object that belongs to a job."""
        response = yield from self.asked(Call("GET", path_of(job, rest)))
        try:
            found = json.loads(response.content)
        except ValueError as error:
            raise unreadable(rest) from error
        if not isinstance(found, dict):
            raise unreadable(rest)
        return found

    def thumbnails(self, job: JobRef) -> Flow[tuple[Thumbnail, ...]]:
        """See `Client.thumbnails`."""
        found = yield from self.read(Thumbnails, Call("GET", path_of(job, "/thumbnails")))
        return tuple(found.thumbnails)

    def picture(self, thumbnail: Thumbnail) -> Flow[bytes]:
        """See `Client.picture`."""
        response = yield from self.asked(Call("GET", thumbnail.url))
        return response.content


def _is_no_place(error: UnreachableError) -> bool:
    """True when there was no connection at all; one that broke shows that there can be one."""
    return isinstance(error.__cause__, httpx.ConnectError | httpx.ConnectTimeout)


def _body(path: Path, stamp: Stamp, number: int, step: int, meter: Meter) -> FileBody:
    start = (number - 1) * step
    return FileBody(path, stamp, start, min(step, stamp.size - start), meter)


def name_of(path: Path) -> str:
    """Names of files need not be text."""
    return os.fsencode(path.name).decode(errors="replace")


def _plain(options: Mapping[str, object]) -> dict[str, object]:
    """For JSON."""
    return {name: list(v) if isinstance(v, tuple) else v for name, v in options.items()}


def _parsed(model: type[M], response: httpx.Response) -> M:
    try:
        # Fields that a newer service has added are passed over.
        return model.model_validate_json(response.content, extra="ignore")
    except ValidationError as error:
        raise unreadable(f"{model.__name__}, {error.error_count()} fields") from error


def _address_of(broken: httpx.RequestError, call: Call | Fetch) -> httpx.URL | str:
    try:
        return broken.request.url
    except RuntimeError:  # httpx: none was made
        return call.path if isinstance(call, Call) else call.call.path
