"""Compiled engines in the object store, so that each is compiled once per kind of GPU.

An engine is one object: a line that marks it, a line of receipt, the plan. The store shows it whole
or not at all, and the receipt says what it was compiled for and which bytes these are: another's, a
damaged one or one of another format counts as absent and is replaced.

Compiling takes minutes, and a fleet starts at once. So it is done under a lease: who does not get
it waits until the engine is there, but not for ever. The lease saves work and keeps nothing right:
two who compile the same engine do no harm, the later one's stays.
"""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from pydantic import AwareDatetime, ValidationError

from services.infer.engines.trt_plan import Recipe
from shared.errors import (
    EngineError,
    ErrorCode,
    PermanentError,
    StoreAwayError,
    TemporaryError,
)
from shared.jobs import Model
from shared.leases import Lease, Leases
from shared.logs import Log
from shared.models.catalogue import Sha256
from shared.names import ENGINE_LOGS, engine_key, engine_log_key, engine_timing_key
from shared.storage.base import ObjectStore
from shared.storage.dated import sweep

T = TypeVar("T")

MARK = b"dualface engine 1\n"
"""First bytes of the objects; the number changes with their format."""

OBJECT_BYTES_MAX = 1 << 30
"""The engines of these models have 2 to 100 MB."""

RECEIPT_BYTES_MAX = 1 << 16

LOG_DAYS = 90
"""For so long a log of compiling is kept: who looks into a slow or wrong engine does so earlier."""

BUILD_LEASE_S = 60.0
"""Renewed with the steps of compiling; a single one of them rarely takes longer, and if it does,
somebody else begins to compile as well."""

WAIT_S = 600.0
"""How long to wait for another's engine; then it is compiled here, too."""

RENEW_EVERY_S = 5.0

OnStep = Callable[[], None]
"""Called now and then while compiling or waiting. What it raises ends both, and passes."""


@dataclass(frozen=True)
class Built:
    """What compiling gave. `outputs`: names of the model's outputs, in its order."""

    plan: bytes
    outputs: tuple[str, ...]
    timing: bytes
    log: str


class Receipt(Model):
    """What an object of the cache is, beside its bytes. `log`: its key, "" when it was not kept."""

    recipe: Recipe
    sha256: Sha256
    outputs: tuple[str, ...] = ()
    built_at: AwareDatetime
    build_s: float = 0.0
    built_by: str = ""
    log: str = ""


@dataclass(frozen=True)
class Stored:
    """An object of the cache, checked."""

    receipt: Receipt
    payload: bytes


class EngineCache:
    """Of one process. `leases` None: everybody compiles for themselves."""

    def __init__(
        self,
        store: ObjectStore,
        leases: Leases | None,
        worker: str,
        *,
        wait_s: float = WAIT_S,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`leases` should have BUILD_LEASE_S as their time to live. `now` has a time zone."""
        self._store = store
        self._leases = leases
        self._worker = worker
        self._wait_s = wait_s
        self._now = now

    def obtain(
        self,
        recipe: Recipe,
        build: Callable[[bytes, OnStep], Built],
        load: Callable[[bytes, tuple[str, ...]], T | None],
        on_step: OnStep = lambda: None,
    ) -> T:
        """What `load` makes of the engine of this recipe: the stored one, else one compiled now.

        `build` gets the timings that were kept, b"" if none, and what to call now and then.
        `load` gets the plan and the names of outputs, and answers None to a plan it can't use.
        Blocks for minutes where there is no engine yet. Raises what `build` and `on_step` raise,
        EngineError for a new engine that can't be loaded, StoreAwayError as the store does.
        """
        loaded = self._loaded(recipe, load)
        if loaded is not None:
            return loaded
        with self._turn(recipe, on_step) as keep_turn:
            loaded = self._loaded(recipe, load)  # another one's, meanwhile
            if loaded is not None:
                return loaded
            started = time.monotonic()
            Log().info("engine is compiled", model=recipe.model, precision=recipe.precision)
            built = build(self.timing(recipe), keep_turn)
            seconds = time.monotonic() - started
            made = load(built.plan, built.outputs)
            if made is None:
                raise EngineError("TensorRT can't load the engine that it compiled.", able=True)
            Log().info("engine compiled", model=recipe.model, seconds=round(seconds, 1))
            self.put(recipe, built, seconds)
            return made

    def get(self, recipe: Recipe) -> Stored | None:
        """The engine, None when there is none that can be trusted."""
        return self._read(engine_key(recipe.digest), recipe)

    def timing(self, recipe: Recipe) -> bytes:
        """Measurements of earlier compiling on this kind of GPU; b"" for none."""
        stored = self._read(engine_timing_key(recipe.timing_digest), recipe, timing=True)
        return b"" if stored is None else stored.payload

    def put(self, recipe: Recipe, built: Built, seconds: float) -> None:
        """Keep engine, timings and log. A store that can't take them only costs the next one time:
        said in the log of this process, and the work goes on."""
        try:
            log = self._put_log(recipe, built)
            receipt = Receipt(
                recipe=recipe,
                sha256=_sha256(built.plan),
                outputs=built.outputs,
                built_at=self._now(),
                build_s=round(seconds, 3),
                built_by=self._worker,
                log=log,
            )
            self._write(engine_key(recipe.digest), receipt, built.plan)
            if built.timing:
                timing = receipt.model_copy(update={"sha256": _sha256(built.timing)})
                self._write(engine_timing_key(recipe.timing_digest), timing, built.timing)
            self.sweep_logs()
        except (TemporaryError, PermanentError) as error:
            Log().warning("engine not kept", model=recipe.model, reason=error.message)

    def sweep_logs(self) -> int:
        """Delete the logs whose time is over; returns how many. Done with every compiling, too."""
        return sweep(self._store, ENGINE_LOGS, self._now().date())

    def _loaded(
        self, recipe: Recipe, load: Callable[[bytes, tuple[str, ...]], T | None]
    ) -> T | None:
        stored = self.get(recipe)
        if stored is None:
            return None
        loaded = load(stored.payload, stored.receipt.outputs)
        if loaded is None:
            _refused(engine_key(recipe.digest), "TensorRT can't load it")
        return loaded

    @contextmanager
    def _turn(self, recipe: Recipe, on_step: OnStep) -> Iterator[OnStep]:
        """Hold the lease on compiling, or go on without it when the engine has come, the wait was
        too long, or Redis is away. Gives what is to be called now and then."""
        lease = self._lease(recipe, on_step)
        if lease is None or self._leases is None:
            yield on_step
            return
        leases, renewed = self._leases, time.monotonic()

        def keep() -> None:
            nonlocal renewed
            on_step()
            if time.monotonic() - renewed > RENEW_EVERY_S:
                renewed = time.monotonic()
                with suppress(TemporaryError):
                    leases.renew(lease)

        try:
            yield keep
        finally:
            with suppress(TemporaryError):
                leases.release(lease)

    def _lease(self, recipe: Recipe, on_step: OnStep) -> Lease | None:
        if self._leases is None:
            return None
        key, thing = engine_key(recipe.digest), f"engine:{recipe.digest[:32]}"
        holder = f"{self._worker}/{os.getpid()}/{uuid.uuid4().hex[:8]}"

        def is_there() -> bool:
            on_step()
            return self._store.exists(key)

        try:
            self._leases.resize(thing, 1)
            return self._leases.acquire(thing, holder, wait_s=self._wait_s, give_up=is_there)
        except StoreAwayError:
            raise
        except TemporaryError:
            return None  # Redis is away: compiling needs none

    def _put_log(self, recipe: Recipe, built: Built) -> str:
        now = self._now()
        until = now.date() + timedelta(days=LOG_DAYS)
        key = engine_log_key(until, f"{now:%Y%m%dT%H%M%SZ}-{recipe.model}-{recipe.digest[:12]}")
        self._store.write(key, [built.log.encode()])
        return key

    def _write(self, key: str, receipt: Receipt, payload: bytes) -> None:
        line = receipt.model_dump_json().encode() + b"\n"
        self._store.write(key, [MARK, line, payload])

    def _read(self, key: str, recipe: Recipe, timing: bool = False) -> Stored | None:
        try:
            size = self._store.size(key)
            if size is None:
                return None
            if size > OBJECT_BYTES_MAX:
                _refused(key, f"it has {size} bytes")
                return None
            data = b"".join(self._store.read(key))
        except PermanentError as error:
            if error.code is ErrorCode.SOURCE_MISSING:
                return None  # removed in between
            raise
        stored = _parsed(data)
        if stored is None:
            _refused(key, "it is damaged, or of another format")
            return None
        told = stored.receipt.recipe
        same = told.timing_digest == recipe.timing_digest if timing else told == recipe
        if not same:
            _refused(key, "it is for something else")
            return None
        return stored


def _parsed(data: bytes) -> Stored | None:
    """What an object says, None unless its bytes are those that its receipt tells of."""
    if not data.startswith(MARK):
        return None
    end = data.find(b"\n", len(MARK), len(MARK) + RECEIPT_BYTES_MAX)
    try:
        receipt = Receipt.model_validate_json(data[len(MARK) : max(end, 0)])
    except ValidationError:
        return None
    payload = data[end + 1 :]
    return Stored(receipt, payload) if _sha256(payload) == receipt.sha256 else None


def _refused(key: str, why: str) -> None:
    Log().warning("stored engine passed over", key=key, reason=why)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
