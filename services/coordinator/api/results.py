"""What a job made: the video, its report, where everybody is, pictures of it while it is made."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import RedirectResponse, StreamingResponse

from services.coordinator.api.access import Reader
from services.coordinator.api.jobs import JobId
from services.coordinator.api.problems import EVERYWHERE, Responses, answer, responses
from services.coordinator.api.service import Served, Service
from shared.errors import ErrorCode, PermanentError
from shared.jobs import JobState
from shared.ledger import JobView
from shared.names import report_key, thumbnail_folder, tracks_key
from shared.rest import Thumbnail, Thumbnails

router = APIRouter(prefix="/v1/jobs", tags=["results"], responses=responses(*EVERYWHERE))

LINK_S = 900
"""Life of a link into the object store: long enough to begin a download."""
RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
VIDEO_TYPES = {"mp4": "video/mp4", "mov": "video/quicktime"}

_BINARY: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}


def _whole_or_part(what: str, media_type: str, content: dict[str, Any]) -> Responses:
    """Answers of an object of this kind."""
    return {
        200: {"description": what, "content": {media_type: content}},
        206: {"description": "A part of it", "content": {media_type: _BINARY}},
    }


_VIDEO: Responses = {
    200: {
        "description": "The video",
        "content": {"video/mp4": _BINARY, "video/quicktime": _BINARY},
    },
    206: {"description": "A part of it", "content": {"video/mp4": _BINARY}},
    307: {"description": "Where it is, for a while"},
}
_REPORT = _whole_or_part("Report", "application/json", {"schema": {}})
_TRACKS = _whole_or_part("Tracks", "application/gzip", _BINARY)
_PICTURE = _whole_or_part("Picture", "image/jpeg", _BINARY)


@router.head(
    "/{job_id}/result",
    operation_id="result_head",
    response_class=Response,
    responses=_VIDEO | responses(404, 409, 416),
)
@router.get(
    "/{job_id}/result",
    response_class=Response,
    responses=_VIDEO | responses(404, 409, 416),
)
def result(
    request: Request,
    service: Served,
    key: Reader,
    job_id: JobId,
    redirect: Annotated[
        bool, Query(description="to the object store, where it gives links; false: from here")
    ] = True,
) -> Response:
    """The split-screen video; ranges are served, and the name it has is the source's."""
    view = service.view(job_id, key)
    made = view.result
    if view.state is not JobState.SUCCEEDED or made is None:
        raise PermanentError(ErrorCode.CONFLICT, _why_none(view.state))
    name = file_name(view)
    redirect = redirect and service.settings.result_links
    link = service.store.link(made.key, LINK_S, name) if redirect else None
    if link is not None:
        return RedirectResponse(link, 307)
    return _object(request, service, made.key, VIDEO_TYPES[view.spec.container], name)


@router.head("/{job_id}/source", include_in_schema=False)
def source_head(service: Served, key: Reader, job_id: JobId) -> Response:
    """200: the source can be played; 204: it is not kept. (Browsers log each 404 as an error.)"""
    kept = service.view(job_id, key).spec.source
    there = kept.startswith(f"jobs/{job_id}/") and service.store.exists(kept)
    return Response(status_code=200 if there else 204)


@router.get(
    "/{job_id}/source",
    response_class=Response,
    responses=_VIDEO | responses(404, 416),
    include_in_schema=False,
)
def source(request: Request, service: Served, key: Reader, job_id: JobId) -> Response:
    """The source while it is kept; the page plays it beside the result."""
    view = service.view(job_id, key)
    if not view.spec.source.startswith(f"jobs/{job_id}/"):
        raise PermanentError(ErrorCode.NOT_FOUND, "The source lies elsewhere.")
    return _object(request, service, view.spec.source, "video/mp4", None)


@router.head(
    "/{job_id}/report",
    operation_id="report_head",
    response_class=Response,
    responses=_REPORT | responses(404, 416),
)
@router.get(
    "/{job_id}/report",
    response_class=Response,
    responses=_REPORT | responses(404, 416),
)
def report(request: Request, service: Served, key: Reader, job_id: JobId) -> Response:
    """What was done: source, plan, counts, engines, times, warnings."""
    service.view(job_id, key)
    return _object(request, service, report_key(job_id), "application/json", None)


@router.head(
    "/{job_id}/tracks",
    operation_id="tracks_head",
    response_class=Response,
    responses=_TRACKS | responses(404, 416),
)
@router.get(
    "/{job_id}/tracks",
    response_class=Response,
    responses=_TRACKS | responses(404, 416),
)
def tracks(request: Request, service: Served, key: Reader, job_id: JobId) -> Response:
    """Who is where in every frame: JSON lines, gzip."""
    view = service.view(job_id, key)
    name = file_name(view).rpartition(".")[0] + "-tracks.jsonl.gz"
    return _object(request, service, tracks_key(job_id), "application/gzip", name)


@router.get("/{job_id}/thumbnails", response_model=Thumbnails, responses=responses(404))
def thumbnails(service: Served, key: Reader, job_id: JobId) -> Thumbnails:
    """Small pictures of the result, as far as it is made."""
    service.view(job_id, key)
    names = [each.rpartition("/")[2] for each in service.store.keys(thumbnail_folder(job_id))]
    base = f"/v1/jobs/{job_id}/thumbnails"
    return Thumbnails(thumbnails=[Thumbnail(name=name, url=f"{base}/{name}") for name in names])


@router.head(
    "/{job_id}/thumbnails/{name}",
    operation_id="thumbnail_head",
    response_class=Response,
    responses=_PICTURE | responses(404, 416),
)
@router.get(
    "/{job_id}/thumbnails/{name}",
    response_class=Response,
    responses=_PICTURE | responses(404, 416),
)
def thumbnail(
    request: Request,
    service: Served,
    key: Reader,
    job_id: JobId,
    name: Annotated[str, Path(pattern=r"^\d{6}-\d{6}\.jpg$")],
) -> Response:
    """One of them."""
    service.view(job_id, key)
    found = _object(request, service, f"{thumbnail_folder(job_id)}/{name}", "image/jpeg", None)
    if found.status_code in (200, 206):
        found.headers["Cache-Control"] = "private, max-age=3600"
    return found


def _why_none(state: JobState) -> str:
    """Why a job in this state has no result, and what to do."""
    if state is JobState.FAILED:
        return "The job has failed, so it has no result; its `error` says why."
    if state is JobState.CANCELLED:
        return "The job was cancelled, so it has no result; submit it anew, or retry it."
    return f"The job is {state}, so it has no result yet; wait for its end."


def file_name(view: JobView) -> str:
    """What a download is called: "talk.mov" gives "talk-split.mp4"."""
    stem = view.name.replace("\\", "/").rpartition("/")[2].rpartition(".")
    return f"{stem[0] or stem[2] or view.job}-split.{view.spec.container}"


def _object(
    request: Request, service: Service, key: str, media_type: str, name: str | None
) -> Response:
    """An object, or the range of it that was asked for. Raises PermanentError NOT_FOUND."""
    size = service.store.size(key)
    if size is None:
        raise PermanentError(ErrorCode.NOT_FOUND, "It is not there, or not kept any more.")
    headers = {"Accept-Ranges": "bytes", "Cache-Control": "private, no-cache"}
    if name is not None:
        headers["Content-Disposition"] = f"attachment; filename*=UTF-8''{quote(name, safe='')}"
    start, end, status = 0, size, 200
    asked = RANGE.fullmatch(request.headers.get("range", ""))
    if asked is not None and any(asked.groups()):
        start, end = _range(asked[1], asked[2], size)
        if start >= end:
            detail = f"There are {size} bytes, and none of them in that range."
            whole = {"Content-Range": f"bytes */{size}"}
            return answer(416, "range_not_satisfiable", detail, headers=whole)
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        status = 206
    headers["Content-Length"] = str(end - start)
    body: Iterator[bytes] = iter(())
    if request.method != "HEAD":
        body = service.store.read(key, start, end - start)
    return StreamingResponse(body, status, headers, media_type)


def _range(first: str, last: str, size: int) -> tuple[int, int]:
    """Begin and end (exclusive) of `bytes=first-last`, RFC 9110 section 14.1.2."""
    if not first:
        return max(0, size - int(last)), size
    end = min(size, int(last) + 1) if last else size
    return int(first), end
