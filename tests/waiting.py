"""Waiting for a condition, with a deadline; tests do not sleep otherwise."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(predicate: Callable[[], object], what: str, deadline_s: float = 60.0) -> None:
    """Return as soon as `predicate` is true; fail with `what` after `deadline_s`."""
    end = time.monotonic() + deadline_s
    while not predicate():
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline_s:g} s: {what}")
        time.sleep(0.01)
