"""The API process: `python -m services.coordinator.api`."""

from __future__ import annotations

import signal
import sys

import uvicorn

from services.coordinator.api.app import make_app, make_service
from shared.errors import PermanentError
from shared.logs import configure_logs
from shared.metrics import open_meter
from shared.settings import Settings
from shared.starting import start

DRAIN_S = 20
"""From SIGTERM on, for requests that are being answered; streams of events end at once."""
HEADER_BYTES_MAX = 32 * 1024
OPEN_MAX = 4000
USELESS = 2
"""Exit code: it says why it can't run, so restarting is no use."""


def main(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; the exit code."""
    configure_logs(settings.log_level)
    try:
        app = make_app(make_service(settings, open_meter(settings, "api")))
    except PermanentError as error:
        print(error.message, file=sys.stderr)
        return USELESS
    # uvicorn drains, then raises the signal again for whoever handled it before.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    uvicorn.run(
        app,
        host=settings.api_host,
        port=settings.api_port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=DRAIN_S,
        limit_concurrency=OPEN_MAX,
        h11_max_incomplete_event_size=HEADER_BYTES_MAX,
    )
    return 0


if __name__ == "__main__":
    start(main)
