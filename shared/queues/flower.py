"""Flower on our broker: `python -m shared.queues.flower`. Jobs are rows beside the stages' tasks.

Started from here rather than by `celery flower`, so that neither the broker's password nor Flower's
own stands in a command line that everybody on the machine may read.
"""

from __future__ import annotations

import signal
import sys

from shared.errors import ErrorCode, PermanentError
from shared.logs import configure_logs
from shared.queues.app import make_app
from shared.settings import Settings

COLUMNS = "name,state,result,args,kwargs,received,started,runtime,worker,uuid"
"""`result` is where a running job tells its percentage and frames per second."""

MOST_TASKS = 20_000
"""Kept in Flower's memory, about a kilobyte each; a job of an hour has some 15,000."""

OFFLINE_KEPT_S = 86400
"""Workers that ended leave the list after a day: every container that is replaced had a name."""

USELESS = 2


def main(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; 2 when there is no password to guard it with."""
    configure_logs(settings.log_level)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        guard = _guard(settings)
    except PermanentError as error:
        print(error.message, file=sys.stderr)
        sys.exit(USELESS)
    # Tornado and Flower: half a second that no other process needs.
    import flower.options  # noqa: F401 - defines what is set below
    from flower.app import Flower
    from flower.urls import settings as handlers
    from tornado.options import options

    options.address = settings.flower_host
    options.port = settings.flower_port
    options.basic_auth = [guard]
    options.tasks_columns = COLUMNS
    options.max_tasks = MOST_TASKS
    options.natural_time = False
    options.purge_offline_workers = OFFLINE_KEPT_S
    server = Flower(capp=make_app(settings.redis_url), options=options, **handlers)
    server.start_http_server()
    try:
        server.start()
    except (KeyboardInterrupt, SystemExit):
        server.stop()


def _guard(settings: Settings) -> str:
    """`USER:PASSWORD`. Raises PermanentError when there is none: Flower can end workers."""
    password = settings.flower_password.get_secret_value()
    if not password:
        raise PermanentError(
            ErrorCode.BAD_OPTION,
            "Flower needs a password: set DUALFACE_FLOWER_PASSWORD (its user is "
            f"{settings.flower_user}).",
        )
    return f"{settings.flower_user}:{password}"


if __name__ == "__main__":
    main(Settings.load())
