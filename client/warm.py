"""Starting the fork server that all Python processes of the embedded stack come from.

Imports nothing but the standard library: the fork server imports everything else, on another core,
while the command itself does.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from multiprocessing import forkserver, resource_tracker

OURS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What asks the command to stop; its processes hear of it from the command alone."""

PRELOAD = (
    "services.coordinator.__main__",
    "services.decode.tasks",
    "services.infer.tasks",
    "services.compose.tasks",
    "services.encode.tasks",
    "shared.arena.__main__",
    "shared.metrics.book",
    # What Celery would import lazily, in every worker anew.
    "celery.apps.worker",
    "celery.worker.consumer",
    "celery.concurrency.prefork",
    "celery.backends.redis",
    "celery.app.amqp",
    "kombu.transport.redis",
)


def warm_up() -> None:
    """Start the fork server; it imports in the background. The earlier, the better."""
    # One thread each: parallelism comes from the number of processes.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    multiprocessing.set_forkserver_preload(list(PRELOAD))
    # It unblocks signals at the end of its start, so it goes first.
    resource_tracker.ensure_running()
    # Ctrl-C at the terminal reaches the fork server too, which has no handler while it imports.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, OURS)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def is_starting(arguments: list[str]) -> bool:
    """True when the command will need the fork server, as far as can be told before parsing.

    A wrong guess costs a process that imports for a second, or a second without it.
    """
    idle = {"--help", "--dry-run"}
    return arguments[:1] in (["run"], ["up"]) and not idle & set(arguments)
