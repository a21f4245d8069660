"""Submitting, listing, cancelling and repeating jobs."""

from __future__ import annotations

import hashlib
import json
import uuid
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from services.coordinator.api.access import Reader, Submitter
from services.coordinator.api.problems import EVERYWHERE, Responses, responses
from services.coordinator.api.receiving import Form, receive_form
from services.coordinator.api.service import Served, Service
from shared.errors import ErrorCode, PermanentError
from shared.jobs import JOB_ID, JobSpec, JobState, read_spec
from shared.keys import ApiKey, Role
from shared.ledger import JobView
from shared.ledger.jobs import over_quota
from shared.models import ENTRIES, check_detector
from shared.names import job_folder, source_key
from shared.references import check_reference, check_webhook
from shared.rest import Job, JobPage, job_of
from shared.uploads import REFERENCE

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], responses=responses(*EVERYWHERE))

JSON_BYTES_MAX = 64 * 1024
"""A job spec has some hundred bytes."""

SOURCE_PATTERN = (
    r"^(https://[a-z][a-z0-9]{0,30}(\.[a-z][a-z0-9]{0,30}){1,3}(:[1-9][0-9]{0,3})?"
    r"/[A-Za-z0-9._~/-]{0,200}(\?[A-Za-z0-9._~=&-]{0,200})?"
    r"|s3://[a-z0-9][a-z0-9-]{1,61}[a-z0-9]/[A-Za-z0-9._-]{1,200}"
    r"|upload:[0-9a-f]{32})$"
)
"""What is promised to be understood; more is, see `shared.references`."""
DETECTORS = ("auto", *(entry.name for entry in ENTRIES))
"""The same of models; others may have been added to a service."""

JobId = Annotated[str, Path(pattern=f"^{JOB_ID.pattern}$", description="as `POST` answered")]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        description="the same key of the same owner is the same job, however often it is sent",
    ),
]

_OTHER_JOB = "This Idempotency-Key was used for a job with other options."
_OTHER_FILE = "This Idempotency-Key was used for a job of another file."
_OTHER_UPLOAD = "This upload became a job with other options; upload it again for another job."
_THERE: Responses = {200: {"model": Job, "description": "The job was there"}}
_SPEC = {
    "allOf": [
        {"$ref": "#/components/schemas/JobSpec"},
        {
            "properties": {
                "source": {"type": "string", "pattern": SOURCE_PATTERN},
                "detector": {"enum": list(DETECTORS)},
            }
        },
    ]
}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": _SPEC},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "string", "format": "binary", "minLength": 1},
                        "spec": {"$ref": "#/components/schemas/JobOptions"},
                    },
                    "additionalProperties": False,
                }
            },
        },
    }
}


@router.post(
    "",
    status_code=201,
    response_model=Job,
    responses=_THERE | responses(404, 409, 413, 507),
    openapi_extra=_BODY,
)
async def submit(
    request: Request,
    response: Response,
    service: Served,
    key: Submitter,
    idempotency_key: IdempotencyKey = None,
) -> Job:
    """Make a split-screen video of a source.

    As `application/json`: a job spec whose `source` is `https://…` (of an allowed host),
    `s3://BUCKET/KEY` (of an allowed bucket) or `upload:ID`. As `multipart/form-data`: the video
    itself as `file`, and optionally `spec`.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    job, place = uuid.uuid4().hex, source_key
    if idempotency_key is not None:
        job = hashlib.sha256(f"{key.owner}\n{idempotency_key}".encode()).hexdigest()[:32]
        place = _source_of_its_own
    if kind == "multipart/form-data":
        keep = await run_in_threadpool(_is_wanted, service, key, job)
        check = partial(_spec_of_form, service)
        form = await receive_form(
            request,
            service,
            key,
            partial(place, job),
            check,
            keep=keep,
            digest=idempotency_key is not None,
        )
        was_there = await run_in_threadpool(_enter_form, service, key, job, form)
    elif kind == "application/json":
        text = await _body(request)
        job, was_there = await run_in_threadpool(_enter_spec, service, key, job, text)
    else:
        raise PermanentError(
            ErrorCode.BAD_OPTION, "Send application/json, or a video as multipart/form-data."
        )
    response.status_code = 200 if was_there else 201
    response.headers["Location"] = f"/v1/jobs/{job}"
    return await run_in_threadpool(lambda: job_of(service.view(job, key)))


@router.get("", response_model=JobPage)
def listing(
    service: Served,
    key: Reader,
    state: Annotated[JobState | None, Query(description="only jobs in this state")] = None,
    live: Annotated[
        bool, Query(description="only jobs that have not ended; not beside `state`")
    ] = False,
    owner: Annotated[
        str | None, Query(description="for admins: only jobs of this owner", max_length=64)
    ] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[
        str,
        Query(pattern=r"^(\d{1,15}-[0-9A-Za-z_-]{1,64})?$", description="`next` of a page"),
    ] = "",
) -> Response:
    """Your jobs, newest first; an admin sees all owners' jobs."""
    if live and state is not None:
        raise PermanentError(ErrorCode.BAD_OPTION, "live: give either `state` or `live`.")
    whose = owner if key.allows(Role.ADMIN) else key.owner
    which = state.value if state is not None else "live" if live else "any"
    try:
        page = service.ledger.listed(whose, which, cursor or None, limit)
    except ValueError as error:
        raise PermanentError(ErrorCode.BAD_OPTION, f"cursor: {error}.") from error
    # As it is: FastAPI would take the models apart and put them together again.
    found = service.pages.page(page.jobs, page.cursor)
    return Response(found, media_type="application/json")


@router.get("/{job_id}", response_model=Job, responses=responses(404))
def get(service: Served, key: Reader, job_id: JobId) -> Response:
    """One job."""
    view = service.view(job_id, key)
    found = job_of(view, None if view.state.ended else service.ledger.rate(job_id))
    return Response(found.model_dump_json(), media_type="application/json")


@router.delete("/{job_id}", response_model=Job, responses=responses(404, 409))
def cancel(service: Served, key: Submitter, job_id: JobId) -> Job:
    """Cancel: within seconds nothing of the job runs or is kept but its record."""
    service.view(job_id, key)
    service.ledger.cancel(job_id, f"Cancelled by {key.owner}.")
    view = service.view(job_id, key)
    if view.state is not JobState.CANCELLED:
        raise PermanentError(ErrorCode.CONFLICT, f"The job has {view.state.value} already.")
    return job_of(view)


@router.post("/{job_id}/retry", response_model=Job, responses=responses(404, 409))
def retry(service: Served, key: Submitter, job_id: JobId) -> Job:
    """Have a job that failed or was cancelled made again, under the same id, from the same source.

    What was uploaded for a job goes when the job is cancelled: send it anew, as another job.
    """
    view = service.view(job_id, key)
    if view.state not in (JobState.FAILED, JobState.CANCELLED):
        raise PermanentError(ErrorCode.CONFLICT, _why_not_again(view.state))
    if _is_gone(service, view):
        raise PermanentError(
            ErrorCode.CONFLICT, "Its source is not kept any more; upload it as a new job."
        )
    # An admin may have it made again when the owner has no key any more: then as it was signed.
    secret = "" if view.spec.webhook is None else service.keys.webhook_secret(view.owner)
    service.ledger.submit(
        job_id, view.spec, view.owner, most_live=key.most_live, webhook_secret=secret
    )
    return job_of(service.view(job_id, key))


def _why_not_again(state: JobState) -> str:
    """Why a job in this state is not made again, and what to do."""
    if state is JobState.SUCCEEDED:
        return "The job has succeeded, and its result is there; for another one submit another job."
    return f"The job is {state.value}; wait for its end, or cancel it, before it is made again."


def _is_gone(service: Service, view: JobView) -> bool:
    """True when the job's source was uploaded and is not kept, or is about to be removed."""
    if not view.spec.source.startswith("jobs/"):
        return False
    going = view.state is JobState.CANCELLED and service.ledger.is_ending(view.job)
    return going or not service.store.exists(view.spec.source)


async def _body(request: Request) -> bytes:
    """Raises PermanentError TOO_LARGE beyond JSON_BYTES_MAX."""
    text = b""
    async for piece in request.stream():
        text += piece
        if len(text) > JSON_BYTES_MAX:
            raise PermanentError(ErrorCode.TOO_LARGE, "A job spec of more than 64 KiB is none.")
    return text


def _source_of_its_own(job: str, suffix: str) -> str:
    """Of one request out of several that may send the same job's source at the same moment: what
    one of them puts there and takes away is no other's. Below `source`, so that it is kept and
    removed like any other (`services.coordinator.plan.going`)."""
    return source_key(job, f"/{uuid.uuid4().hex[:8]}{suffix}")


def _is_wanted(service: Service, key: ApiKey, job: str) -> bool:
    """False when the job is there, so that its source is. Raises PermanentError OVER_QUOTA, rather
    than after all was sent, when it would be one too many."""
    if service.ledger.state(job) is not None:
        return False
    if key.most_live and service.ledger.count(key.owner, "live") >= key.most_live:
        raise over_quota(key.most_live)
    return True


def _spec_of_form(service: Service, form: Form) -> JobSpec:
    """The spec of an upload: what the form said, with the source it brought. Raises PermanentError
    for what can't be made."""
    try:
        given = json.loads(form.spec or "{}")
    except ValueError as error:
        raise PermanentError(ErrorCode.BAD_OPTION, f"spec: not JSON ({error}).") from error
    if not isinstance(given, dict) or "source" in given:
        raise PermanentError(
            ErrorCode.BAD_OPTION, "spec: give an object without `source`, which is the file."
        )
    spec = read_spec(json.dumps({"name": form.name, **given, "source": form.key}))
    _check(service, spec)
    return spec


def _check(service: Service, spec: JobSpec) -> None:
    """Whatever the source. Raises PermanentError."""
    settings = service.settings
    if spec.webhook is not None:
        check_webhook(spec.webhook, settings.webhook_hosts)
    check_detector(spec.detector, settings.cache_dir / "models", settings.model_folders)


def _enter_form(service: Service, key: ApiKey, job: str, form: Form) -> bool:
    """As `_enter`. What the form stored goes unless it became the job's source."""
    sent = f"{form.size}:{form.digest}"
    try:
        was_there = _enter(service, key, job, _spec_of_form(service, form), _OTHER_JOB, sent)
        if _differ(service.ledger.sent(job), sent):
            raise PermanentError(ErrorCode.CONFLICT, _OTHER_FILE)
        return was_there
    finally:
        # When Redis is away nobody knows; what belongs to no job is removed later.
        there = service.ledger.view(job) if form.stored else None
        if form.stored and (there is None or there.spec.source != form.key):
            service.store.delete(form.key)


def _differ(kept: str, sent: str) -> bool:
    """True when they are of different bytes: "SIZE:SHA256" each. What is not known of one of them,
    as of jobs that an older release entered, is not compared."""
    pairs = zip(kept.split(":"), sent.split(":"), strict=False)
    return any(one and other and one != other for one, other in pairs)


def _enter_spec(service: Service, key: ApiKey, job: str, text: bytes) -> tuple[str, bool]:
    """As `_enter`, with the job's id before it, which is the upload's if `source` is one."""
    spec = read_spec(text)
    by_upload = spec.source.startswith(REFERENCE)
    job, spec, sent = _resolve(service, key, job, spec)
    _check(service, spec)
    other = _OTHER_UPLOAD if by_upload else _OTHER_JOB
    return job, _enter(service, key, job, spec, other, sent)


def _resolve(service: Service, key: ApiKey, job: str, spec: JobSpec) -> tuple[str, JobSpec, str]:
    """Id and spec of a job whose source is a reference, and as which bytes it was sent ("": nobody
    sent it here now). Raises PermanentError."""
    if spec.source.startswith(REFERENCE):
        upload_id = spec.source.removeprefix(REFERENCE)
        there = service.ledger.view(upload_id)
        if there is not None and there.owner == key.owner:  # it is a job already
            given = {"source": there.spec.source, "name": spec.name or there.spec.name}
            return upload_id, spec.model_copy(update=given), ""
        upload = service.uploads.find(upload_id, key.owner)
        if not upload.stored:
            raise PermanentError(ErrorCode.CONFLICT, "The upload is not complete yet.")
        given = {"source": upload.key, "name": spec.name or upload.name}
        return upload.id, spec.model_copy(update=given), str(upload.stored_bytes)
    check_reference(spec.source, service.settings)
    return job, spec, ""


def _webhook_secret(service: Service, key: ApiKey, spec: JobSpec) -> str:
    """What signs the job's webhook, "" when it has none. Raises PermanentError when nothing would:
    anybody could send what comes unsigned."""
    secret = "" if spec.webhook is None else service.keys.webhook_secret(key.owner)
    if spec.webhook is not None and not secret:
        raise PermanentError(
            ErrorCode.BAD_OPTION, f"webhook: {key.owner} has no key that could sign it; add one."
        )
    return secret


def _enter(service: Service, key: ApiKey, job: str, spec: JobSpec, other: str, sent: str) -> bool:
    """Write the job into the ledger; True when it was there. Raises PermanentError CONFLICT with
    the sentence `other` when the same id stands for something else. `sent`: as `Jobs.submit`."""
    was_there = service.ledger.state(job) is not None
    if not was_there:
        secret = _webhook_secret(service, key, spec)
        service.ledger.submit(
            job, spec, key.owner, most_live=key.most_live, webhook_secret=secret, sent=sent
        )
    there = service.view(job, key)
    folder = f"{job_folder(job)}/"
    if spec.source.startswith(folder) and there.spec.source.startswith(folder):
        spec = spec.model_copy(update={"source": there.spec.source})  # sent twice
    if there.owner != key.owner or there.spec != spec:
        raise PermanentError(ErrorCode.CONFLICT, other)
    service.uploads.forget(job)
    return was_there
