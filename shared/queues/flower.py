"""Flower on our broker: `python -m shared.queues.flower`. Jobs are rows beside the stages' tasks.

Started from here rather than by `celery flower`, so that neither the broker's password nor Flower's
own stands in a command line that everybody on the machine may read.
"""

from __future__ import annotations

import hmac
import signal
import sys
from base64 import b64encode
from typing import TYPE_CHECKING, Any

from shared.errors import ErrorCode, PermanentError
from shared.logs import configure_logs
from shared.queues.app import make_app
from shared.settings import Settings

if TYPE_CHECKING:  # Tornado takes half a second, which only the process that serves has to spend
    from tornado.httputil import HTTPServerRequest

COLUMNS = "name,state,result,args,kwargs,received,started,runtime,worker,uuid"
"""`result` is where a running job tells its percentage and frames per second."""

MOST_TASKS = 20_000
"""Kept in Flower's memory, about a kilobyte each; a job of an hour has some 15,000."""

OFFLINE_KEPT_S = 86400
"""Workers that ended leave the list after a day: every container that is replaced had a name."""

FORGET_EVERY_MS = 600_000
"""At a thousand jobs a minute some 12 MB of names come together in between."""

HEALTH = "/healthcheck"
"""Asked without a password, by whatever watches the process; it tells nothing."""

JOBS_PAGE = "/tasks?name=dualface.job"
"""Its tasks page with the search for jobs filled in. Without it one sees the tasks that came last,
and a job's stages send so many that its own row is soon pages away."""

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
    server = make_server(settings, guard)
    server.start_http_server()
    try:
        server.start()
    except (KeyboardInterrupt, SystemExit):
        server.stop()


def make_server(settings: Settings, guard: str) -> Any:
    """Flower's application, not listening yet. `guard`: `USER:PASSWORD`."""
    import flower.options  # noqa: F401 - defines what is set below
    from flower.app import Flower
    from flower.urls import settings as look
    from tornado.ioloop import PeriodicCallback
    from tornado.options import options

    options.address = settings.flower_host
    options.port = settings.flower_port
    options.basic_auth = [guard]
    options.tasks_columns = COLUMNS
    options.max_tasks = MOST_TASKS
    options.natural_time = False
    options.purge_offline_workers = OFFLINE_KEPT_S
    server = Flower(capp=make_app(settings.redis_url), options=options, **look)
    state = server.events.state
    state.metrics = NoSeries()
    PeriodicCallback(lambda: forget_names(state), FORGET_EVERY_MS).start()
    _bar(server, guard)
    return server


def forget_names(state: Any) -> None:
    """Drop what is kept of names that no task in memory has. `state`: Celery's of its events, which
    never does: it takes names for kinds of tasks, and each job has one of its own."""
    gone = [name for name, tasks in state.tasks_by_type.items() if not tasks]
    for name in gone:
        del state.tasks_by_type[name]
    state._seen_types.difference_update(gone)


class NoSeries:
    """In place of Flower's figures for Prometheus: they are by task, which of a job is the name of
    its file, and never dropped. Ours are the coordinator's."""

    def observe_task(self, worker: str, event: dict[str, Any], task: object) -> None:
        """A task's event."""

    def observe_worker(self, worker: str, event: dict[str, Any]) -> None:
        """A worker's event."""


def _bar(server: Any, guard: str) -> None:
    """Before all of Flower's routes: who lacks the password is told of its health and nothing else.
    Flower itself asks for it route by route, and not at all of them."""
    from flower.views import BaseHandler
    from flower.views.error import NotFoundErrorHandler
    from tornado.routing import Matcher, Rule
    from tornado.web import HTTPError

    wanted = b"Basic " + b64encode(guard.encode())

    class Stranger(Matcher):
        def match(self, request: HTTPServerRequest) -> dict[str, Any] | None:
            given = request.headers.get("Authorization", "").encode()
            may = request.path == HEALTH or hmac.compare_digest(given, wanted)
            return None if may else {}

    class Refused(BaseHandler):  # type: ignore[misc] # Flower has no types
        def prepare(self) -> None:
            raise HTTPError(401)

    # There is nothing left to tell there, see NoSeries.
    server.add_handlers(".*", [Rule(Stranger(), Refused), (r"/metrics", NotFoundErrorHandler)])


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
