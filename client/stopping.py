"""Signals for commands that await."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import TypeVar

from client.run import InterruptedRunError

T = TypeVar("T")

KINDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def stoppable(work: Coroutine[object, object, T]) -> T:
    """Run it in an event loop. The first signal cancels it, so that it can put things away; then
    InterruptedRunError is raised. Later ones are ignored meanwhile."""
    before = [signal.getsignal(kind) for kind in KINDS]
    stopped: list[int] = []

    async def main() -> T:
        task = asyncio.ensure_future(work)
        loop = asyncio.get_running_loop()

        def stop(number: int) -> None:
            if not stopped:
                stopped.append(number)
                task.cancel()

        for kind in KINDS:
            loop.add_signal_handler(kind, stop, kind)
        return await task

    try:
        return asyncio.run(main())
    except asyncio.CancelledError:
        if stopped:
            raise InterruptedRunError(stopped[0]) from None
        raise
    finally:
        for kind, handler in zip(KINDS, before, strict=True):
            signal.signal(kind, signal.SIG_IGN if stopped else handler)
