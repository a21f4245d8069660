"""What the API counts, and that it tells all figures while Redis is silent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from services.coordinator.api.app import make_service
from shared.health.vitals import REDIS_FRESH_S, RedisSight
from shared.keys import ApiKey, Keys, Role
from shared.metrics import Meter
from shared.metrics.catalogue import REDIS_ERRORS, STORE_ERRORS
from shared.redisdb import Connection, connect_once
from shared.settings import Settings
from tests.api.conftest import Served, served
from tests.metrics.notes import Notes
from tests.servers import free_port

SILENT = RedisSight(silent_s=REDIS_FRESH_S + 1, steady_s=0)
FINE = RedisSight(silent_s=0, steady_s=1000)


@dataclass
class Watch:
    """Sees what a test says."""

    now: RedisSight = FINE

    def start(self) -> None: ...

    def close(self) -> None: ...

    def sight(self) -> RedisSight:
        return self.now


@dataclass
class AskedKeys:
    """Keys, and how often anybody looked for one."""

    keys: Keys
    asked: int = 0
    of_session: Any = None

    def find(self, secret: str) -> ApiKey | None:
        self.asked += 1
        return self.keys.find(secret)


@dataclass
class Figures:
    """An API, what it counts, and how Redis seems to it."""

    api: Served
    notes: Notes
    watch: Watch
    keys: AskedKeys

    def key(self, *roles: Role) -> tuple[ApiKey, str]:
        """A new one."""
        return self.keys.keys.add("ops", roles)

    def ask(self, secret: str) -> int:
        """The status of what `/metrics` answers."""
        return int(self.api.with_key(secret).get("/metrics").status_code)


@pytest.fixture
def figures(redis: Connection, redis_url: str, tmp_path: Path) -> Iterator[Figures]:
    settings = Settings(redis_url=redis_url, state_dir=tmp_path)
    notes, watch, keys = Notes(), Watch(), AskedKeys(Keys(redis))
    doubles: Any = {"watch": watch, "keys": keys}
    service = replace(make_service(settings, Meter("api", notes)), **doubles)
    with served(service) as api:
        yield Figures(api, notes, watch, keys)


def test_while_redis_is_silent_figures_are_told_to_who_had_them_before(figures: Figures) -> None:
    _, secret = figures.key(Role.METRICS)
    assert figures.ask(secret) == 200
    figures.watch.now = SILENT
    assert figures.ask(secret) == 200
    assert figures.keys.asked == 1
    _, other = figures.key(Role.METRICS)
    assert figures.ask(other) == 200  # was never seen: Redis is asked, as it happens to answer
    assert figures.keys.asked == 2


def test_a_key_that_was_revoked_is_not_remembered(figures: Figures) -> None:
    record, secret = figures.key(Role.METRICS)
    assert figures.ask(secret) == 200
    figures.keys.keys.revoke(record.id)
    assert figures.ask(secret) == 401
    figures.watch.now = SILENT
    assert figures.ask(secret) == 401


def test_a_key_that_may_not_have_figures_is_not_remembered(figures: Figures) -> None:
    _, secret = figures.key(Role.READ)
    figures.watch.now = SILENT
    assert [figures.ask(secret) for _ in range(2)] == [403, 403]


def test_what_the_api_asks_redis_in_vain_is_counted(figures: Figures) -> None:
    away = connect_once(f"redis://127.0.0.1:{free_port()}", 1)
    figures.keys.keys = Keys(away)
    assert figures.ask("df_any") == 503
    assert figures.notes.sum(REDIS_ERRORS, "api") == 1
    away.close()


def test_the_api_counts_failures_of_its_store_and_not_those_of_its_callers(
    figures: Figures, tmp_path: Path
) -> None:
    _, secret = figures.keys.keys.add("ann", (Role.SUBMIT,), most_bytes=4)
    client = figures.api.with_key(secret)

    def sent(body: bytes) -> int:
        upload = client.post("/v1/uploads", json={"name": "a.mp4"}).json()
        return int(client.put(upload["content"], content=body).status_code)

    assert sent(b"five!") == 413
    assert sent(b"") == 422
    assert figures.notes.sum(STORE_ERRORS, "put") == 0
    folder = tmp_path / "store"
    folder.rename(tmp_path / "elsewhere")
    folder.write_bytes(b"a file where the folder should be")
    assert sent(b"four") >= 500
    assert figures.notes.sum(STORE_ERRORS, "put") == 1
