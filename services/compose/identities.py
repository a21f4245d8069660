"""What a plan tells of who is in the two places, for the figures. Pure.

Without ground truth nobody knows which of these were mistakes.
"""

from __future__ import annotations

from collections import Counter

from services.compose.plan import ComposeState
from shared.tracks import BatchPlan


def place_changes(before: ComposeState, plan: BatchPlan) -> Counter[str]:
    """How often, from the state before a batch to its end: the two `swapped` sides, a place was
    `replaced` by somebody else, an empty one was `joined` (a video's first two people count), and
    a missing person was found again (`returned`; counted only where nothing else changed)."""
    found: Counter[str] = Counter()
    first, second = before.persons.places
    places = (first.id if first else 0), (second.id if second else 0)
    seen = sum(p is not None and p.seen_s == before.persons.time_s for p in (first, second))
    for now, seen_now in zip(plan.persons, plan.seen, strict=True):
        if now == places:
            found["returned"] += max(0, seen_now - seen)
        elif any(person and person == places[1 - at] for at, person in enumerate(now)):
            found["swapped"] += 1
        for at, person in enumerate(now):
            if person and person not in places:
                found["replaced" if places[at] else "joined"] += 1
        places, seen = now, seen_now
    return found
