"""The Python client of the REST API: `Client`, and `AsyncClient` with the same surface.

    with Client() as client:                        # DUALFACE_API_URL and _KEY, or the local stack
        job = client.submit(Path("talk.mp4"), crf=20)
        if client.wait(job).state is JobState.SUCCEEDED:
            client.result(job, Path("talk-split.mp4"))

What goes over the wire, when something is sent again and what an answer means is written once, as
flows (`flows.py`): generators that yield a step and are given its outcome. The two clients only
carry steps out, by blocking or by awaiting.

What the service says comes as an `ApiError`; what is wrong on this side (a file, a place for one,
no service to be found, what can be no id or key) as a `PermanentError`; `wait(timeout=)`
raises TimeoutError.
"""

from client.api.address import Address, find_address
from client.api.aio import AsyncClient
from client.api.bodies import Stamp
from client.api.errors import (
    ApiError,
    BusyError,
    ConflictError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    OverQuotaError,
    RefusedError,
    UnauthorizedError,
    UnreachableError,
)
from client.api.flows import JobOptions
from client.api.patience import Patience
from client.api.stream import Told
from client.api.sync import Client
from shared.errors import ErrorCode, PermanentError
from shared.jobs import JobState
from shared.rest import Job, JobEvent, Session, Stored, System, Thumbnail

__all__ = [
    "Address",
    "ApiError",
    "AsyncClient",
    "BusyError",
    "Client",
    "ConflictError",
    "ErrorCode",
    "ForbiddenError",
    "InvalidError",
    "Job",
    "JobEvent",
    "JobOptions",
    "JobState",
    "NotFoundError",
    "OverQuotaError",
    "Patience",
    "PermanentError",
    "RefusedError",
    "Session",
    "Stamp",
    "Stored",
    "System",
    "Thumbnail",
    "Told",
    "UnauthorizedError",
    "UnreachableError",
    "find_address",
]
