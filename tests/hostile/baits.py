"""Things that a file may point to, which notice when somebody reaches for them."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Bait:
    """A named pipe and a TCP port of this machine; `taken` tells who was reached for.

    Opening a pipe for writing blocks until somebody opens it for reading: so the writer's thread
    is an unerring witness. A port keeps who called until it is asked.
    """

    def __init__(self, pipe: Path) -> None:
        self.pipe = pipe
        os.mkfifo(pipe)
        self._opened = threading.Event()
        self._writer = threading.Thread(target=self._wait_for_reader)
        self._writer.start()
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.setblocking(False)
        self.port: int = self._server.getsockname()[1]

    @property
    def url(self) -> str:
        """An address at the port."""
        return f"http://127.0.0.1:{self.port}/bait.ts"

    def taken(self) -> set[str]:
        """Which of "pipe" and "port" somebody reached for so far."""
        found = {"pipe"} if self._opened.is_set() else set()
        try:
            self._server.accept()[0].close()
        except BlockingIOError:
            return found
        return found | {"port"}

    def close(self) -> None:
        """Let the writer go, whoever opened the pipe or did not."""
        reader = os.open(self.pipe, os.O_RDONLY | os.O_NONBLOCK)
        self._writer.join()
        os.close(reader)
        self._server.close()

    def _wait_for_reader(self) -> None:
        writer = os.open(self.pipe, os.O_WRONLY)
        self._opened.set()
        os.close(writer)


@contextmanager
def bait(pipe: Path) -> Iterator[Bait]:
    """A bait at `pipe` and at some port, closed afterwards."""
    made = Bait(pipe)
    try:
        yield made
    finally:
        made.close()
