"""What the routes work with: one of each per process."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from services.coordinator.api.bell import Bell
from services.coordinator.api.pages import Pages
from shared.arena.registry import ArenaRegistry
from shared.errors import ErrorCode, PermanentError
from shared.health.vitals import RedisWatch
from shared.keys import ApiKey, Keys, Role
from shared.leases import Leases
from shared.ledger import JobView, Ledger
from shared.logs import Log
from shared.metrics import Meter
from shared.redisdb import Connection
from shared.settings import Settings, SourceLimits
from shared.storage.base import ObjectStore
from shared.uploads import Uploads


@dataclass(frozen=True)
class Service:
    """The surroundings of every route."""

    settings: Settings
    limits: SourceLimits
    redis: Connection
    ledger: Ledger
    pages: Pages
    leases: Leases
    arenas: ArenaRegistry
    store: ObjectStore
    keys: Keys
    uploads: Uploads
    bell: Bell
    watch: RedisWatch
    meter: Meter
    log: Log
    scrapers: dict[str, ApiKey] = field(default_factory=dict)
    """Keys that were let ask for figures, by their secret: while Redis is silent nobody can look
    them up, and then the figures matter most."""

    def view(self, job: str, key: ApiKey) -> JobView:
        """A job that `key` may see. Raises PermanentError NOT_FOUND for any other: whether it is
        there is nobody else's business."""
        view = self.ledger.view(job)
        if view is None or not (view.owner == key.owner or key.allows(Role.ADMIN)):
            raise PermanentError(ErrorCode.NOT_FOUND, "There is no such job, or it is not yours.")
        return view


def service_of(request: Request) -> Service:
    """The service of this process."""
    found: Service = request.app.state.service
    return found


Served = Annotated[Service, Depends(service_of)]
