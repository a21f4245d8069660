"""Who asks, and whether they may: API keys, browser sessions, rates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyCookie, HTTPAuthorizationCredentials, HTTPBearer
from limits import RateLimitItemPerMinute
from limits.storage import RedisStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from starlette.concurrency import run_in_threadpool

from services.coordinator.api.service import Served, Service
from shared.errors import ErrorCode, PermanentError
from shared.health.vitals import REDIS_FRESH_S
from shared.keys import ApiKey, Role

COOKIE = "dualface_session"
FAILED_PER_MINUTE = 60
"""Wrong keys from one address: nobody mistypes so often, and guessing is hopeless anyway."""

SCRAPERS_MAX = 32
"""Keys that are remembered to have asked for figures."""

NO_KEY = "Give an API key as `Authorization: Bearer df_...`; `dualface keys add` makes one."
WRONG_KEY = "This API key is unknown or was revoked; `dualface keys add` makes another."
WRONG_SESSION = "This session has ended, or its key was revoked; sign in again."

_bearer = HTTPBearer(auto_error=False, description="An API key: `Authorization: Bearer df_…`")
_cookie = APIKeyCookie(name=COOKIE, auto_error=False, description="A browser's session.")


class Rates:
    """Sliding one-minute windows in Redis, shared by all API processes."""

    def __init__(self, redis_url: str) -> None:
        storage = RedisStorage(redis_url, key_prefix="df:rate", socket_timeout=5)
        self._limiter = SlidingWindowCounterRateLimiter(storage)

    def take(self, what: str, per_minute: int) -> bool:
        """Count one; False when it was one too many."""
        return bool(self._limiter.hit(RateLimitItemPerMinute(per_minute), what))


def key_of(
    request: Request,
    service: Served,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)] = None,
    session: Annotated[str | None, Security(_cookie)] = None,
) -> ApiKey:
    """The key of a request. Raises PermanentError UNAUTHORIZED, FORBIDDEN, TOO_MANY_REQUESTS."""
    wrong = NO_KEY if session is None else WRONG_SESSION
    return checked(
        request,
        lambda: _find(service, request, bearer, session),
        wrong if bearer is None else WRONG_KEY,
    )


def checked(request: Request, find: Callable[[], ApiKey | None], wrong: str) -> ApiKey:
    """What `find` finds, counted: neither may a key be used too often, nor may keys be guessed.

    `wrong`: what is said where it finds none.
    """
    rates: Rates = request.app.state.rates
    key = find()
    if key is None:
        address = request.client.host if request.client else "-"
        if not rates.take(f"failed:{address}", FAILED_PER_MINUTE):
            raise _too_many("Too many wrong keys from your address; try again in a minute.")
        raise PermanentError(ErrorCode.UNAUTHORIZED, wrong)
    if not rates.take(f"key:{key.id}", key.per_minute):
        raise _too_many(f"More than {key.per_minute} requests a minute, the limit of this key.")
    return key


def _find(
    service: Service,
    request: Request,
    bearer: HTTPAuthorizationCredentials | None,
    session: str | None,
) -> ApiKey | None:
    if bearer is not None:
        return service.keys.find(bearer.credentials)
    if session is None:
        return None
    if request.method not in ("GET", "HEAD"):
        _check_origin(request)
    return service.keys.of_session(session)


def _check_origin(request: Request) -> None:
    """A cookie goes along with whatever a browser is made to send; only our own page may write.

    Beside SameSite=Strict, for browsers that don't know it.
    """
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise PermanentError(ErrorCode.FORBIDDEN, "Another site's page may not do that.")


def _too_many(sentence: str) -> PermanentError:
    return PermanentError(ErrorCode.TOO_MANY_REQUESTS, sentence)


class _Needs:
    """A dependency: the request's key, if it has the role."""

    def __init__(self, role: Role) -> None:
        self._role = role

    def __call__(self, key: Annotated[ApiKey, Depends(key_of)]) -> ApiKey:
        if not key.allows(self._role):
            raise PermanentError(
                ErrorCode.FORBIDDEN, f"This key has not the role `{self._role.value}`."
            )
        return key


AnyKey = Annotated[ApiKey, Depends(key_of)]
Reader = Annotated[ApiKey, Depends(_Needs(Role.READ))]
Submitter = Annotated[ApiKey, Depends(_Needs(Role.SUBMIT))]
Admin = Annotated[ApiKey, Depends(_Needs(Role.ADMIN))]


async def _scraper(
    request: Request,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)] = None,
    session: Annotated[str | None, Security(_cookie)] = None,
) -> ApiKey:
    """As any key with the role; and while Redis is silent one that had it before. Without a thread
    then: they may all be waiting for Redis."""
    service: Service = request.app.state.service
    secret = "" if bearer is None else bearer.credentials
    known = service.scrapers.get(secret)
    if known is not None and service.watch.sight().silent_s > REDIS_FRESH_S:
        return known
    try:
        key = await run_in_threadpool(key_of, request, service, bearer, session)
        _METRICS(key)
    except PermanentError as error:
        if error.code in (ErrorCode.UNAUTHORIZED, ErrorCode.FORBIDDEN):
            service.scrapers.pop(secret, None)
        raise
    if secret:
        if len(service.scrapers) >= SCRAPERS_MAX:
            service.scrapers.clear()
        service.scrapers[secret] = key
    return key


_METRICS = _Needs(Role.METRICS)
Scraper = Annotated[ApiKey, Depends(_scraper)]
