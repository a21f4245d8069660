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
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpcore

from shared.dial import Dialer, trusting
from shared.errors import DualfaceError, TemporaryError
from shared.keys import Keys
from shared.ledger import JobView
from shared.logs import Log
from shared.metrics.catalogue import WEBHOOKS
from shared.redisdb import RedisError
from shared.references import check_webhook, shown_source
from shared.rest import job_of
from shared.runtime import Runtime

AT_ONCE = 8
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
    """One call: what is sent where. `id` is the same at every try of it."""

    id: str
    url: str
    body: bytes
    secret: str


class Webhooks:
    """Blocks in `run`; for a thread of its own. Keeps nothing that a successor needs."""

    def __init__(self, runtime: Runtime, clock: Callable[[], float] = time.time) -> None:
        """`clock`: seconds since 1970, for the time that is signed."""
        self._runtime = runtime
        self._clock = clock
        self._keys = Keys(runtime.redis)
        self._log = Log(stage="coordinator")

    def run(self, ended: Callable[[], bool]) -> None:
        """Call what is due until `ended`."""
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="webhook") as pool:
            while not ended():
                try:
                    due = self._runtime.ledger.hooks(CLAIM_S, AT_ONCE)
                    list(pool.map(lambda each: self._call(*each), due))
                except (RedisError, TemporaryError) as error:
                    self._log.warning("webhooks wait for Redis", reason=str(error))
                    due = []
                if not due:
                    time.sleep(LOOK_EVERY_S)

    def _call(self, job: str, tries: int) -> None:
        ledger = self._runtime.ledger
        view = ledger.view(job)
        if view is None or not view.state.ended or view.spec.webhook is None:
            ledger.unhook(job)
            return
        delivery = self.delivery(view, view.spec.webhook)
        problem = self._send(delivery)
        told: dict[str, str | int] = {"job": job, "url": shown_source(delivery.url), "tries": tries}
        if problem is None:
            ledger.unhook(job)
            outcome = "delivered"
            self._log.info("webhook called", **told)
        elif tries > len(DELAYS_S):
            ledger.unhook(job)
            outcome = "given_up"
            self._log.error("webhook given up", reason=problem, **told)
        else:
            jitter = random.uniform(0.9, 1.1)
            ledger.hook_later(job, DELAYS_S[tries - 1] * jitter)
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
        key = self._keys.of_owner(view.owner) if view.owner else None
        own = self._runtime.settings.webhook_secret.get_secret_value()
        return Delivery(
            id=f"{view.job}-{view.ended_ms}",
            url=url,
            body=json.dumps(body).encode(),
            secret=own if key is None else key.webhook_secret,
        )

    def _send(self, delivery: Delivery) -> str | None:
        """One try; what went wrong, None when the receiver has it."""
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
