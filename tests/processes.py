"""Processes of tests: begun by forking, and ended when they may end by themselves."""

from __future__ import annotations

import gc
import subprocess
from collections.abc import Callable, Iterable
from contextlib import suppress

import psutil

from shared.redisdb import connect
from tests.waiting import wait_until


def kill(processes: Iterable[psutil.Process]) -> None:
    """Kill those that still live."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def run_forked(work: Callable[..., object], *args: object) -> None:
    """Call `work` in a fork of the tests' process. What other tests left to the collector stays
    there: a decoder's threads are not in the fork, and to close it here would wait for ever."""
    gc.freeze()
    work(*args)


def kill_worker(process: subprocess.Popen[bytes], redis_url: str) -> None:
    """Kill a Celery worker with its children. Until its server has noticed, it may give the next
    test's message to the dead client: back when no client waits."""
    kill_family(process)
    connection = connect(redis_url)
    wait_until(lambda: connection.info("clients")["blocked_clients"] == 0, "nobody waits")
    connection.close()


def kill_family(process: subprocess.Popen[bytes]) -> None:
    """Kill a child of ours with all its descendants, and wait for it."""
    with suppress(psutil.NoSuchProcess):
        kill(psutil.Process(process.pid).children(recursive=True))
    process.kill()
    process.wait()
