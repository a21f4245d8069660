"""The cluster as operators see it, and what load balancers and Prometheus ask."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import Annotated

from fastapi import APIRouter, Body, Request, Response
from fastapi.responses import JSONResponse

from services.coordinator.api.access import (
    COOKIE,
    WRONG_KEY,
    Admin,
    AnyKey,
    Scraper,
    checked,
)
from services.coordinator.api.problems import EVERYWHERE, Responses, responses
from services.coordinator.api.service import Served, Service
from shared.arena.base import POOLS
from shared.errors import DualfaceError
from shared.gpu.board import hosts
from shared.jobs import JobState
from shared.keys import SESSION_S
from shared.ledger import STAGES, JobView
from shared.queues.dead import DeadLetters
from shared.redisdb import RedisError
from shared.rest import (
    GpuOut,
    Health,
    LimitOut,
    QueueOut,
    Session,
    System,
    WorkerOut,
)
from shared.runtime import queue_of
from shared.workers import living

router = APIRouter(tags=["system"])

_renderer = ThreadPoolExecutor(1, thread_name_prefix="metrics")

RATED = 50
"""Running jobs whose rates are added up: each costs a look-up."""

_TEXT: Responses = {200: {"description": "Prometheus", "content": {"text/plain": {}}}}


@router.get("/v1/system", response_model=System, responses=responses(*EVERYWHERE))
def system(service: Served, _: Admin) -> System:
    """Workers, limits, queues, jobs, GPUs, engines in use."""
    arenas = service.arenas.all()
    things = [arena.thing(pool) for arena in arenas for pool in POOLS]
    things += service.leases.opened()
    queues = ["split", "mux"]
    queues += [queue_of(stage, arena.name) for arena in arenas for stage in STAGES]
    running = service.ledger.listed(None, JobState.RUNNING.value, count=RATED).jobs
    rates = [service.ledger.rate(job) or 0.0 for job in running]
    return System(
        version=version("dualface"),
        workers=[
            WorkerOut(id=each.id, stage=each.stage, arena=each.arena)
            for each in sorted(living(service.redis), key=lambda each: each.id)
        ],
        limits=[_limit(service, thing) for thing in things],
        queues=[QueueOut(queue=name, messages=int(service.redis.llen(name))) for name in queues],
        jobs={state.value: service.ledger.count(None, state.value) for state in JobState},
        frames_per_s=round(sum(rates), 1),
        dead_letters=len(DeadLetters(service.redis)),
        gpus=[
            GpuOut(host=each.host, **gpu.model_dump())
            for each in hosts(service.redis)
            for gpu in each.gpus
        ],
        engines=_engines(service.ledger.views(running)),
    )


@router.head("/healthz", operation_id="healthz_head", response_model=Health)
@router.get("/healthz", response_model=Health)
def healthz() -> Health:
    """The process lives."""
    return Health(status="ok")


@router.head(
    "/readyz",
    operation_id="readyz_head",
    response_model=Health,
    responses={503: {"model": Health}},
)
@router.get("/readyz", response_model=Health, responses={503: {"model": Health}})
def readyz(service: Served) -> Response:
    """It can take work: Redis and store answer."""
    reasons = _reasons(service)
    health = Health(status="not ready" if reasons else "ok", reasons=reasons)
    return JSONResponse(health.model_dump(), 503 if reasons else 200)


@router.post("/v1/session", response_model=Session, responses=responses(*EVERYWHERE))
def begin_session(
    request: Request,
    service: Served,
    response: Response,
    key: Annotated[str, Body(embed=True, max_length=200)],
) -> Session:
    """For browsers: a cookie in exchange for a key, so that pages and players need no key."""
    found = checked(request, lambda: service.keys.find(key), WRONG_KEY)
    response.set_cookie(
        COOKIE,
        service.keys.begin_session(key),
        max_age=SESSION_S,
        httponly=True,
        samesite="strict",
        secure=service.settings.api_secure_cookies,
        path="/",
    )
    return Session(owner=found.owner, roles=[role.value for role in found.roles])


@router.get("/v1/session", response_model=Session, responses=responses(*EVERYWHERE))
def session(key: AnyKey) -> Session:
    """Whose key or session this is."""
    return Session(owner=key.owner, roles=[role.value for role in key.roles])


@router.get(
    "/metrics",
    response_class=Response,
    responses=_TEXT | responses(*EVERYWHERE),
)
async def metrics(request: Request, _: Scraper) -> Response:
    """Figures of this process and, on a single machine, of all of them."""
    from shared.metrics import render_metrics

    # The others' threads may all be waiting for Redis while it is silent.
    service: Service = request.app.state.service
    rendering = asyncio.get_running_loop().run_in_executor(
        _renderer, render_metrics, service.settings
    )
    body, content_type = await rendering
    return Response(body, media_type=content_type)


def _engines(running: Sequence[JobView]) -> dict[str, dict[str, int]]:
    """By stage and engine, for how many of these jobs it worked last."""
    used: dict[str, dict[str, int]] = {stage: {} for stage in STAGES}
    for view in running:
        for stage, engine in view.engines.items():
            known = used.setdefault(stage, {})
            known[engine] = known.get(engine, 0) + 1
    return used


def _limit(service: Service, thing: str) -> LimitOut:
    look = service.leases.look(thing)
    return LimitOut(thing=thing, used=look.used, capacity=look.capacity, waiting=look.waiting)


def _reasons(service: Service) -> list[str]:
    found = []
    try:
        service.redis.ping()
    except RedisError:
        found.append("Redis does not answer.")
    try:
        service.store.exists("ready")
    except DualfaceError as error:
        found.append(error.message)
    return found
