"""One virtual camera: a rectangle of the source that frames a person's head and shoulders.

It rests while the person stays inside a dead zone, follows when they leave it, and rests again
once it has caught up. Its motion is a point limited in speed, smoothed by a critically damped
second-order filter that is solved in closed form over each frame: nothing depends on the frame rate
or on how frames are grouped. With top speed V and natural frequency w, the speed never exceeds V
and the acceleration never 2 V w / e (the filter's step response is t w^2 exp(-w t), whose total
variation is 2 w / e); a filter without overshoot never leaves the frame by itself.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from pydantic import Field

from services.compose.tracker import Range
from shared.jobs import Model, OutputPlan, SourceInfo
from shared.tracks import View as View

GRID = 256
"""Views are multiples of 1/256 px: exact in binary, short in JSON, finer than anything drawn."""

STILL = 2e-4
"""Parts of the view's height: nearer to its goal than this, and slower per s, a camera stands."""

LONGEST_STEP_S = 0.1
"""What takes longer from one frame to the next is a gap, by whose end the camera has arrived."""


class CameraSettings(Model):
    """Framing as parts of the view's height; speeds per second."""

    face_heights: float = Field(default=3.2, gt=1, description="view height in face heights")
    eyes: float = Field(
        default=0.40, description="eye line from the top: the rule of thirds, eased"
    )
    max_upscale: float = Field(default=3.0, gt=0, description="output px per source px, at most")
    free: float = Field(
        default=0.14, ge=0, description="who moves about further than this gets a wider view"
    )
    room: float = Field(
        default=2.0, ge=1, description="times as much: who jumped so far may jump further"
    )
    dead_x: float = Field(default=0.07, description="the person may move so far, either way")
    dead_y: float = Field(default=0.06, description="the same, up and down")
    dead_zoom: float = Field(
        default=0.14, description="and so much larger or smaller (natural log)"
    )
    settled: float = Field(
        default=0.02, description="caught up: nearer than this, and slower per s"
    )
    settled_zoom: float = 0.03
    aim_s: float = Field(default=0.1, gt=0, description="time constant that calms the position")
    aim_zoom_s: float = Field(default=0.6, gt=0, description="and the size, when it shrinks")
    aim_wide_s: float = Field(default=0.15, gt=0, description="and when it grows")
    look_ahead_s: float = Field(default=0.25, ge=0, description="makes up for the filters' delay")
    speed: float = Field(default=2.0, gt=0, description="top speed, view heights per second")
    zoom_speed: float = Field(default=0.6, gt=0, description="natural log per second")
    frequency: float = Field(default=6.5, gt=0, description="of the position's filter, rad/s")
    zoom_frequency: float = Field(default=2.5, gt=0, description="of the zoom's filter, rad/s")
    keep_s: float = Field(
        default=2.0, ge=0, description="the view of a missing one is kept, then opens to the half"
    )
    outside_s: float = Field(
        default=0.4, description="cut after the face is out of view for so long"
    )
    apart: float = Field(
        default=0.25, ge=0, description="shift, to keep out half a neighbour's face"
    )


EYES_IN_BOX = 0.42
"""Where a detector's face box (forehead to chin) has the eyes, from its top."""


class Wish(NamedTuple):
    """The view a face asks for: its centre x and line of the eyes in px, natural log of its height;
    and where the face itself is."""

    x: float
    eyes: float
    zoom: float
    face_x: float
    face_y: float


class Subject(NamedTuple):
    """A face at one instant: centre, size, velocity of the centre; px and px/s.

    Lately the centre has been `left` to `right` px beside and `above` to `below` px over and under
    where it is now (all at least 0), seen from somebody who moves along with `drift_x`, `drift_y`.
    """

    cx: float
    cy: float
    w: float
    h: float
    vx: float = 0.0
    vy: float = 0.0
    left: float = 0.0
    right: float = 0.0
    above: float = 0.0
    below: float = 0.0
    drift_x: float = 0.0
    drift_y: float = 0.0

    def roaming(self, x: Range, y: Range) -> Subject:
        """The same face, known to be in these ranges as well."""
        return self._replace(
            left=max(self.left, self.cx - x.lo),
            right=max(self.right, x.hi - self.cx),
            above=max(self.above, self.cy - y.lo),
            below=max(self.below, y.hi - self.cy),
        )


class Framing(NamedTuple):
    """What a tile allows: `aspect` is width / height in source px, heights are of the view."""

    frame_w: int
    frame_h: int
    aspect: float
    min_h: float
    max_h: float


class Axis(NamedTuple):
    """One coordinate of a camera: where it is, its velocity, the point it is drawn to (limited in
    speed), and where that point heads for."""

    pos: float
    vel: float
    lead: float
    goal: float

    @classmethod
    def at(cls, value: float) -> Axis:
        """At rest."""
        return cls(value, 0.0, value, value)


class Camera(Model):
    """x and y are of the view's centre in px, `zoom` is the natural log of its height in px.

    `aim_*` are the calmed wishes; `panning` and `zooming` tell following from resting.
    """

    x: Axis
    y: Axis
    zoom: Axis
    aim_x: float
    aim_y: float
    aim_zoom: float
    panning: bool = False
    zooming: bool = False
    outside_s: float = 0.0


def framing(source: SourceInfo, output: OutputPlan, tile: int, settings: CameraSettings) -> Framing:
    """The limits of `tile` (0 or 1); where the frame is too small for the zoom limit, it wins."""
    rect = output.tiles[tile]
    numerator, denominator = source.sample_aspect
    pixel = numerator / denominator if numerator > 0 and denominator > 0 else 1.0
    aspect = rect.w / rect.h / pixel
    largest = min(float(source.height), source.width / aspect)
    # Pixels taller than wide are enlarged most across, others most down.
    smallest = max(rect.h, rect.w / aspect) / settings.max_upscale
    return Framing(source.width, source.height, aspect, min(smallest, largest), largest)


def default_view(limits: Framing, tile: int) -> View:
    """The largest view of the tile's shape in its half of the frame."""
    height = min(limits.max_h, limits.frame_w / 2 / limits.aspect)
    x = limits.frame_w * (0.25 if tile == 0 else 0.75)
    return _view(x, limits.frame_h / 2, height, limits)


def opened(limits: Framing, tile: int, settings: CameraSettings) -> Wish:
    """The wish for the default view."""
    view = default_view(limits, tile)
    x, y = view.x + view.w / 2, view.y + view.h / 2
    return Wish(x, y - (0.5 - settings.eyes) * view.h, math.log(view.h), x, y)


def wish(face: Subject, other: Subject | None, limits: Framing, settings: CameraSettings) -> Wish:
    """The view that `face` asks for, with an eye on the `other` person's face.

    Whoever moves about faster than a steady camera follows gets a view that holds the whole of it.
    """
    calm = min(max(face.h * settings.face_heights, limits.min_h), limits.max_h)
    free = settings.free * calm
    roomy = calm + settings.room * max(
        0.0,
        face.above + face.below - free,
        (face.left + face.right - free) / limits.aspect,
    )
    height = min(roomy, limits.max_h)
    free_x, free_y = (free + (height - calm) * side for side in (limits.aspect, 1.0))
    ahead = settings.look_ahead_s
    x = face.cx + _held(face.vx * ahead, face.drift_x * ahead, -face.left, face.right, free_x)
    y = _held(face.vy * ahead, face.drift_y * ahead, -face.above, face.below, free_y)
    if other is not None:
        x += _shift(face, other, height, limits, settings)
    eyes = face.cy + (EYES_IN_BOX - 0.5) * face.h
    return Wish(x, eyes + y, math.log(height), face.cx, face.cy)


def _held(ahead: float, drift: float, lo: float, hi: float, free: float) -> float:
    """The middle nearest to `ahead` whose free zone holds lo..hi, px from the face.

    Who walks is ahead of lo..hi: by `drift` of the walk, but not after coming to a halt.
    """
    walked = min(max(drift, min(ahead, 0.0)), max(ahead, 0.0))
    least, most = hi + walked - free / 2, lo + walked + free / 2
    if least > most:
        return (least + most) / 2
    return min(max(ahead, least), most)


def _shift(
    face: Subject, other: Subject, height: float, limits: Framing, settings: CameraSettings
) -> float:
    """Away from a neighbour whose face is cut by the view's edge, as far as that helps.

    Grows with the part that shows, and fades where the shift allowed could not hide it, so that
    it is continuous in both positions.
    """
    side = 1.0 if other.cx >= face.cx else -1.0
    half = height * limits.aspect / 2
    gap = side * (other.cx - face.cx) - other.w / 2
    level = max(0.0, 1 - abs(other.cy - face.cy) / height)
    part, most = half - gap, settings.apart * height
    return -side * level * max(0.0, min(part, 2 * most - part))


def start(wanted: Wish, limits: Framing, settings: CameraSettings) -> Camera:
    """A camera that rests on its subject: the first view of a person, or the one after a cut."""
    y = _centre_y(wanted.eyes, wanted.zoom, settings)
    cx, cy = _inside(wanted.x, y, math.exp(wanted.zoom), limits)
    return Camera(
        x=Axis.at(cx),
        y=Axis.at(cy),
        zoom=Axis.at(wanted.zoom),
        aim_x=wanted.x,
        aim_y=wanted.eyes,
        aim_zoom=wanted.zoom,
    )


def resting(view: View) -> Camera:
    """A camera that shows `view`."""
    x, y, zoom = view.x + view.w / 2, view.y + view.h / 2, math.log(view.h)
    return Camera(x=Axis.at(x), y=Axis.at(y), zoom=Axis.at(zoom), aim_x=x, aim_y=y, aim_zoom=zoom)


def _centre_y(eyes: float, zoom: float, settings: CameraSettings) -> float:
    return eyes + (0.5 - settings.eyes) * math.exp(zoom)


def _inside(x: float, y: float, height: float, limits: Framing) -> tuple[float, float]:
    """The nearest centre whose view of `height` lies in the frame."""
    half_w, half_h = height * limits.aspect / 2, height / 2
    cx = min(max(x, half_w), max(half_w, limits.frame_w - half_w))
    cy = min(max(y, half_h), max(half_h, limits.frame_h - half_h))
    return cx, cy


def view(camera: Camera, limits: Framing) -> View:
    """What the camera shows."""
    return _view(camera.x.pos, camera.y.pos, math.exp(camera.zoom.pos), limits)


def _view(x: float, y: float, height: float, limits: Framing) -> View:
    h = math.floor(min(max(height, limits.min_h), limits.max_h) * GRID) / GRID
    w = min(round(h * limits.aspect * GRID) / GRID, float(limits.frame_w))
    left = min(max(round((x - w / 2) * GRID) / GRID, 0.0), limits.frame_w - w)
    top = min(max(round((y - h / 2) * GRID) / GRID, 0.0), limits.frame_h - h)
    return View(left, top, w, h)


def step(
    camera: Camera,
    wanted: Wish | None,
    dt: float,
    limits: Framing,
    settings: CameraSettings,
) -> Camera:
    """The camera `dt` seconds later; without a wish it comes to rest where it was heading."""
    if wanted is not None:
        camera = _aimed(camera, wanted, dt, limits, settings)
    size = math.exp(camera.zoom.pos)
    top = settings.speed * size
    # Who follows must not stop and start again; only what rests comes to a full stop.
    still = 0.0 if camera.panning else STILL * size
    still_zoom = 0.0 if camera.zooming else STILL
    return camera.model_copy(
        update={
            "x": _moved(camera.x, dt, top, settings.frequency, still),
            "y": _moved(camera.y, dt, top, settings.frequency, still),
            "zoom": _moved(
                camera.zoom, dt, settings.zoom_speed, settings.zoom_frequency, still_zoom
            ),
        }
    )


def _aimed(
    camera: Camera,
    wanted: Wish,
    dt: float,
    limits: Framing,
    settings: CameraSettings,
) -> Camera:
    """The wish calmed, then given to the axes that follow or have to start following."""
    zoom_s = settings.aim_wide_s if wanted.zoom > camera.aim_zoom else settings.aim_zoom_s
    near, far = (1 - math.exp(-dt / s) for s in (settings.aim_s, zoom_s))
    aim_x = camera.aim_x + near * (wanted.x - camera.aim_x)
    aim_y = camera.aim_y + near * (wanted.eyes - camera.aim_y)
    aim_zoom = camera.aim_zoom + far * (wanted.zoom - camera.aim_zoom)
    size = math.exp(camera.zoom.pos)
    x, y = _inside(aim_x, _centre_y(aim_y, camera.zoom.pos, settings), size, limits)
    panning = _follows(
        camera.panning,
        (x - camera.x.goal) / size / settings.dead_x,
        (y - camera.y.goal) / size / settings.dead_y,
        max(abs(x - camera.x.pos), abs(y - camera.y.pos), abs(camera.x.vel), abs(camera.y.vel))
        / size
        / settings.settled,
    )
    zooming = _follows(
        camera.zooming,
        (aim_zoom - camera.zoom.goal) / settings.dead_zoom,
        0.0,
        max(abs(aim_zoom - camera.zoom.pos), abs(camera.zoom.vel)) / settings.settled_zoom,
    )
    outside_s = camera.outside_s + dt
    # A frame's edge moves with the zoom, so a resting goal is kept inside as well.
    gx, gy = (x, y) if panning else _inside(camera.x.goal, camera.y.goal, size, limits)
    return camera.model_copy(
        update={
            "aim_x": aim_x,
            "aim_y": aim_y,
            "aim_zoom": aim_zoom,
            "panning": panning,
            "zooming": zooming,
            "x": camera.x._replace(goal=gx),
            "y": camera.y._replace(goal=gy),
            "zoom": camera.zoom._replace(goal=aim_zoom) if zooming else camera.zoom,
            "outside_s": 0.0 if shows(camera, wanted.face_x, wanted.face_y, limits) else outside_s,
        }
    )


def _follows(following: bool, a: float, b: float, unrest: float) -> bool:
    """Hysteresis: starts outside of the dead zone (1.0 = its edge), ends when caught up."""
    if following:
        return unrest > 1.0
    return a * a + b * b > 1.0


def shows(camera: Camera, x: float, y: float, limits: Framing) -> bool:
    """Whether the point (px) is in view."""
    v = view(camera, limits)
    return v.x <= x <= v.x + v.w and v.y <= y <= v.y + v.h


def _moved(axis: Axis, dt: float, speed: float, frequency: float, rest: float) -> Axis:
    """The axis after `dt`: the lead nears its goal at most at `speed`, the position follows it.

    The lead takes the whole step to get there, as the goal did, but not the whole of a long gap.
    Nearer to its goal than `rest` and as slow, the axis stops there for good, so that resting views
    are identical.
    """
    if dt <= 0:
        return axis
    distance = axis.goal - axis.lead
    under_way = min(dt, max(LONGEST_STEP_S, abs(distance) / speed))
    rate = math.copysign(min(abs(distance) / under_way, speed), distance)
    after = _drawn(_drawn(axis, rate, under_way, frequency), 0.0, dt - under_way, frequency)
    error = after.pos - axis.goal
    if abs(after.lead - axis.goal) < rest and abs(error) < rest and abs(after.vel) < rest:
        return Axis.at(axis.goal)
    return after


def _drawn(axis: Axis, rate: float, dt: float, frequency: float) -> Axis:
    """x'' = w^2 (lead - x) - 2 w x' solved for a lead that moves at `rate` during `dt`."""
    lag = 2 * rate / frequency
    error = axis.pos - axis.lead + lag
    slope = axis.vel - rate
    decay = math.exp(-frequency * dt)
    drift = slope + frequency * error
    lead = axis.lead + rate * dt
    pos = lead - lag + (error + drift * dt) * decay
    vel = rate + (slope - frequency * drift * dt) * decay
    return Axis(pos, vel, lead, axis.goal)
