"""Puts the routes together: one FastAPI app per process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from services.coordinator.api import events, jobs, page, results, system, uploads
from services.coordinator.api.access import Rates
from services.coordinator.api.bell import Bell
from services.coordinator.api.pages import Pages
from services.coordinator.api.problems import NOWHERE, Problem, add_handlers, answer, responses
from services.coordinator.api.service import Service
from shared.arena.registry import ArenaRegistry
from shared.errors import ErrorCode
from shared.health.vitals import watch_redis
from shared.jobs import JobSpec
from shared.keys import Keys
from shared.leases import Leases
from shared.ledger import Ledger
from shared.logs import Log
from shared.metrics import Meter
from shared.metrics.store import metered
from shared.redisdb import connect
from shared.settings import Settings, SourceLimits
from shared.storage import open_store
from shared.uploads import Uploads

STORE_PATIENCE_S = 5.0
"""A request waits no longer for a store that is away; its client may come again."""

BODY_BYTES_MAX = 1 << 20
"""Of requests that bring no source."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"x-frame-options": b"DENY",
    b"content-security-policy": b"default-src 'self'; img-src 'self' blob: data:; "
    b"media-src 'self' blob: https: http:; connect-src 'self'; base-uri 'none'; "
    b"form-action 'self'; frame-ancestors 'none'",
}


def make_service(settings: Settings, meter: Meter | None = None) -> Service:
    """Wire what the routes work with; does no I/O but for opening the store."""
    redis, meter = connect(settings.redis_url), meter or Meter("api")
    log = Log(stage="api")
    ledger = Ledger(redis, settings.retention_s, settings.attempts)
    return Service(
        settings=settings,
        limits=SourceLimits.load(),
        redis=redis,
        ledger=ledger,
        pages=Pages(ledger),
        leases=Leases(redis, settings.lease_s),
        arenas=ArenaRegistry(redis),
        store=metered(open_store(settings, patience_s=STORE_PATIENCE_S), meter),
        keys=Keys(redis),
        uploads=Uploads(redis),
        bell=Bell(settings.redis_url, log),
        watch=watch_redis(settings, meter),
        meter=meter,
        log=log,
    )


def make_app(service: Service) -> FastAPI:
    """The app on `service`."""

    @asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        service.watch.start()
        service.bell.start()
        try:
            yield
        finally:
            service.watch.close()
            await service.bell.stop()

    app = FastAPI(
        title="dualface",
        version=version("dualface"),
        summary="Videos of two people become steady split-screen videos.",
        description="Errors are problem documents (RFC 9457) whose `code` is stable.",
        lifespan=running,
        docs_url=None,
        redoc_url=None,
        openapi_url="/v1/openapi.json",
        # `/v1/jobs/` without an id is no list; and behind a proxy the redirect would be to http.
        redirect_slashes=False,
    )
    app.state.service = service
    app.state.rates = Rates(service.settings.redis_url)
    for part in (jobs, events, results, uploads, system, page):
        app.include_router(part.router)
    add_handlers(app, service.log, service.meter)
    app.add_middleware(Guarded)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


class Guarded:
    """Security headers on every answer, a limit on bodies that nobody streams, and no path whose
    parts hold a slash."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def sent(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                given = list(message.get("headers", ()))
                names = {name.lower() for name, _ in given}
                more = [(name, value) for name, value in HEADERS.items() if name not in names]
                message = {**message, "headers": [*given, *more]}
            await send(message)

        if b"%2f" in (scope.get("raw_path") or b"").lower():
            # Routes are found by the decoded path: a part of one would pass for several.
            problem = answer(404, ErrorCode.NOT_FOUND.value, NOWHERE)
            await problem(scope, receive, sent)
            return
        headers = dict(scope.get("headers", ()))
        length = headers.get(b"content-length", b"0")
        streamed = scope["method"] == "POST" and scope["path"] == "/v1/jobs"
        streamed = streamed or scope["path"].endswith("/content")
        brings_body = scope["method"] in ("POST", "PUT", "PATCH", "DELETE")
        if brings_body and not streamed:
            if b"transfer-encoding" in headers:
                problem = answer(411, "length_required", "Say how long the body is.")
                await problem(scope, receive, sent)
                return
            if not length.isdigit() or int(length) > BODY_BYTES_MAX:
                problem = answer(413, ErrorCode.TOO_LARGE.value, "More than 1 MiB of JSON.")
                await problem(scope, receive, sent)
                return
        await self._app(scope, receive, sent)


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The document, made once; with the models that only our own code refers to."""
    if app.openapi_schema is None:
        made = get_openapi(
            title=app.title,
            version=app.version,
            summary=app.summary,
            description=app.description,
            routes=app.routes,
        )
        schemas = made.setdefault("components", {}).setdefault("schemas", {})
        for model in (Problem, JobSpec):
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas.update(schema.pop("$defs", {}))
            schemas[model.__name__] = schema
        for operations in made["paths"].values():
            for operation in operations.values():
                # FastAPI documents its own form of 422; ours is a problem like any other.
                content = operation.get("responses", {}).get("422", {}).get("content", {})
                if content.pop("application/json", None) is not None:
                    content.update(responses(422)[422]["content"])
        options = {**schemas["JobSpec"], "description": "A job spec without its `source`."}
        fields = options["properties"].items()
        options["properties"] = {k: dict(v) for k, v in fields if k != "source"}
        options["properties"]["detector"] |= {"enum": list(jobs.DETECTORS)}
        schemas["JobOptions"] = {**options, "title": "JobOptions", "required": []}
        limit = app.state.service.limits.size_bytes
        schemas["UploadRequest"]["properties"]["size_bytes"]["maximum"] = limit
        schemas.pop("HTTPValidationError", None)
        schemas.pop("ValidationError", None)
        app.openapi_schema = made
    return app.openapi_schema
