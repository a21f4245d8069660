"""Job ids for shells."""

from __future__ import annotations

from itertools import islice

MOST = 50
LIMIT_S = 1.0


def jobs_like(incomplete: str) -> list[tuple[str, str]]:
    """Ids of the latest jobs that begin so, each with its state and name. Never an error: a shell
    would print it in the middle of a command line."""
    from client.api import ApiError, Client, Patience
    from client.showing import plain
    from shared.errors import DualfaceError

    try:
        with Client(patience=Patience(tries=1), read_s=LIMIT_S) as client:
            jobs = list(islice(client.list(page=MOST), MOST))
    except (ApiError, DualfaceError):
        return []
    return [
        (job.id, f"{job.state.value} {plain(job.name)}")
        for job in jobs
        if job.id.startswith(incomplete)
    ]
