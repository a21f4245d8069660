"""The page at `/`: a few static files, no build step; and its way to sign out."""

from __future__ import annotations

from importlib import resources
from typing import Annotated

from fastapi import APIRouter, Cookie, Response

from services.coordinator.api.access import COOKIE
from services.coordinator.api.service import Served
from shared.errors import ErrorCode, PermanentError

router = APIRouter()

_STYLES = ("style", "home", "job")
_MODULES = (
    *("actions", "api", "app", "connection", "dom", "events", "job", "list", "options", "player"),
    *("report", "uploads", "words"),
)

TYPES = {
    "index.html": "text/html; charset=utf-8",
    "icon.svg": "image/svg+xml",
    **{f"{style}.css": "text/css; charset=utf-8" for style in _STYLES},
    **{f"{module}.js": "text/javascript; charset=utf-8" for module in _MODULES},
}


@router.head("/", include_in_schema=False)
@router.get("/", include_in_schema=False)
def index() -> Response:
    """The page."""
    return _file("index.html")


@router.head("/page/{name}", include_in_schema=False)
@router.get("/page/{name}", include_in_schema=False)
def part(name: str) -> Response:
    """What it is made of."""
    return _file(name)


@router.delete("/v1/session", status_code=204, tags=["system"])
def end_session(
    service: Served, session: Annotated[str | None, Cookie(alias=COOKIE)] = None
) -> Response:
    """For browsers: sign out. Needs no key, since whoever sends the cookie may do without it."""
    if session is not None:
        service.keys.end_session(session)
    answer = Response(status_code=204)
    answer.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
    return answer


def _file(name: str) -> Response:
    if name not in TYPES:
        raise PermanentError(ErrorCode.NOT_FOUND, "There is no such page.")
    body = resources.files("services.coordinator.api").joinpath("static", name).read_bytes()
    return Response(body, media_type=TYPES[name], headers={"Cache-Control": "no-cache"})
