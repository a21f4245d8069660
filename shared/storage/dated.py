"""Objects that are kept until a day, which is the first part of their key below a prefix."""

from __future__ import annotations

from datetime import date

from shared.storage.base import ObjectStore


def sweep(store: ObjectStore, prefix: str, today: date) -> int:
    """Delete what lies below `prefix`/YYYY-MM-DD/ of days that are over; returns how many.

    What has no day in its key is left alone. Lists everything below `prefix`, so that must not be
    much. Safe in several processes at once. Blocks and raises as the store does.
    """
    days = {key.removeprefix(f"{prefix}/").partition("/")[0] for key in store.keys(prefix)}
    return sum(store.delete(f"{prefix}/{day}") for day in sorted(days) if _is_over(day, today))


def _is_over(day: str, today: date) -> bool:
    try:
        return date.fromisoformat(day) < today
    except ValueError:
        return False
