"""The decode worker: `python -m services.decode`."""

from __future__ import annotations

from services.decode.tasks import worker
from shared.settings import Settings
from shared.starting import start


def main(settings: Settings) -> int:
    """Work until SIGTERM; the exit code."""
    return worker(settings).run()


if __name__ == "__main__":
    start(main)
