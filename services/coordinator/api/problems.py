"""Errors as problem documents (RFC 9457), with the codes that everything else uses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.routing import Route

from shared.errors import DualfaceError, ErrorCode, RedisAwayError, TemporaryError
from shared.logs import Log
from shared.metrics import Meter
from shared.metrics.catalogue import REDIS_ERRORS
from shared.redisdb import RedisError, explained, may_pass

MEDIA_TYPE = "application/problem+json"

NOWHERE = "There is nothing at this path; /v1/openapi.json lists what there is."
OTHER_METHODS = "This path has no such method; `Allow` names those it has."

SHAPES = {
    "job_id": "an id has letters, digits, `-` and `_`, at most 64 of them",
    "upload_id": "the id of an upload has 32 of the digits 0-9 and a-f",
    "name": "a thumbnail is called like 000000-000000.jpg",
    "cursor": "give `next` of a page as it is",
    "Last-Event-ID": "give the `id` of an event as it is",
}
"""In words, by parameter, what a pattern asks for."""

STATUS = {
    ErrorCode.BAD_OPTION: 422,
    ErrorCode.NOT_FOUND: 404,
    ErrorCode.UNAUTHORIZED: 401,
    ErrorCode.FORBIDDEN: 403,
    ErrorCode.CONFLICT: 409,
    ErrorCode.OVER_QUOTA: 429,
    ErrorCode.TOO_MANY_REQUESTS: 429,
    ErrorCode.TOO_LARGE: 413,
    ErrorCode.SOURCE_FORBIDDEN: 403,
    ErrorCode.SOURCE_MISSING: 404,
    ErrorCode.NO_SPACE: 507,
    ErrorCode.BUSY: 503,
}
"""HTTP status of a code; a code that is not here is 500, or 503 when it may pass."""

TITLES = {
    400: "Not understood",
    401: "No valid key",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    406: "Not acceptable",
    408: "Too slow",
    409: "Conflict",
    411: "Length missing",
    413: "Too large",
    415: "Wrong kind of content",
    416: "No such range",
    422: "Not valid",
    429: "Too many",
    500: "Internal error",
    503: "Not available now",
    507: "No space",
}


class Problem(BaseModel):
    """RFC 9457. `code` is stable and meant for programs, `detail` a sentence for people."""

    type: str = Field(description="urn:dualface:problem:CODE")
    title: str
    status: int
    code: str
    detail: str
    errors: list[dict[str, str]] | None = Field(
        default=None, description="which fields are wrong: `field`, `reason`"
    )


Responses = dict[int | str, dict[str, Any]]
"""Of a route, for the OpenAPI document."""


def responses(*statuses: int) -> Responses:
    """For the OpenAPI document of a route: problems it may answer with."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": TITLES[status], "content": content} for status in statuses}


def methods_of(app: FastAPI, path: str) -> set[str]:
    """The methods that a path is served with."""
    found: set[str] = set()
    waiting = list(app.routes)
    while waiting:
        route = waiting.pop()
        waiting += getattr(getattr(route, "original_router", None), "routes", ())
        if isinstance(route, Route) and route.path_regex.match(path):
            found |= route.methods or set()
    return found


EVERYWHERE = (400, 401, 403, 422, 429, 500, 503)
"""What any route with a key may answer."""


def answer(
    status: int,
    code: str,
    detail: str,
    errors: list[dict[str, str]] | None = None,
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    """A problem as a response."""
    problem = Problem(
        type=f"urn:dualface:problem:{code}",
        title=TITLES.get(status, "Error"),
        status=status,
        code=code,
        detail=detail,
        errors=errors,
    )
    return JSONResponse(
        problem.model_dump(exclude_none=True),
        status_code=status,
        media_type=MEDIA_TYPE,
        headers=headers,
    )


def _wrong(each: Mapping[str, Any]) -> dict[str, str]:
    """Which field, and why: of one of the errors that FastAPI found."""
    where, kind = [str(part) for part in each["loc"]], each["type"]
    reason = str(each["msg"])
    if kind == "string_pattern_mismatch":
        reason = SHAPES.get(where[-1], "it has not the form that /v1/openapi.json shows")
    elif kind == "json_invalid":
        where, reason = where[:1], f"it is no JSON ({each['ctx']['error']})"
    return {"field": ".".join(where), "reason": reason}


def of_error(error: DualfaceError) -> JSONResponse:
    """The problem for one of our own errors."""
    temporary = isinstance(error, TemporaryError)
    status = STATUS.get(error.code, 503 if temporary else 500)
    headers = {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if temporary or status == 429:
        seconds = error.delay_s if isinstance(error, TemporaryError) else 5.0
        headers["Retry-After"] = str(max(1, round(seconds)))
    return answer(status, error.code.value, error.message, headers=headers)


def add_handlers(app: FastAPI, log: Log, meter: Meter) -> None:
    """Every error of a route becomes a problem; no traceback reaches a client. Those of Redis are
    counted."""

    @app.exception_handler(DualfaceError)
    def _ours(_: Request, error: DualfaceError) -> JSONResponse:
        if isinstance(error, RedisAwayError):
            meter.count(REDIS_ERRORS, stage="api")
        return of_error(error)

    @app.exception_handler(RedisError)
    def _redis(request: Request, error: RedisError) -> JSONResponse:
        if not may_pass(error):
            return _unexpected(request, error)
        meter.count(REDIS_ERRORS, stage="api")
        return of_error(explained(error))

    @app.exception_handler(RequestValidationError)
    def _invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        found = [_wrong(each) for each in error.errors()[:20]]
        first = found[0] if found else {"field": "request", "reason": "not valid"}
        name = first["field"].split(".", 1)[-1]  # where it was is for programs
        return answer(422, ErrorCode.BAD_OPTION.value, f"{name}: {first['reason']}.", found)

    @app.exception_handler(HTTPException)
    def _http(request: Request, error: HTTPException) -> JSONResponse:
        headers = dict(error.headers or {})
        if error.status_code == 405:
            # Starlette names those of one route; a path may have several.
            headers["Allow"] = ", ".join(sorted(methods_of(app, request.scope["path"])))
        code, detail = {
            404: ("not_found", NOWHERE),
            405: ("method_not_allowed", OTHER_METHODS),
        }.get(error.status_code, ("bad_request", f"{error.detail.removesuffix('.')}."))
        return answer(error.status_code, code, detail, headers=headers)

    @app.exception_handler(Exception)
    def _unexpected(request: Request, error: Exception) -> JSONResponse:
        log.exception("unexpected error", error, method=request.method, path=request.url.path)
        detail = f"An error of the service's own ({type(error).__name__}); its log says more."
        return answer(500, ErrorCode.INTERNAL.value, detail)
