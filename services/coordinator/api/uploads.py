"""Sources that come before their job: by one PUT, or in parts straight into the object store."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, HTTPException, Path, Request, Response
from starlette.concurrency import run_in_threadpool

from services.coordinator.api.access import Submitter
from services.coordinator.api.problems import EVERYWHERE, responses
from services.coordinator.api.receiving import receive_body, too_large, upload_limit
from services.coordinator.api.service import Served
from shared.errors import ErrorCode, PermanentError
from shared.keys import ApiKey
from shared.rest import Stored, UploadedParts, UploadLinks, UploadRequest
from shared.storage.base import DirectUploads
from shared.uploads import REFERENCE, Upload

router = APIRouter(prefix="/v1/uploads", tags=["uploads"], responses=responses(*EVERYWHERE))

PART_BYTES = 64 << 20
PARTS_MAX = 10_000
"""S3's limit; parts grow with the file."""
LINK_S = 12 * 3600
OPEN_AT_LEAST = 16
"""Uploads of an owner that may be open whatever their quota of live jobs: one that its client lost
sight of counts for a day."""

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        description="the same key of the same owner is the same upload, also once it is a job",
    ),
]

_OTHER = "This Idempotency-Key was used for an upload of something else."

UploadId = Annotated[str, Path(pattern="^[0-9a-f]{32}$")]


@router.post("", status_code=201, response_model=UploadLinks, responses=responses(409, 413))
def begin(
    service: Served,
    key: Submitter,
    request: UploadRequest,
    idempotency_key: IdempotencyKey = None,
) -> UploadLinks:
    """Announce an upload; it has to be complete, and submitted as a job, within a day."""
    limit = upload_limit(service, key)
    if request.size_bytes > limit:
        raise too_large(limit)
    upload = service.uploads.begin(key.owner, request.name, request.size_bytes)
    if idempotency_key is not None:
        upload = service.uploads.named(upload, idempotency_key)
        known = service.uploads.look(upload.id)
        if known is not None:
            return _again(service, known, request)
        if service.ledger.state(upload.id) is not None:
            _check_became(service, upload)
            return _links(upload)
    _check_open(service, key)
    if request.direct:
        if not request.size_bytes:
            raise PermanentError(ErrorCode.BAD_OPTION, "size_bytes: needed for a direct upload.")
        multipart = _direct(service.store).begin(upload.key)
        upload = upload.model_copy(update={"multipart": multipart})
    if not service.uploads.enter(upload):  # the same request, at the same moment
        if upload.multipart:
            _direct(service.store).abort(upload.key, upload.multipart)
        return _again(service, service.uploads.find(upload.id, key.owner), request)
    return _with_parts(service, upload)


def _check_open(service: Served, key: ApiKey) -> None:
    """Raises PermanentError OVER_QUOTA: each may fill the store with a source that no job has.

    As many as live jobs: they may all be sent before the first is submitted.
    """
    most, there = max(OPEN_AT_LEAST, key.most_live), service.uploads.count(key.owner)
    if key.most_live and there >= most:
        raise PermanentError(
            ErrorCode.OVER_QUOTA,
            f"{most} uploads wait for their jobs, which is the quota; submit some, or drop them.",
        )


def _again(service: Served, upload: Upload, request: UploadRequest) -> UploadLinks:
    same = (upload.name, upload.size_bytes, bool(upload.multipart)) == (
        request.name,
        request.size_bytes,
        request.direct,
    )
    if not same:
        raise PermanentError(ErrorCode.CONFLICT, _OTHER)
    return _links(upload) if upload.stored else _with_parts(service, upload)


def _check_became(service: Served, upload: Upload) -> None:
    """Raises PermanentError CONFLICT where the job was made of another number of bytes than are
    announced now; a number that is not known is not compared."""
    size, _, _ = service.ledger.sent(upload.id).partition(":")
    if size and upload.size_bytes and size != str(upload.size_bytes):
        raise PermanentError(ErrorCode.CONFLICT, _OTHER)


def _links(upload: Upload) -> UploadLinks:
    return UploadLinks(
        id=upload.id,
        source=f"{REFERENCE}{upload.id}",
        content=f"/v1/uploads/{upload.id}/content",
    )


def _with_parts(service: Served, upload: Upload) -> UploadLinks:
    """Links into the store, if the upload goes there."""
    links = _links(upload)
    if not upload.multipart:
        return links
    part = max(PART_BYTES, -(-upload.size_bytes // PARTS_MAX))
    numbers = range(1, -(-upload.size_bytes // part) + 1)
    store = _direct(service.store)
    parts = [store.part_link(upload.key, upload.multipart, each, LINK_S) for each in numbers]
    return links.model_copy(update={"part_bytes": part, "parts": parts})


@router.put(
    "/{upload_id}/content",
    response_model=Stored,
    responses=responses(404, 409, 413, 507),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/octet-stream": {
                    "schema": {"type": "string", "format": "binary", "minLength": 1}
                }
            },
        }
    },
)
async def content(request: Request, service: Served, key: Submitter, upload_id: UploadId) -> Stored:
    """The bytes of an upload, as the body."""
    upload = await run_in_threadpool(service.uploads.find, upload_id, key.owner)
    if "content-range" in request.headers:  # RFC 9110 section 14.5
        raise HTTPException(
            400,
            "A PUT brings the whole video, and this one has a Content-Range; send it whole "
            "(what goes in parts is begun with `direct`).",
        )
    if upload.multipart:
        raise PermanentError(ErrorCode.CONFLICT, "This upload goes to the links of its parts.")
    if upload.stored and request.headers.get("content-length") == str(upload.stored_bytes):
        return _told(upload)  # sent again, by somebody who did not hear the answer

    def check(size: int) -> None:
        _check_sent(upload, size)
        _check_awaited(service.uploads.find(upload_id, key.owner))

    _check_awaited(upload)
    limit = upload_limit(service, key)
    size = await receive_body(request, service, upload.key, limit, check)
    return await run_in_threadpool(_stored, service, upload, size)


def _check_sent(upload: Upload, size: int) -> None:
    """Raises PermanentError unless so many bytes are what was announced."""
    if not size:
        raise PermanentError(ErrorCode.BAD_OPTION, "The body is empty; it is to be the video.")
    if upload.size_bytes and size != upload.size_bytes:
        raise PermanentError(
            ErrorCode.CONFLICT, f"{size} bytes came, {upload.size_bytes} were announced."
        )


def _check_awaited(upload: Upload) -> None:
    """Raises PermanentError CONFLICT for one whose bytes are there: a job may be made of them."""
    if upload.stored:
        raise PermanentError(
            ErrorCode.CONFLICT, "The upload is complete already; begin another one."
        )


@router.post("/{upload_id}/complete", response_model=Stored, responses=responses(404, 409, 413))
def complete(
    service: Served, key: Submitter, upload_id: UploadId, request: UploadedParts
) -> Stored:
    """All parts were sent to their links."""
    upload = service.uploads.find(upload_id, key.owner)
    if not upload.multipart:
        raise PermanentError(ErrorCode.CONFLICT, "This upload has no parts.")
    if upload.stored:
        return _told(upload)
    numbers = [part.number for part in request.parts]
    if sorted(set(numbers)) != sorted(numbers):
        raise PermanentError(ErrorCode.BAD_OPTION, "parts: a number comes twice.")
    parts = [(part.number, part.etag) for part in sorted(request.parts, key=lambda p: p.number)]
    _direct(service.store).complete(upload.key, upload.multipart, parts)
    size = service.store.size(upload.key) or 0
    limit = upload_limit(service, key)
    if size > limit or size != upload.size_bytes:
        service.store.delete(upload.key)
        service.uploads.forget(upload.id)
        if size > limit:
            raise too_large(limit)
        raise PermanentError(
            ErrorCode.CONFLICT, f"{size} bytes came, {upload.size_bytes} were announced."
        )
    return _stored(service, upload, size)


@router.delete("/{upload_id}", status_code=204, responses=responses(404))
def abort(service: Served, key: Submitter, upload_id: UploadId) -> Response:
    """Drop an upload that is not to become a job."""
    upload = service.uploads.find(upload_id, key.owner)
    if upload.multipart and not upload.stored:
        _direct(service.store).abort(upload.key, upload.multipart)
    if service.ledger.state(upload.id) is None:
        service.store.delete(upload.key)
    service.uploads.forget(upload.id)
    return Response(status_code=204)


def _stored(service: Served, upload: Upload, size: int) -> Stored:
    made = upload.model_copy(update={"stored": True, "stored_bytes": size})
    service.uploads.keep(made)
    return _told(made)


def _told(upload: Upload) -> Stored:
    """Of one that is stored."""
    return Stored(id=upload.id, source=f"{REFERENCE}{upload.id}", size_bytes=upload.stored_bytes)


def _direct(store: object) -> DirectUploads:
    if not isinstance(store, DirectUploads):
        raise PermanentError(
            ErrorCode.CONFLICT,
            "This service keeps its objects in a folder; send the bytes to `content` instead.",
        )
    return store
