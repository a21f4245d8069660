"""The encode worker: `python -m services.encode`."""

from __future__ import annotations

from services.encode.tasks import worker
from shared.settings import Settings
from shared.starting import start


def main(settings: Settings) -> int:
    """Work until SIGTERM; the exit code."""
    return worker(settings).run()


if __name__ == "__main__":
    start(main)
