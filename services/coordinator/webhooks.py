"""Calls the webhooks of jobs that ended: at least once each, signed, repeated with backoff.

As https://www.standardwebhooks.com describes it, so that receivers have libraries for it: headers
`webhook-id` (the same at every try), `webhook-timestamp`, `webhook-signature`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import random
import time
import traceback
from collections import Counter
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

import httpcore

from shared.dial import Dialer, trusting
from shared.errors import DualfaceError, TemporaryError
from shared.keys import Keys
from shared.ledger import HookCall, JobView
from shared.logs import Log
from shared.metrics.catalogue import WEBHOOKS
from shared.redisdb import RedisError
from shared.references import check_webhook, shown_source
from shared.rest import job_of
from shared.runtime import Runtime

AT_ONCE = 16
PER_OWNER = 4
"""Calls under way of one owner at most: receivers that hang hold up their owner's webhooks only,
unless four owners have such."""
LOOK_EVERY_S = 0.5
TIMEOUT_S = 10.0
"""For the connection, and again for each answer of the receiver."""
TOTAL_S = 30.0
"""For all of a call: a receiver that trickles is one that does not answer."""
CLAIM_S = 90.0
"""Longer than one call can take; then whoever made it has died, and it is made again."""
DELAYS_S = (5.0, 30.0, 120.0, 600.0, 1800.0, 3600.0, 3600.0)
"""Between the tries, each give or take a tenth: three hours in all, and eight tries."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One call: what is sent where. `id` is the same at every try of it; with no `secret` it is
    not made."""

    id: str
    url: str
    body: bytes
    secret: str = field(repr=False)


class Webhooks:
    """Blocks in `run`; for a thread of its own. Keeps nothing that a successor needs.

    At most PER_OWNER calls of an owner are under way at a time, and AT_ONCE of all. As each ends,
    the job that has waited longest is next, of those whose owner has fewer.
    """

    def __init__(self, runtime: Runtime, clock: Callable[[], float] = time.time) -> None:
        """`clock`: seconds since 1970, for the time that is signed."""
        self._runtime = runtime
        self._clock = clock
        self._keys = Keys(runtime.redis)
        self._log = Log(stage="coordinator")

    def run(self, ended: Callable[[], bool]) -> None:
        """Call what is due until `ended`."""
        calls: dict[Future[None], str] = {}
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="webhook") as pool:
            while not ended():
                for due in self._due(Counter(calls.values())):
                    calls[pool.submit(self._call, due)] = due.owner
                if calls:
                    over, _ = wait(calls, LOOK_EVERY_S, FIRST_COMPLETED)
                    calls = {call: owner for call, owner in calls.items() if call not in over}
                else:
                    time.sleep(LOOK_EVERY_S)

    def _due(self, calls: Counter[str]) -> list[HookCall]:
        """As many jobs as there are threads for; `calls`: how many of each owner are under way."""
        free = AT_ONCE - calls.total()
        try:
            return self._runtime.ledger.hooks(CLAIM_S, free, PER_OWNER, calls) if free else []
        except (RedisError, TemporaryError) as error:
            self._log.warning("webhooks wait for Redis", reason=str(error))
            return []

    def _call(self, due: HookCall) -> None:
        """One try of one webhook. What goes wrong with it is no other's matter: raises nothing."""
        try:
            tried = self._try(due.job)
            if tried is None:
                self._runtime.ledger.unhook(due)
            else:
                self._settle(due, *tried)
        except (RedisError, TemporaryError) as error:  # it comes again when its claim is over
            self._log.warning("webhooks wait for Redis", reason=str(error))

    def _try(self, job: str) -> tuple[str, str | None] | None:
        """Address, for logs, and what went wrong, None when the receiver has it. None when nobody
        is to be told."""
        url = ""
        try:
            view = self._runtime.ledger.view(job)
            if view is None or not view.state.ended or view.spec.webhook is None:
                return None
            url = shown_source(view.spec.webhook)
            return url, self._send(self.delivery(view, view.spec.webhook))
        except (RedisError, TemporaryError):
            raise
        except Exception as error:  # noqa: BLE001 - whatever one job's record or receiver causes
            # Without its words: they may hold the address, and what stands behind its `?`.
            where = "".join(traceback.format_tb(error.__traceback__))
            name = type(error).__name__
            self._log.error("webhook not understood", job=job, reason=name, exception=where)
            return url, name

    def _settle(self, due: HookCall, url: str, problem: str | None) -> None:
        ledger = self._runtime.ledger
        told: dict[str, str | int] = {"job": due.job, "url": url, "tries": due.tries}
        if problem is None:
            ledger.unhook(due)
            outcome = "delivered"
            self._log.info("webhook called", **told)
        elif due.tries > len(DELAYS_S):
            ledger.unhook(due)
            outcome = "given_up"
            self._log.error("webhook given up", reason=problem, **told)
        else:
            jitter = random.uniform(0.9, 1.1)
            ledger.hook_later(due, DELAYS_S[due.tries - 1] * jitter)
            outcome = "failed"
            self._log.warning("webhook called again later", reason=problem, **told)
        self._runtime.meter.count(WEBHOOKS, outcome=outcome)

    def delivery(self, view: JobView, url: str) -> Delivery:
        """What is sent for a job that ended."""
        body = {
            "type": f"job.{view.state.value}",
            "timestamp": view.ended_ms,
            "data": job_of(view).model_dump(mode="json"),
        }
        # As it was when the job was submitted, so that the receiver's copy goes on to fit.
        secret = self._runtime.ledger.webhook_secret(view.job)
        if not secret:  # submitted by a release that did not keep it
            own = self._runtime.settings.webhook_secret.get_secret_value()
            secret = self._keys.webhook_secret(view.owner) if view.owner else own
        return Delivery(
            id=f"{view.job}-{view.ended_ms}",
            url=url,
            body=json.dumps(body).encode(),
            secret=secret,
        )

    def _send(self, delivery: Delivery) -> str | None:
        """One try; what went wrong, None when the receiver has it."""
        if not delivery.secret:  # unsigned, anybody could send it
            return "nothing signs it: its owner has no key, or DUALFACE_WEBHOOK_SECRET is empty"
        settings = self._runtime.settings
        at = int(self._clock())
        headers = {
            "content-type": "application/json",
            "user-agent": "dualface-webhook",
            "webhook-id": delivery.id,
            "webhook-timestamp": str(at),
            "webhook-signature": signature(delivery.secret, delivery.id, at, delivery.body),
        }
        times = dict.fromkeys(("connect", "read", "write", "pool"), TIMEOUT_S)
        try:
            target = check_webhook(delivery.url, settings.webhook_hosts)
            dialer = Dialer(settings.source_networks, _Limit(TOTAL_S))
            with (
                httpcore.ConnectionPool(
                    ssl_context=trusting(settings.source_ca), network_backend=dialer
                ) as pool,
                pool.stream(
                    "POST",
                    target.url,
                    headers=[("host", target.authority), *headers.items()],
                    content=delivery.body,
                    extensions={"timeout": times},
                ) as answer,
            ):
                # What it says is of no interest; redirects are not followed.
                return None if 200 <= answer.status < 300 else f"it answered {answer.status}"
        except _TooSlowError:
            return f"it took more than {TOTAL_S:.0f} s"
        except DualfaceError as error:
            return error.message
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
            return f"{type(error).__name__}: {error}"


class _TooSlowError(Exception):
    """The time for a call is over."""


class _Limit:
    """Called while waiting; ends a call that takes too long."""

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds

    def __call__(self) -> None:
        if time.monotonic() > self._until:
            raise _TooSlowError


def signature(secret: str, delivery: str, at_s: int, body: bytes) -> str:
    """`v1,BASE64` of HMAC-SHA256 over `ID.TIMESTAMP.BODY`; the key is the secret's text."""
    signed = f"{delivery}.{at_s}.".encode() + body
    made = hmac.new(secret.encode(), signed, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(made).decode()}"
