"""What a call to the API may raise; subclasses where a caller would do something else.

    ApiError(code, detail, status, retry_after)
    ├── UnreachableError        nobody answered, or the connection broke too often
    ├── BusyError               429, 502, 503, 504: it may pass; `retry_after` says when
    │   └── OverQuotaError      too many live jobs: passes when one of them ends
    └── RefusedError            the request is at fault: sending it again is no use
        ├── UnauthorizedError   401: no key, or an unknown one
        ├── ForbiddenError      403: the key may not, or the source may not be fetched
        ├── NotFoundError       404: it is not there, or another's
        ├── ConflictError       409: not in this state
        └── InvalidError        400, 413, 422: options, sizes

`code` is the service's stable code (`shared.errors.ErrorCode`), `detail` its sentence for people.
Everything else (500, 507, an answer that can't be read) is an ApiError itself.

What is wrong on this side is no ApiError but a `shared.errors.PermanentError`, with the same codes:
a file that is missing, empty or changed while it was sent, a place that can't be written, what can
be no address, key, id or option (`client/api/checks.py`).
"""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from time import time

import httpx

UNREACHABLE = "unreachable"
UNREADABLE = "unreadable"
OVER_QUOTA = "over_quota"


class ApiError(Exception):
    """Base of all. `status`: HTTP, 0 where nobody answered. `retry_after`: seconds, if it said."""

    def __init__(
        self, code: str, detail: str, status: int = 0, retry_after: float | None = None
    ) -> None:
        super().__init__(code, detail, status, retry_after)
        self.code = code
        self.detail = detail
        self.status = status
        self.retry_after = retry_after

    def __str__(self) -> str:
        return self.detail


class UnreachableError(ApiError):
    """Nobody answered."""


class BusyError(ApiError):
    """It may pass by itself."""


class OverQuotaError(BusyError):
    """Too many live jobs of this owner."""


class RefusedError(ApiError):
    """The request is at fault."""


class UnauthorizedError(RefusedError):
    """No key, or an unknown one."""


class ForbiddenError(RefusedError):
    """The key may not do that."""


class NotFoundError(RefusedError):
    """It is not there, or another's."""


class ConflictError(RefusedError):
    """Not in this state."""


class InvalidError(RefusedError):
    """Options, sizes, anything about the request itself."""


_BY_STATUS: dict[int, type[ApiError]] = {
    400: InvalidError,
    401: UnauthorizedError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    413: InvalidError,
    415: InvalidError,
    416: InvalidError,
    422: InvalidError,
    429: BusyError,
    502: BusyError,
    503: BusyError,
    504: BusyError,
}


def error_of(response: httpx.Response) -> ApiError:
    """The error that a response, read to its end, stands for."""
    code, detail = _problem(response)
    kind = OverQuotaError if code == OVER_QUOTA else _BY_STATUS.get(response.status_code, ApiError)
    return kind(code, detail, response.status_code, retry_after(response.headers))


def unreachable(url: httpx.URL | str, error: httpx.RequestError) -> UnreachableError:
    """The error for a connection that failed."""
    reason = str(error) or type(error).__name__
    made = UnreachableError(UNREACHABLE, f"No answer from {_place(httpx.URL(url))} ({reason}).")
    made.__cause__ = error
    return made


def elsewhere(response: httpx.Response) -> ApiError:
    """The error for an answer that leads on to another address, to which no key is sent."""
    to = httpx.URL() if response.next_request is None else response.next_request.url
    return ApiError(
        UNREADABLE,
        f"{_place(response.url)} leads on to {_place(to)}{to.path}, which is not followed: give "
        "the service's own address (DUALFACE_API_URL).",
        response.status_code,
    )


def _place(url: httpx.URL) -> str:
    """Scheme, host and port: what stands before or behind them may be a secret."""
    return f"{url.scheme}://{url.netloc.decode('ascii', 'replace').rpartition('@')[2]}"


def unreadable(what: str) -> ApiError:
    """The error for an answer that is no answer of this API."""
    return ApiError(
        UNREADABLE, f"The service answered something that this client can't read ({what})."
    )


def retry_after(headers: httpx.Headers) -> float | None:
    """Seconds from now, of either form of Retry-After (RFC 9110 section 10.2.3)."""
    text = headers.get("retry-after", "").strip()
    if text.isdecimal() and len(text) < 10:
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time())
    except (ValueError, OverflowError):
        return None


def _problem(response: httpx.Response) -> tuple[str, str]:
    """Code and sentence; a proxy in between answers no problem document."""
    try:
        found = response.json()
    except ValueError:
        found = None
    if isinstance(found, dict) and "code" in found and "detail" in found:
        return str(found["code"]), str(found["detail"])
    host = response.url.host
    return f"http_{response.status_code}", f"{host} answered {response.status_code}."
