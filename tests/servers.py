"""A real Redis-protocol server for tests."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from client.stack import start_server, stop_server
from shared.settings import Settings


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """The URL of a fresh server whose files lie in `folder`."""
    logs = folder / f"logs-{secrets.token_hex(4)}"
    logs.mkdir()
    server, url = start_server(Settings(state_dir=folder), logs)
    try:
        yield url
    finally:
        stop_server(server)
