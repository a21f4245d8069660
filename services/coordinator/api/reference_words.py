"""What the reference page says beside the OpenAPI document: roles, examples, fields, problems."""

from __future__ import annotations

from typing import NamedTuple

from services.coordinator.api.problems import STATUS
from shared.errors import ErrorCode
from shared.keys import Role

ROLES: dict[str, Role | None] = {
    "POST /v1/jobs": Role.SUBMIT,
    "GET /v1/jobs": Role.READ,
    "GET /v1/jobs/{job_id}": Role.READ,
    "DELETE /v1/jobs/{job_id}": Role.SUBMIT,
    "POST /v1/jobs/{job_id}/retry": Role.SUBMIT,
    "GET /v1/jobs/{job_id}/events": Role.READ,
    "GET /v1/jobs/{job_id}/result": Role.READ,
    "GET /v1/jobs/{job_id}/report": Role.READ,
    "GET /v1/jobs/{job_id}/tracks": Role.READ,
    "GET /v1/jobs/{job_id}/thumbnails": Role.READ,
    "GET /v1/jobs/{job_id}/thumbnails/{name}": Role.READ,
    "POST /v1/uploads": Role.SUBMIT,
    "PUT /v1/uploads/{upload_id}/content": Role.SUBMIT,
    "POST /v1/uploads/{upload_id}/complete": Role.SUBMIT,
    "DELETE /v1/uploads/{upload_id}": Role.SUBMIT,
    "GET /v1/system": Role.ADMIN,
    "GET /v1/session": None,
    "GET /metrics": Role.METRICS,
}
"""By route, for those that need a key; None: any key will do."""

EXAMPLES = {
    "POST /v1/jobs": """
curl -H "$AUTH" -F file=@talk.mp4 "$API/v1/jobs"

curl -H "$AUTH" -F 'spec={"crf": 20, "layout": "stacked"}' -F file=@talk.mp4 "$API/v1/jobs"

curl -H "$AUTH" -H "Content-Type: application/json" -H "Idempotency-Key: talk-1" \\
  -d '{"source": "https://videos.example.com/talk.mp4", "name": "talk.mp4"}' "$API/v1/jobs"
""",
    "GET /v1/jobs": """
curl -H "$AUTH" "$API/v1/jobs?live=true&limit=20"
""",
    "GET /v1/jobs/{job_id}": """
curl -H "$AUTH" "$API/v1/jobs/$JOB"
""",
    "DELETE /v1/jobs/{job_id}": """
curl -H "$AUTH" -X DELETE "$API/v1/jobs/$JOB"
""",
    "POST /v1/jobs/{job_id}/retry": """
curl -H "$AUTH" -X POST -d "" "$API/v1/jobs/$JOB/retry"
""",
    "GET /v1/jobs/{job_id}/events": """
curl -N -H "$AUTH" "$API/v1/jobs/$JOB/events"

curl -N -H "$AUTH" -H "Last-Event-ID: 0-0" "$API/v1/jobs/$JOB/events"
""",
    "GET /v1/jobs/{job_id}/result": """
curl -L -H "$AUTH" -o talk-split.mp4 "$API/v1/jobs/$JOB/result"

curl -H "$AUTH" -r 0-1023 -o head.mp4 "$API/v1/jobs/$JOB/result?redirect=false"

curl -I -H "$AUTH" "$API/v1/jobs/$JOB/result?redirect=false"
""",
    "GET /v1/jobs/{job_id}/report": """
curl -H "$AUTH" "$API/v1/jobs/$JOB/report"
""",
    "GET /v1/jobs/{job_id}/tracks": """
curl -H "$AUTH" "$API/v1/jobs/$JOB/tracks" | gunzip > tracks.jsonl
""",
    "GET /v1/jobs/{job_id}/thumbnails": """
curl -H "$AUTH" "$API/v1/jobs/$JOB/thumbnails"
""",
    "GET /v1/jobs/{job_id}/thumbnails/{name}": """
curl -H "$AUTH" -o first.jpg "$API/v1/jobs/$JOB/thumbnails/000000-000000.jpg"
""",
    "POST /v1/uploads": """
curl -H "$AUTH" -H "Content-Type: application/json" -d '{"name": "talk.mp4"}' "$API/v1/uploads"
""",
    "PUT /v1/uploads/{upload_id}/content": """
curl -H "$AUTH" -T talk.mp4 "$API/v1/uploads/$UPLOAD/content"
""",
    "POST /v1/uploads/{upload_id}/complete": """
curl -H "$AUTH" -H "Content-Type: application/json" \\
  -d '{"parts": [{"number": 1, "etag": "'"$ETAG"'"}]}' "$API/v1/uploads/$UPLOAD/complete"
""",
    "DELETE /v1/uploads/{upload_id}": """
curl -H "$AUTH" -X DELETE "$API/v1/uploads/$UPLOAD"
""",
    "GET /v1/system": """
curl -H "$AUTH" "$API/v1/system"
""",
    "GET /healthz": """
curl "$API/healthz"
""",
    "GET /readyz": """
curl "$API/readyz"
""",
    "POST /v1/session": """
curl -c cookies -H "Content-Type: application/json" \\
  -d '{"key": "'"$DUALFACE_API_KEY"'"}' "$API/v1/session"
""",
    "GET /v1/session": """
curl -b cookies "$API/v1/session"
""",
    "DELETE /v1/session": """
curl -b cookies -X DELETE "$API/v1/session"
""",
    "GET /metrics": """
curl -H "$AUTH" "$API/metrics"
""",
}
"""By route, commands of a shell; the page's head says what the variables are."""

FIELDS = {
    "Body_begin_session_v1_session_post.key": "an API key",
    "Failure.code": "see [problems](#problems)",
    "Failure.message": "a sentence for people: what is wrong and what to do",
    "Health.status": "`ok` or `not ready`",
    "Health.reasons": "what does not answer, a sentence each",
    "Job.id": "also the id of a Celery task",
    "Job.owner": 'whose key submitted it; "" for a Celery client\'s',
    "Job.state": "see [states](concepts.md#states-of-a-job)",
    "Job.name": "of the spec",
    "Job.spec": "as submitted, with what was left out filled in; an upload's `source` is its key "
    "in the store",
    "Job.progress": "how far it is",
    "Job.engines": "by stage, what did the work",
    "Job.submitted_at": "when it was entered, or last repeated",
    "Job.started_at": "when a worker first took it up; null before",
    "Job.ended_at": "null while it is live",
    "Job.error": "why it failed or was cancelled; null otherwise",
    "Job.result": "what came of it; null until it succeeded",
    "Job.links": "paths to `self`, `events`, `thumbnails`; of a job that succeeded also to "
    "`result`, `report`, `tracks`",
    "JobPage.jobs": "newest first",
    "JobPage.next": "goes into `cursor`; null on the last page",
    "JobResult.key": "of the video in the store",
    "JobResult.frames": "in the result",
    "JobResult.frames_lost": "of the source, that could not be decoded",
    "JobResult.times_repaired": "frames whose time was missing or wrong",
    "JobResult.frames_dropped": "by `fps_limit`, as asked for",
    "JobResult.frames_concealed": "shown with damage that the decoder covered up",
    "JobResult.frames_replaced": "that no engine could make, so they show the one before and fade "
    "into the next; the report says where",
    "JobResult.people": "places that somebody was seen in: 0, 1 or 2",
    "JobResult.sounds_copied": "sound tracks that are the source's own packets",
    "JobResult.sounds_encoded": "sound tracks that had to become AAC",
    "JobResult.warnings": "sentences for people",
    "JobSpec.source": "`https://HOST/...` (of an allowed host), `s3://BUCKET/KEY` (of an allowed "
    "bucket) or `upload:ID`",
    "JobSpec.container": "format of the result; `mov` can't hold AV1",
    "JobSpec.layout": "where the two tiles lie",
    "JobSpec.size": "width and height of the result in px, even, 64 to 8192; null: the source's, "
    "up to 1920x1080",
    "JobSpec.codec": "of the result's picture",
    "JobSpec.crf": "quality of the picture on x264's scale: lower is better and larger; AV1 gets "
    "what looks alike on its own",
    "JobSpec.preset": "of x264 and x265, `ultrafast` to `placebo`: slower is smaller; AV1 gets its "
    "own that takes about as long",
    "JobSpec.detector": "detection model; `dualface models list` shows them",
    "JobSpec.fps_limit": "frames beyond that many a second are dropped; null: none",
    "JobSpec.priority": "higher comes sooner: p weighs p + 1, nobody starves",
    "GpuOut.host": "boot id of the machine, or DUALFACE_HOST",
    "GpuOut.uuid": "as `nvidia-smi -L` has it",
    "GpuOut.name": "model",
    "GpuOut.memory_total_bytes": "that it has",
    "LimitOut.thing": "pool of slots, or sessions",
    "LimitOut.used": "units",
    "LimitOut.capacity": "units",
    "LimitOut.waiting": "who wait for one",
    "Progress.frames": "encoded so far",
    "Progress.expected": "of the whole video; 0: not known yet",
    "Progress.share": "of the expected frames; 1 when the job succeeded",
    "Progress.seconds_left": "at that rate; null while unknown",
    "QueueOut.queue": "its name: stage and arena",
    "QueueOut.messages": "that nobody has taken up yet",
    "Session.owner": "whose key it is",
    "Session.roles": "what it allows",
    "Stored.id": "of the upload",
    "Stored.source": "`upload:ID`, for a job's `source`",
    "Stored.size_bytes": "as stored",
    "System.version": "of the service",
    "System.workers": "that gave a sign of life lately",
    "System.limits": "limited things and who has them",
    "System.queues": "between the stages",
    "System.dead_letters": "messages that no worker could read",
    "System.gpus": "of all hosts, as their drivers tell every five seconds",
    "Thumbnail.name": "sorts in the order of display",
    "Thumbnail.url": "path of the picture",
    "Thumbnails.thumbnails": "all there are so far",
    "UploadLinks.id": "of the upload; its job gets the same",
    "UploadLinks.content": "path to PUT the bytes to",
    "UploadLinks.part_bytes": "size of each part but the last; null if not direct",
    "UploadLinks.parts": "a link to PUT to for each part, good for 12 h; null if not direct",
    "UploadRequest.name": "of the file",
    "UploadRequest.size_bytes": "of the file; needed for `direct`. 0: not said",
    "UploadedPart.number": "from 1, in the order of `parts`",
    "UploadedPart.etag": "as the PUT of that part answered, quotes may stay",
    "UploadedParts.parts": "every part, in any order",
    "WorkerOut.id": "its name",
    "WorkerOut.stage": "what it does",
    "WorkerOut.arena": "which slab of frames it works on",
    "Problem.title": "of the status",
    "Problem.status": "as the answer's",
    "Problem.code": "see [problems](#problems)",
    "Problem.detail": "a sentence for people: what is wrong and what to do",
    "JobEvent.state": "of the job; absent in a warning",
    "JobEvent.frames": "encoded so far",
    "JobEvent.expected": "0: not known yet",
    "JobEvent.warning": "a sentence for people",
    "JobEvent.at": "when it happened",
}
"""Of fields that their models leave to their names, or explain to us rather than to clients."""


class Meaning(NamedTuple):
    """Of a code. `status`: of answers that have it; `ends`: jobs may end with it."""

    status: int | None
    ends: bool
    what: str
    do: str


def _job(what: str, do: str) -> Meaning:
    return Meaning(None, True, what, do)


def _both(code: ErrorCode, what: str, do: str) -> Meaning:
    return Meaning(STATUS.get(code, 500), True, what, do)


def _answer(code: ErrorCode, what: str, do: str) -> Meaning:
    return Meaning(STATUS[code], False, what, do)


_TELL = "tell the operator; the log says more"
_OTHER = "send another file, or convert this one to H.264 in MP4"

MEANINGS = {
    ErrorCode.SOURCE_MISSING: _both(
        ErrorCode.SOURCE_MISSING, "there is no such source, or not any more", "check its address"
    ),
    ErrorCode.SOURCE_CHANGED: _job("the source changed while it was read", "submit it again"),
    ErrorCode.SOURCE_UNREADABLE: _job(
        "the source can't be read, or reading it takes too long", "check the file where it lies"
    ),
    ErrorCode.SOURCE_EMPTY: _job("the source has no bytes or no frames", "send it again"),
    ErrorCode.SOURCE_FORBIDDEN: _both(
        ErrorCode.SOURCE_FORBIDDEN,
        "sources may not come from there, or its server refuses",
        "upload the file, or have the operator allow the host "
        "([rules](security.md#sources-elsewhere))",
    ),
    ErrorCode.SOURCE_UNREACHABLE: _job(
        "its server does not answer, or too slowly, after several tries", "retry the job later"
    ),
    ErrorCode.NOT_A_VIDEO: _job("the file is in no known video format", _OTHER),
    ErrorCode.NO_VIDEO_STREAM: _job("there is sound and no picture", "send a video"),
    ErrorCode.UNSUPPORTED_CODEC: _job("there is no decoder for the picture", _OTHER),
    ErrorCode.ENCRYPTED: _job("the video is encrypted (DRM)", "send it without"),
    ErrorCode.TOO_LARGE: _both(
        ErrorCode.TOO_LARGE,
        "more bytes, pixels, frames or seconds than are allowed",
        "the sentence names the [limit](security.md#limits-of-a-source)",
    ),
    ErrorCode.TOO_DAMAGED: _job("next to nothing can be decoded", "send another copy"),
    ErrorCode.OUTPUT_UNWRITABLE: _job("the result can't hold the source's times", _OTHER),
    ErrorCode.BAD_OPTION: _both(
        ErrorCode.BAD_OPTION,
        "a field, parameter or body is wrong",
        "mend what `errors` or the sentence names; repeating is no use",
    ),
    ErrorCode.NO_SPACE: _both(
        ErrorCode.NO_SPACE, "a disk of the service is full", "the operator makes space; then repeat"
    ),
    ErrorCode.OUT_OF_MEMORY: _job("no engine has memory enough for it", "a smaller `size`"),
    ErrorCode.MODEL_MISSING: _job("the detection model is not there", "check `detector`"),
    ErrorCode.MODEL_DAMAGED: _job("the detection model's file is damaged", _TELL),
    ErrorCode.STALE: Meaning(None, False, "inside the service only", "nothing"),
    ErrorCode.BUSY: Meaning(
        503, False, "not just now: Redis, store or a limit", "repeat after `Retry-After`"
    ),
    ErrorCode.STAGE_FAILED: _job("a piece of work failed at every try", "retry the job once"),
    ErrorCode.FRAMES_FAILED: _job(
        "more frames than allowed could not be made; the sentence says where", "check the source"
    ),
    ErrorCode.CHECK_FAILED: _job("the result did not pass its check and was not kept", _TELL),
    ErrorCode.CANCELLED: _job(
        "somebody cancelled it",
        "if that was a mistake: retry it if its source is an address, else send it anew",
    ),
    ErrorCode.NOT_FOUND: _answer(
        ErrorCode.NOT_FOUND, "not there, not kept any more, or another owner's", "check the id"
    ),
    ErrorCode.UNAUTHORIZED: _answer(
        ErrorCode.UNAUTHORIZED, "no key, or one that is unknown or revoked", "give a valid key"
    ),
    ErrorCode.FORBIDDEN: _answer(
        ErrorCode.FORBIDDEN,
        "the key has not the role; or a webhook may not go there",
        "use a key with that role; another `webhook`",
    ),
    ErrorCode.CONFLICT: _answer(
        ErrorCode.CONFLICT,
        "the job or upload is not in a state for that, or the Idempotency-Key or upload means "
        "another job or file",
        "look at the job; the sentence says which",
    ),
    ErrorCode.OVER_QUOTA: _answer(
        ErrorCode.OVER_QUOTA,
        "the owner has as many live jobs, or uploads without a job, as allowed",
        "wait for one to end; submit or drop uploads",
    ),
    ErrorCode.TOO_MANY_REQUESTS: _answer(
        ErrorCode.TOO_MANY_REQUESTS,
        "more requests a minute than the key has, or too many wrong keys",
        "repeat after `Retry-After`",
    ),
    ErrorCode.STORE_REFUSED: Meaning(500, False, "the object store says no", _TELL),
    ErrorCode.STACK_FAILED: Meaning(
        None, False, "of the `dualface` command: no service to be found", "start one, or name it"
    ),
    ErrorCode.INTERNAL: Meaning(500, True, "a mistake of the service's own", _TELL),
}
"""Of every code of ours."""

HTTP_MEANINGS = {
    "bad_request": Meaning(
        400, False, "the body can't be read, or is a part where the whole is wanted", "mend it"
    ),
    "method_not_allowed": Meaning(405, False, "the path has other methods", "see `Allow`"),
    "length_required": Meaning(411, False, "the length of the body is not said", "say it"),
    "range_not_satisfiable": Meaning(
        416, False, "there is nothing in the range", "see `Content-Range` for how much there is"
    ),
}
"""Of what is wrong with a request as such."""
