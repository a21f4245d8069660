"""Decide who of all tracked faces the two main persons are, and who of them is left and right.

A person is an identity within a job; tracks come and go under it. Two places, left (or top) and
right (or bottom), hold a person each or nobody.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from pydantic import Field

from services.compose.tracker import Box, Track
from shared.jobs import Model


class PersonSettings(Model):
    """Times in seconds of the stream; lengths in face heights unless said otherwise."""

    swap_dwell_s: float = Field(
        default=0.5,
        ge=0,
        description="two who changed sides must stay so this long: 15 frames at 30 fps",
    )
    swap_margin: float = Field(
        default=0.10, ge=0, description="and this far apart, as part of the frame's width"
    )
    smooth_s: float = Field(default=0.15, gt=0, description="time constant of a person's position")
    confirm_s: float = Field(
        default=0.6,
        description="a new face counts from here; false detections last up to 0.5 s (3 in a row)",
    )
    confirm_hits: int = Field(default=3, ge=1)
    confirm_share: float = Field(default=0.6, description="of its time a new face must be seen")
    min_size: float = Field(default=0.25, description="of the other person's face height")
    free_after_s: float = Field(
        default=0.5, description="a missing one's place may go to an unlikely face from here"
    )
    return_reach: float = Field(default=1.0, description="how far away a missing one may return")
    return_reach_per_s: float = Field(default=1.5, description="and per second of absence")
    max_return_reach: float = 4.0
    max_return_ratio: float = Field(default=1.8, description="of face heights, then and now")
    rival_factor: float = Field(default=1.5, description="a third must outweigh by this")
    rival_s: float = Field(default=2.0, description="for this long, to take a place")
    cut_score: float = Field(default=0.75, description="least score of a face after a scene cut")
    cut_size: float = Field(default=0.5, description="and its height, as part of the one before")


class Person(Model):
    """Who holds a place. `seen_s`: when the box was last true; `x`: smoothed centre, px."""

    id: int
    track: int
    box: Box
    seen_s: float
    x: float


Places = tuple[Person | None, Person | None]


class PersonsState(Model):
    """`changed_since` and `rival_since`: since when a swap or a third person is due.

    `vanished_s` is the time of the detection that first saw nobody of the places, None while
    somebody is seen; `vanished` is how many vanished in that very step. `sided`: the side of
    somebody alone is known from another face and not from the half of the frame.
    """

    places: Places = (None, None)
    next_id: int = 1
    time_s: float | None = None
    changed_since: float | None = None
    rival: int | None = None
    rival_since: float | None = None
    vanished_s: float | None = None
    vanished: int = 0
    sided: bool = False


class Change(Model):
    """What is new: a place shows somebody else (`fresh`), and whether the two changed sides."""

    fresh: tuple[bool, bool] = (False, False)
    swapped: bool = False


def update(
    state: PersonsState,
    tracks: Sequence[Track],
    time_s: float,
    frame_width: int,
    settings: PersonSettings,
) -> PersonsState:
    """The state after a detection step at `time_s` whose tracks are `tracks`."""
    by_id = {track.id: track for track in tracks}
    dt = 0.0 if state.time_s is None else max(0.0, time_s - state.time_s)
    state = _refreshed(state, by_id, time_s, dt, settings)
    cut = _after_cut(state, tracks, time_s, settings)
    if cut:
        return _seated(state, cut, frame_width / 2)
    state = _reattached(state, tracks, time_s, settings)
    state = _filled(state, tracks, time_s, frame_width, settings)
    state = _challenged(state, by_id, time_s, settings)
    return _sides(state, time_s, frame_width, settings)


def seat(tracks: Sequence[Track], frame_width: int, beside: float | None = None) -> PersonsState:
    """The first persons of a job: the two weightiest of `tracks`.

    `beside` is the x (px) of a face that is not sure enough for a place: it still tells, for as
    long as nobody else comes, on which side of it somebody alone belongs.
    """
    middle = frame_width / 2 if beside is None else beside
    state = _seated(PersonsState(), tracks, middle)
    return state.model_copy(update={"sided": beside is not None})


def change(before: PersonsState, after: PersonsState) -> Change:
    """What a camera must know of the step from `before` to `after`."""
    old, new = (_ids(s.places) for s in (before, after))
    swapped = old != new and any(i is not None and i == old[1 - k] for k, i in enumerate(new))
    fresh = tuple(i is not None and i not in old for i in new)
    return Change(fresh=(fresh[0], fresh[1]), swapped=swapped)


def _ids(places: Places) -> tuple[int | None, int | None]:
    a, b = places
    return (a.id if a else None), (b.id if b else None)


def _refreshed(
    state: PersonsState,
    tracks: dict[int, Track],
    time_s: float,
    dt: float,
    settings: PersonSettings,
) -> PersonsState:
    """Boxes brought up to date, and whether everybody just vanished."""
    blend = 1 - math.exp(-dt / settings.smooth_s)

    def fresh(person: Person | None) -> Person | None:
        track = tracks.get(person.track) if person else None
        if person is None or track is None or track.seen_s != time_s:
            return person
        x = person.x + blend * (track.box.cx - person.x)
        return person.model_copy(update={"box": track.box, "seen_s": time_s, "x": x})

    places = (fresh(state.places[0]), fresh(state.places[1]))
    known = [p for p in places if p]
    somebody = any(p.seen_s == time_s for p in known)
    just = sum(p.seen_s == state.time_s for p in known)
    update: dict[str, object] = {"places": places, "time_s": time_s}
    if somebody or not known:
        update |= {"vanished_s": None, "vanished": 0}
    elif state.vanished_s is None and just:
        update |= {"vanished_s": time_s, "vanished": just}
    return state.model_copy(update=update)


def _after_cut(
    state: PersonsState, tracks: Sequence[Track], time_s: float, settings: PersonSettings
) -> list[Track]:
    """The faces of a new scene: they came in the step in which everybody else went.

    Two who vanish at once are proof enough; with one, the new face must be seen twice.
    """
    if state.vanished_s is None:
        return []
    gone = [p for p in state.places if p]
    size = settings.cut_size * min(p.box.h for p in gone)
    hits = 1 if state.vanished > 1 else 2
    return [
        t
        for t in tracks
        if t.first_s == state.vanished_s
        and t.seen_s == time_s
        and t.hits >= hits
        and t.score >= settings.cut_score
        and t.box.h >= size
        and not any(_plausible(p, t, time_s, settings) for p in gone)
    ]


def _seated(state: PersonsState, tracks: Iterable[Track], middle: float) -> PersonsState:
    """Both places anew: the weightiest two ordered by x, or one by its side of `middle`."""
    best = sorted(tracks, key=lambda t: (-t.weight, t.id))[:2]
    people = [
        _person(state.next_id + i, t) for i, t in enumerate(sorted(best, key=lambda t: t.box.cx))
    ]
    places: Places = (None, None)
    if len(people) == 2:
        places = (people[0], people[1])
    elif people:
        places = _half(people[0], middle)
    return PersonsState(places=places, next_id=state.next_id + len(people), time_s=state.time_s)


def _half(person: Person, middle: float) -> Places:
    return (person, None) if person.x < middle else (None, person)


def _person(person_id: int, track: Track) -> Person:
    box = track.box
    return Person(id=person_id, track=track.id, box=box, seen_s=track.seen_s, x=box.cx)


def _plausible(person: Person, track: Track, time_s: float, settings: PersonSettings) -> bool:
    """Whether `track` may be the missing `person` come back: near enough and of like size."""
    a, b = person.box, track.box
    faces = settings.return_reach + settings.return_reach_per_s * (time_s - person.seen_s)
    reach = min(settings.max_return_reach, faces) * max(a.h, b.h)
    ratio = max(a.h, b.h) / min(a.h, b.h)
    near = math.hypot(a.cx - b.cx, a.cy - b.cy) <= reach
    return near and ratio <= settings.max_return_ratio


def _unplaced(state: PersonsState, tracks: Sequence[Track], time_s: float) -> list[Track]:
    """Tracks seen now that no place holds, weightiest first."""
    held = {p.track for p in state.places if p}
    free = [t for t in tracks if t.id not in held and t.seen_s == time_s]
    return sorted(free, key=lambda t: (-t.weight, t.id))


def _confirmed(track: Track, time_s: float, settings: PersonSettings) -> bool:
    age = time_s - track.first_s
    return (
        age >= settings.confirm_s
        and track.hits >= settings.confirm_hits
        and track.presence_s >= settings.confirm_share * age * 0.9
    )


def _reattached(
    state: PersonsState, tracks: Sequence[Track], time_s: float, settings: PersonSettings
) -> PersonsState:
    """Missing persons get back the new track that is plausibly them, or that only they can be."""
    places = list(state.places)
    missing = [k for k, p in enumerate(places) if p and p.seen_s != time_s]
    for track in _unplaced(state, tracks, time_s):
        open_places = [k for k in missing if places[k]]
        likely = [
            k
            for k in open_places
            if track.hits > 1 and _plausible(_held(places[k]), track, time_s, settings)
        ]
        waited = [
            k for k in open_places if time_s - _held(places[k]).seen_s >= settings.free_after_s
        ]
        choice = likely or (waited if _confirmed(track, time_s, settings) else [])
        if not choice:
            continue
        k = min(choice, key=lambda k: abs(_held(places[k]).x - track.box.cx))
        missing.remove(k)
        person = _held(places[k])
        places[k] = _person(person.id, track)
    return state.model_copy(update={"places": (places[0], places[1])})


def _held(person: Person | None) -> Person:
    """`person` of a place known to be taken."""
    if person is None:
        raise ValueError("the place is empty")
    return person


def _filled(
    state: PersonsState,
    tracks: Sequence[Track],
    time_s: float,
    frame_width: int,
    settings: PersonSettings,
) -> PersonsState:
    """Empty places go to confirmed faces; who joins may settle the sides at once."""
    empty = [k for k, p in enumerate(state.places) if p is None]
    if not empty:
        return state
    confirmed = [t for t in _unplaced(state, tracks, time_s) if _confirmed(t, time_s, settings)]
    if len(empty) == 2:
        return _seated(state, confirmed, frame_width / 2) if confirmed else state
    other = _held(state.places[1 - empty[0]])
    confirmed = [t for t in confirmed if t.box.h >= settings.min_size * other.box.h]
    if not confirmed:
        return state
    new = _person(state.next_id, confirmed[0])
    places: Places = (new, other) if empty[0] == 0 else (other, new)
    left, right = (new, other) if empty[0] == 0 else (other, new)
    if left.x - right.x > settings.swap_margin * frame_width:
        places = (right, left)
    return state.model_copy(
        update={"places": places, "next_id": state.next_id + 1, "changed_since": None}
    )


def _challenged(
    state: PersonsState, tracks: dict[int, Track], time_s: float, settings: PersonSettings
) -> PersonsState:
    """A third person takes the place of the lighter one after outweighing it long enough."""
    held = [tracks[p.track] for p in state.places if p and p.track in tracks]
    calm = state.model_copy(update={"rival": None, "rival_since": None})
    others = _unplaced(state, list(tracks.values()), time_s)
    if len(held) < 2 or not others:
        return calm
    weak, rival = min(held, key=lambda t: (t.weight, t.id)), others[0]
    if rival.weight <= settings.rival_factor * weak.weight:
        return calm
    since = (
        state.rival_since if state.rival == rival.id and state.rival_since is not None else time_s
    )
    if time_s - since < settings.rival_s:
        return state.model_copy(update={"rival": rival.id, "rival_since": since})
    new = _person(state.next_id, rival)
    a, b = (new if p and p.track == weak.id else p for p in state.places)
    return calm.model_copy(update={"places": (a, b), "next_id": state.next_id + 1})


def _sides(
    state: PersonsState, time_s: float, frame_width: int, settings: PersonSettings
) -> PersonsState:
    """Swap the places when the two have been on each other's side long and clearly enough.

    Someone alone is measured against the middle. While one of two is missing nobody swaps: where
    the missing one is, nobody knows.
    """
    left, right = state.places
    if state.sided and not (left and right):
        return state
    seen = [p for p in state.places if p and p.seen_s == time_s]
    if len(seen) < sum(p is not None for p in state.places) or not seen:
        return state.model_copy(update={"changed_since": None})
    middle = frame_width / 2
    apart = (left.x if left else middle) - (right.x if right else middle)
    if apart <= settings.swap_margin * frame_width:
        return state.model_copy(update={"changed_since": None})
    since = time_s if state.changed_since is None else state.changed_since
    if time_s - since < settings.swap_dwell_s:
        return state.model_copy(update={"changed_since": since})
    return state.model_copy(update={"places": (right, left), "changed_since": None})
