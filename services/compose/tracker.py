"""Follow faces from detection to detection: ByteTrack with its state outside of the program.

Zhang et al., "ByteTrack: Multi-Object Tracking by Associating Every Detection Box", ECCV 2022:
a constant-velocity Kalman filter on (centre x, centre y, aspect, height), confident detections
matched first, then doubtful ones to what is still unmatched. Three things differ, because faces
are small and looked for only every few frames:

- boxes are grown before their IoU is taken, as in C-BIoU (Yang et al., "Hard to Track Objects with
  Irregular Motions and Similar Appearances?", WACV 2023);
- what overlaps nowhere may still match by distance, within what a walking person covers;
- time is in seconds, so that neither the frame rate nor the detection interval is built in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import lap
import numpy as np
from pydantic import Field

from shared.faces import Face
from shared.jobs import Model

NOMINAL_FPS = 30.0
"""ByteTrack states its noise per frame; that frame is taken as 1/30 s."""

POSITION_STD = 1 / 20
VELOCITY_STD = 1 / 160
"""Noise of position and of velocity per frame, as parts of the box height (ByteTrack's values)."""

ASPECT_STD = 1e-2
ASPECT_VELOCITY_STD = 1e-5
ASPECT_MEASURED_STD = 1e-1
"""The same for width / height, absolute (ByteTrack's values)."""

LOST_VELOCITY_DECAY_S = 0.5
"""Nobody out of sight walks on for ever: the velocity of a lost track decays with this constant."""


RANGE_S = 2.0
"""Time constant with which the edges of where a face has been are forgotten."""

DRIFT_S = 0.5
"""Time constant of the velocity that these edges are carried along with: a walk, not a jump."""


class TrackerSettings(Model):
    """Thresholds of the association; scores are 0..1, lengths in face heights."""

    high_score: float = Field(default=0.6, description="from here a detection is confident")
    low_score: float = Field(default=0.3, description="below, a detection is ignored")
    new_score: float = Field(default=0.6, description="from here a detection may found a track")
    lost_s: float = Field(default=1.0, gt=0, description="ByteTrack's 30 frames at 30 fps")
    box_growth: float = Field(default=0.3, description="C-BIoU's first buffer, each side")
    min_overlap: float = Field(default=0.2, description="grown IoU x score, confident detections")
    min_low_overlap: float = Field(default=0.4, description="grown IoU, doubtful detections")
    reach: float = Field(default=0.5, description="distance a match without overlap may span")
    reach_per_s: float = Field(
        default=12.0, description="and per second: walking (1.4 m/s) is 6 faces, jumping 13"
    )
    max_reach: float = 2.5
    only_score: float = Field(default=0.5, description="of the only face left for the only track")
    only_reach: float = Field(default=4.0, description="and how far it may be")
    max_size_ratio: float = Field(default=1.6, description="of heights, for matching by distance")
    presence_s: float = Field(default=5.0, gt=0, description="memory of how long one was seen")
    max_tracks: int = Field(default=12, ge=2, description="bounds the state")
    max_faces: int = Field(default=32, ge=2, description="per frame; the best by score")


class Box(NamedTuple):
    """Centre and size in px of the upright source frame."""

    cx: float
    cy: float
    w: float
    h: float


class Axis(NamedTuple):
    """Kalman filter of one coordinate: value, change per 1/30 s, and their covariance.

    ByteTrack's eight-dimensional filter couples no two coordinates (its noise is diagonal), so
    four of these are the same filter, and a fifth of its size.
    """

    x: float
    v: float
    xx: float
    xv: float
    vv: float

    def predicted(self, frames: float, x_std: float, v_std: float) -> Axis:
        """After `frames` nominal frames, with that many times the noise per frame."""
        xx = self.xx + 2 * frames * self.xv + frames * frames * self.vv + frames * x_std * x_std
        return Axis(
            self.x + frames * self.v,
            self.v,
            xx,
            self.xv + frames * self.vv,
            self.vv + frames * v_std * v_std,
        )

    def measured(self, z: float, std: float) -> Axis:
        """Corrected by a measurement `z` with standard deviation `std`."""
        scale = 1 / (self.xx + std * std)
        kx, kv = self.xx * scale, self.xv * scale
        error = z - self.x
        return Axis(
            self.x + kx * error,
            self.v + kv * error,
            (1 - kx) * self.xx,
            (1 - kx) * self.xv,
            self.vv - kv * self.xv,
        )


class Range(NamedTuple):
    """Where a face has been lately along one coordinate, px; the rear edge goes along with `drift`.

    Empty around who walks steadily, as wide as the jump around who jumps. `drift` is px/s.
    """

    lo: float
    hi: float
    drift: float = 0.0

    def with_(self, z: float, velocity: float, dt: float) -> Range:
        """After `dt` seconds at whose end the face is at `z`, moving with `velocity` (px/s)."""
        shift, kept = self.drift * dt, math.exp(-dt / RANGE_S)
        lo = z + (self.lo + max(0.0, shift) - z) * kept
        hi = z + (self.hi + min(0.0, shift) - z) * kept
        drift = velocity + (self.drift - velocity) * math.exp(-dt / DRIFT_S)
        return Range(min(z, lo), max(z, hi), drift)


class Track(Model):
    """One face over time. `first_s` and `seen_s`: first and latest detection, stream seconds."""

    id: int
    cx: Axis
    cy: Axis
    aspect: Axis
    height: Axis
    range_x: Range
    range_y: Range
    score: float
    hits: int
    first_s: float
    seen_s: float
    presence_s: float = Field(description="seconds seen, forgotten with TrackerSettings.presence_s")

    @property
    def box(self) -> Box:
        """The filtered box."""
        h = max(1.0, self.height.x)
        return Box(self.cx.x, self.cy.x, max(1.0, self.aspect.x * h), h)

    @property
    def velocity(self) -> tuple[float, float]:
        """Of the centre, px per second."""
        return self.cx.v * NOMINAL_FPS, self.cy.v * NOMINAL_FPS

    @property
    def weight(self) -> float:
        """How much of a main person this is: presence times size."""
        return self.presence_s * self.box.h


class TrackerState(Model):
    """All that is remembered between two detections. `time_s` is None before the first."""

    tracks: tuple[Track, ...] = ()
    next_id: int = 1
    time_s: float | None = None


def update(
    state: TrackerState, faces: Sequence[Face], time_s: float, settings: TrackerSettings
) -> TrackerState:
    """The state after the detections `faces` of the frame at `time_s` (later than the state's)."""
    dt = 0.0 if state.time_s is None else max(0.0, time_s - state.time_s)
    tracks = [_predicted(track, dt, state.time_s, settings) for track in state.tracks]
    best = sorted(faces, key=lambda f: (-f.score, f.x, f.y))[: settings.max_faces]
    pairs = list(zip(state.tracks, tracks, strict=True))
    matched, left = _associate(pairs, best, state.time_s, dt, settings)
    kept = [
        _measured(track, matched[i], time_s, dt) if i in matched else track
        for i, track in enumerate(tracks)
        if i in matched or _may_return(track, time_s, settings)
    ]
    founded = [face for face in left if face.score >= settings.new_score]
    new = [_founded(state.next_id + i, face, time_s) for i, face in enumerate(founded)]
    return TrackerState(
        tracks=_bounded(kept + new, settings.max_tracks),
        next_id=state.next_id + len(new),
        time_s=time_s,
    )


def _may_return(track: Track, time_s: float, settings: TrackerSettings) -> bool:
    """An unmatched track is kept when seen more than once (ByteTrack: confirmed) and lately."""
    return track.hits > 1 and time_s - track.seen_s <= settings.lost_s


def _bounded(tracks: Sequence[Track], limit: int) -> tuple[Track, ...]:
    """The `limit` weightiest, in order of their ids."""
    best = sorted(tracks, key=lambda t: (-t.weight, t.id))[:limit]
    return tuple(sorted(best, key=lambda t: t.id))


def _predicted(track: Track, dt: float, last_s: float | None, settings: TrackerSettings) -> Track:
    """Moved on by `dt` seconds; a lost one slows down and keeps its size (as in ByteTrack)."""
    frames, h = dt * NOMINAL_FPS, track.box.h
    lost = track.seen_s != last_s
    slow = math.exp(-dt / LOST_VELOCITY_DECAY_S) if lost else 1.0
    position, velocity = POSITION_STD * h, VELOCITY_STD * h
    height = track.height._replace(v=0.0) if lost else track.height
    return track.model_copy(
        update={
            "cx": track.cx._replace(v=track.cx.v * slow).predicted(frames, position, velocity),
            "cy": track.cy._replace(v=track.cy.v * slow).predicted(frames, position, velocity),
            "aspect": track.aspect.predicted(frames, ASPECT_STD, ASPECT_VELOCITY_STD),
            "height": height.predicted(frames, position, velocity),
            "presence_s": track.presence_s * math.exp(-dt / settings.presence_s),
        }
    )


def _measured(track: Track, face: Face, time_s: float, dt: float) -> Track:
    std = POSITION_STD * track.box.h
    seen = _box(face)
    cx, cy = track.cx.measured(seen.cx, std), track.cy.measured(seen.cy, std)
    unseen_s = time_s - track.seen_s
    return track.model_copy(
        update={
            "cx": cx,
            "cy": cy,
            "range_x": track.range_x.with_(seen.cx, cx.v * NOMINAL_FPS, unseen_s),
            "range_y": track.range_y.with_(seen.cy, cy.v * NOMINAL_FPS, unseen_s),
            "aspect": track.aspect.measured(seen.w / seen.h, ASPECT_MEASURED_STD),
            "height": track.height.measured(seen.h, std),
            "score": face.score,
            "hits": track.hits + 1,
            "seen_s": time_s,
            "presence_s": track.presence_s + dt,
        }
    )


def _founded(track_id: int, face: Face, time_s: float) -> Track:
    """A new track; the first deviations are twice (position) and ten times (velocity) the noise."""
    box = _box(face)
    position, velocity = (2 * POSITION_STD * box.h) ** 2, (10 * VELOCITY_STD * box.h) ** 2
    return Track(
        id=track_id,
        cx=Axis(box.cx, 0.0, position, 0.0, velocity),
        cy=Axis(box.cy, 0.0, position, 0.0, velocity),
        aspect=Axis(box.w / box.h, 0.0, ASPECT_STD**2, 0.0, ASPECT_VELOCITY_STD**2),
        height=Axis(box.h, 0.0, position, 0.0, velocity),
        range_x=Range(box.cx, box.cx),
        range_y=Range(box.cy, box.cy),
        score=face.score,
        hits=1,
        first_s=time_s,
        seen_s=time_s,
        presence_s=1 / NOMINAL_FPS,
    )


def _box(face: Face) -> Box:
    return Box(face.x + face.w / 2, face.y + face.h / 2, face.w, face.h)


Pair = tuple[Track, Track]
"""A track as it was and as predicted."""

Gain = Callable[[Pair, Face], float]


def _associate(
    tracks: Sequence[Pair],
    faces: Sequence[Face],
    last_s: float | None,
    dt: float,
    settings: TrackerSettings,
) -> tuple[dict[int, Face], list[Face]]:
    """Track index -> its face, and the confident faces that nobody claims.

    Stages: established tracks with confident faces by overlap; those seen last time with doubtful
    faces; established ones by distance; then tracks seen only once; at last the only track and the
    only face that are left, further apart than anybody walks: children jump. A face may fit where
    the track was as well as where it should be: who turns round in between is nearer to the first.
    """
    matched: dict[int, Face] = {}
    high = [f for f in faces if f.score >= settings.high_score]
    low = [f for f in faces if settings.low_score <= f.score < settings.high_score]

    def stage(rows: list[int], pool: list[Face], gain: Gain, least: float) -> None:
        rows = [i for i in rows if i not in matched]
        pairs = _assign([tracks[i] for i in rows], pool, gain, least)
        for row, column in pairs:
            matched[rows[row]] = pool[column]
        taken = {column for _, column in pairs}
        pool[:] = [face for j, face in enumerate(pool) if j not in taken]

    def overlap(pair: Pair, face: Face) -> float:
        return max(grown_iou(t.box, _box(face), settings.box_growth) for t in pair)

    def near(pair: Pair, face: Face) -> float:
        waited = dt + ((last_s or 0.0) - pair[0].seen_s)
        return max(_nearness(t.box, _box(face), waited, settings) for t in pair)

    known = [i for i, (t, _) in enumerate(tracks) if t.hits > 1]
    fresh = [i for i, (t, _) in enumerate(tracks) if t.hits == 1]
    watched = [i for i in known if tracks[i][0].seen_s == last_s]
    stage(known, high, lambda t, f: overlap(t, f) * f.score, settings.min_overlap)
    stage(watched, low, overlap, settings.min_low_overlap)
    stage(known, high, near, 0.0)
    stage(fresh, high, lambda t, f: max(overlap(t, f), near(t, f)), 0.0)
    remaining = [i for i in known + fresh if i not in matched]
    likely = [f for f in [*high, *low] if f.score >= settings.only_score]
    if len(remaining) == len(likely) == 1:
        (row,), (face,) = remaining, likely
        if _may_be(tracks[row][0].box, _box(face), settings):
            matched[row] = face
            high = [f for f in high if f is not face]
    return matched, high


def _assign(
    tracks: Sequence[Pair], faces: Sequence[Face], gain: Gain, least: float
) -> list[tuple[int, int]]:
    """One-to-one pairs (track, face) of the largest total gain, each gain above `least`."""
    if not tracks or not faces:
        return []
    cost = np.array([[1.0 - gain(t, f) for f in faces] for t in tracks], dtype=np.float64)
    _, columns, _ = lap.lapjv(cost, extend_cost=True, cost_limit=1.0 - least)
    pairs = [(row, int(column)) for row, column in enumerate(columns) if column >= 0]
    return [(r, c) for r, c in pairs if cost[r, c] < 1.0 - least]


def grown_iou(a: Box, b: Box, growth: float) -> float:
    """IoU of two boxes, each grown by `growth` of its own size on every side (C-BIoU)."""
    scale = 1 + 2 * growth
    aw, ah, bw, bh = a.w * scale, a.h * scale, b.w * scale, b.h * scale
    w = min(a.cx + aw / 2, b.cx + bw / 2) - max(a.cx - aw / 2, b.cx - bw / 2)
    h = min(a.cy + ah / 2, b.cy + bh / 2) - max(a.cy - ah / 2, b.cy - bh / 2)
    if w <= 0 or h <= 0:
        return 0.0
    return w * h / (aw * ah + bw * bh - w * h)


def _may_be(a: Box, b: Box, settings: TrackerSettings) -> bool:
    """True unless sizes or places are too different, where there is nobody else to be."""
    mean = (a.h + b.h) / 2
    alike = max(a.h, b.h) <= settings.max_size_ratio * min(a.h, b.h)
    return alike and math.hypot(a.cx - b.cx, a.cy - b.cy) <= settings.only_reach * mean


def _nearness(a: Box, b: Box, waited_s: float, settings: TrackerSettings) -> float:
    """1 at the same place down to 0 at the edge of what is reachable in `waited_s`."""
    if max(a.h, b.h) > settings.max_size_ratio * min(a.h, b.h):
        return 0.0
    faces = min(settings.max_reach, settings.reach + settings.reach_per_s * waited_s)
    return max(0.0, 1.0 - math.hypot(a.cx - b.cx, a.cy - b.cy) / (faces * (a.h + b.h) / 2))
