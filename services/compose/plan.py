"""The pure decision for a batch: which rectangle of each frame goes to which tile.

`plan_batch` is a function of the state before the batch and what detection saw in it; the same
input gives the same plan to the last bit, so a repeat of a batch renders the same picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import NamedTuple

from services.compose import camera as cam
from services.compose import persons as who
from services.compose import tracker as trk
from services.compose.camera import Camera, Framing, Subject
from shared.faces import BatchFaces
from shared.jobs import Model, OutputPlan, SourceInfo
from shared.tracks import BatchPlan as BatchPlan
from shared.tracks import FaceBox, Pair

STATE_VERSION = 1

Cameras = tuple[Camera, Camera]
"""Of the first (left, top) and the second place."""


class ComposeSettings(Model):
    """What steers the plan; every part has defaults that suit two people in a conversation."""

    tracker: trk.TrackerSettings = trk.TrackerSettings()
    persons: who.PersonSettings = who.PersonSettings()
    camera: cam.CameraSettings = cam.CameraSettings()


class ComposeState(Model):
    """All that planning remembers of a job between two batches; `time_s` is of the last frame."""

    version: int = STATE_VERSION
    time_s: float | None = None
    tracker: trk.TrackerState = trk.TrackerState()
    persons: who.PersonsState = who.PersonsState()
    cameras: Cameras | None = None

    @property
    def people(self) -> int:
        """How many main persons the job has shown so far."""
        return self.persons.next_id - 1


class _Step(NamedTuple):
    """One detection: its frame, the state after it, and what it means for the two places.

    `subjects` are None where nobody is or somebody is missing; `returned` marks who was missing
    until now.
    """

    frame: int
    tracker: trk.TrackerState
    persons: who.PersonsState
    change: who.Change
    subjects: tuple[Subject | None, Subject | None]
    returned: tuple[bool, bool]


def plan_batch(
    state: ComposeState,
    faces: BatchFaces,
    pts: Sequence[int],
    source: SourceInfo,
    output: OutputPlan,
    settings: ComposeSettings,
) -> tuple[ComposeState, BatchPlan]:
    """The plan of a job's next batch, whose frames are shown at `pts`, and the state after it.

    Who is where depends on no detection later than the frame's next one, with one exception: the
    very first batch is looked through as a whole, so that the video begins with settled views.
    Cameras also know of where a person goes in the rest of the batch, and make room for it.

    Raises ValueError when `faces` do not belong to a batch of `len(pts)` frames.
    """
    if not pts:
        return state, BatchPlan(views=(), frames=(), persons=(), seen=())
    _check(faces, len(pts))
    tick = source.tick_s
    times = [float(p * tick) for p in pts]
    crew = _Crew(
        cam.framing(source, output, 0, settings.camera),
        cam.framing(source, output, 1, settings.camera),
        settings.camera,
    )
    persons, cameras = state.persons, state.cameras
    if cameras is None:
        persons = _first_persons(faces, times, source.width, settings)
        steps = _follow(state.tracker, persons, faces, times, source.width, settings)
        cameras = crew.first(persons, steps)
    else:
        steps = _follow(state.tracker, persons, faces, times, source.width, settings)
    views, cuts, cameras = crew.shoot(cameras, persons, steps, times, state.time_s)
    after = ComposeState(
        time_s=times[-1], tracker=steps[-1].tracker, persons=steps[-1].persons, cameras=cameras
    )
    return after, BatchPlan(
        views=views,
        frames=faces.frames,
        persons=tuple(_identities(s.persons) for s in steps),
        seen=tuple(sum(x is not None for x in s.subjects) for s in steps),
        cuts=cuts,
        boxes=tuple((_box(s.subjects[0]), _box(s.subjects[1])) for s in steps),
    )


def _box(subject: Subject | None) -> FaceBox | None:
    """Where the face was seen, in whole px: for lines around it, and short in the ledger."""
    if subject is None:
        return None
    left, top = round(subject.cx - subject.w / 2), round(subject.cy - subject.h / 2)
    return FaceBox(left, top, round(subject.w), round(subject.h))


def _check(faces: BatchFaces, frames: int) -> None:
    """Detections must be ascending, paired with frames, and include the first and last frame."""
    index = faces.frames
    if len(index) != len(faces.faces):
        raise ValueError(f"{len(index)} frames with detections, but {len(faces.faces)} lists")
    if not index or index[0] != 0 or index[-1] != frames - 1:
        raise ValueError(f"detections must include the first and last of {frames} frames")
    if any(a >= b for a, b in pairwise(index)):
        raise ValueError("the frames of detections must ascend")


def _identities(persons: who.PersonsState) -> tuple[int, int]:
    a, b = persons.places
    return (a.id if a else 0), (b.id if b else 0)


def _follow(
    tracker: trk.TrackerState,
    persons: who.PersonsState,
    faces: BatchFaces,
    times: Sequence[float],
    frame_width: int,
    settings: ComposeSettings,
) -> list[_Step]:
    """The batch's detections, one after the other."""
    steps = []
    for frame, found in zip(faces.frames, faces.faces, strict=True):
        time_s = times[frame]
        tracker = trk.update(tracker, found, time_s, settings.tracker)
        before = persons
        persons = who.update(before, tracker.tracks, time_s, frame_width, settings.persons)
        missed = {p.id for p in before.places if p and p.seen_s != before.time_s}
        a, b = persons.places
        subjects = _subject(a, tracker, time_s), _subject(b, tracker, time_s)
        returned = (
            subjects[0] is not None and a is not None and a.id in missed,
            subjects[1] is not None and b is not None and b.id in missed,
        )
        steps.append(
            _Step(frame, tracker, persons, who.change(before, persons), subjects, returned)
        )
    return _foreseen(steps, times)


def _foreseen(steps: Sequence[_Step], times: Sequence[float]) -> list[_Step]:
    """The same steps, whose subjects know of where they go in the rest of the batch.

    The range in which a face has been is followed backwards from the batch's end, too: a camera
    that can't keep up with a jump has made room before it.
    """
    coming: dict[int, tuple[float, trk.Range, trk.Range]] = {}
    result = []
    for step in reversed(steps):
        time_s, subjects = times[step.frame], list(step.subjects)
        for place, person in enumerate(step.persons.places):
            face = step.subjects[place]
            if person is None or face is None:
                continue
            x, y = trk.Range(face.cx, face.cx), trk.Range(face.cy, face.cy)
            if person.id in coming:
                later_s, x, y = coming[person.id]
                x = x.with_(face.cx, -face.vx, later_s - time_s)
                y = y.with_(face.cy, -face.vy, later_s - time_s)
            coming[person.id] = time_s, x, y
            subjects[place] = face.roaming(x, y)
        result.append(step._replace(subjects=(subjects[0], subjects[1])))
    return result[::-1]


def _subject(person: who.Person | None, tracker: trk.TrackerState, time_s: float) -> Subject | None:
    """The person as a camera sees it; None when missing at `time_s`."""
    if person is None or person.seen_s != time_s:
        return None
    for track in tracker.tracks:
        if track.id == person.track:
            box, (vx, vy), x, y = track.box, track.velocity, track.range_x, track.range_y
            face = Subject(box.cx, box.cy, box.w, box.h, vx, vy, drift_x=x.drift, drift_y=y.drift)
            return face.roaming(x, y)
    return None


def _first_persons(
    faces: BatchFaces, times: Sequence[float], frame_width: int, settings: ComposeSettings
) -> who.PersonsState:
    """Who the first batch as a whole shows: tracks seen in at least half of its detections.

    A face seen less often gets no tile yet, but tells on which side of somebody alone it belongs.
    """
    tracker = trk.TrackerState()
    first: dict[int, trk.Track] = {}
    final: dict[int, trk.Track] = {}
    for frame, found in zip(faces.frames, faces.faces, strict=True):
        tracker = trk.update(tracker, found, times[frame], settings.tracker)
        for track in tracker.tracks:
            first.setdefault(track.id, track)
            final[track.id] = track
    often = [t for t in final.values() if 2 * t.hits >= len(faces.frames)]
    main = sorted(often, key=lambda t: (-t.weight, t.id))[:2]
    least = settings.persons.min_size * max((t.box.h for t in main), default=0.0)
    doubtful = [t for t in final.values() if t not in main and t.hits > 1 and t.box.h >= least]
    beside = max(doubtful, key=lambda t: (t.weight, -t.id), default=None)
    hint = beside.box.cx if beside else None
    return who.seat([first[t.id] for t in main], frame_width, hint)


def _between(a: Subject, b: Subject, part: float) -> Subject:
    return Subject(*(x + part * (y - x) for x, y in zip(a, b, strict=True)))


class _Crew(NamedTuple):
    """The two cameras' limits, and how they work through a batch."""

    first_limits: Framing
    second_limits: Framing
    settings: cam.CameraSettings

    def limits(self, place: int) -> Framing:
        """Of the tile of `place`."""
        return self.second_limits if place else self.first_limits

    def first(self, persons: who.PersonsState, steps: Sequence[_Step]) -> Cameras:
        """The cameras a job begins with."""
        return self._first(persons, steps, 0), self._first(persons, steps, 1)

    def _first(self, persons: who.PersonsState, steps: Sequence[_Step], place: int) -> Camera:
        """On the middle of what the batch shows, if the person stays there; else on its start."""
        person, limits = persons.places[place], self.limits(place)
        if person is None:
            return self._default(place)
        wishes = []
        for step in steps:
            subjects = _by_id(step)
            if person.id in subjects:
                wishes.append(self._wish(subjects, person.id, place))
        if not wishes:
            return self._default(place)
        middle = cam.Wish(*(median(values) for values in zip(*wishes, strict=True)))
        centre = cam.start(middle, limits, self.settings)
        stays = not any(cam.step(centre, w, 1.0, limits, self.settings).panning for w in wishes)
        return centre if stays else cam.start(wishes[0], limits, self.settings)

    def _default(self, place: int) -> Camera:
        return cam.resting(cam.default_view(self.limits(place), place))

    def _wish(self, subjects: dict[int, Subject], person: int, place: int) -> cam.Wish:
        other = next((s for i, s in subjects.items() if i != person), None)
        return cam.wish(subjects[person], other, self.limits(place), self.settings)

    def shoot(
        self,
        cameras: Cameras,
        persons: who.PersonsState,
        steps: Sequence[_Step],
        times: Sequence[float],
        last_s: float | None,
    ) -> tuple[tuple[Pair, ...], tuple[int, ...], Cameras]:
        """Views of all frames, the frames that begin with a cut, and the cameras afterwards.

        A change of persons takes effect at the frame in which detection saw it.
        """
        views: list[Pair] = []
        cuts: list[int] = []
        before: dict[int, Subject] = {}
        start, now = 0, times[0] if last_s is None else last_s
        for step in steps:
            after = _by_id(step)
            for frame in range(start, step.frame + 1):
                dt, now = max(0.0, times[frame] - now), times[frame]
                if frame == step.frame:
                    cameras, cut = self._changed(cameras, persons, step)
                    persons, subjects = step.persons, after
                else:
                    part = (frame - start + 1) / (step.frame - start + 1)
                    subjects = {
                        i: _between(s, after[i], part) for i, s in before.items() if i in after
                    }
                    cut = False
                cameras, lost = self._stepped(cameras, persons, subjects, now, dt)
                if cut or lost:
                    cuts.append(frame)
                views.append(
                    (
                        cam.view(cameras[0], self.first_limits),
                        cam.view(cameras[1], self.second_limits),
                    )
                )
            start, before = step.frame + 1, after
        return tuple(views), tuple(cuts), cameras

    def _changed(
        self, cameras: Cameras, before: who.PersonsState, step: _Step
    ) -> tuple[Cameras, bool]:
        """The cameras after a swap, a new person, or a place that fell empty.

        Who joins in a place that was empty is moved in on from the wide view, if in it.
        """
        a, b = cameras
        if step.change.swapped:
            a, b = b, a
        pair, subjects, cut = [a, b], _by_id(step), step.change.swapped
        left = {p.id for p in before.places if p} - {p.id for p in step.persons.places if p}
        for place, person in enumerate(step.persons.places):
            if person is None:
                pair[place] = self._default(place)
            elif person.id in subjects:
                joins = before.places[place] is None and not left and not step.change.swapped
                new = step.change.fresh[place] and not joins
                if new or self._came_from_afar(pair[place], step, place):
                    wanted = self._wish(subjects, person.id, place)
                    pair[place], cut = cam.start(wanted, self.limits(place), self.settings), True
        return (pair[0], pair[1]), cut

    def _came_from_afar(self, camera: Camera, step: _Step, place: int) -> bool:
        """Whether somebody new or missing until now is out of view: to be cut to, not swept to."""
        subject = step.subjects[place]
        if subject is None or not (step.returned[place] or step.change.fresh[place]):
            return False
        return not cam.shows(camera, subject.cx, subject.cy, self.limits(place))

    def _stepped(
        self,
        cameras: Cameras,
        persons: who.PersonsState,
        subjects: dict[int, Subject],
        now: float,
        dt: float,
    ) -> tuple[Cameras, bool]:
        """Both cameras moved by `dt`; the flag tells that one had lost its person and cut."""
        pair, cut = list(cameras), False
        for place, person in enumerate(persons.places):
            limits, wanted = self.limits(place), None
            if person and person.id in subjects:
                wanted = self._wish(subjects, person.id, place)
            elif person and now - person.seen_s > self.settings.keep_s:
                wanted = cam.opened(limits, place, self.settings)
            pair[place] = cam.step(pair[place], wanted, dt, limits, self.settings)
            if wanted and pair[place].outside_s > self.settings.outside_s:
                pair[place], cut = cam.start(wanted, limits, self.settings), True
        return (pair[0], pair[1]), cut


def _by_id(step: _Step) -> dict[int, Subject]:
    """The persons seen at a detection, by identity."""
    pairs = zip(step.persons.places, step.subjects, strict=True)
    return {p.id: s for p, s in pairs if p is not None and s is not None}
