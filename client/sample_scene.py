"""The moving picture of the sample video: who is where at which time, and how a frame is painted.

Everything is painted on I420 planes: half the bytes of BGR, and what the encoder takes.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from client.sample_portraits import COLLINS, HOPPER, Box, CutOut, Image, cut_out, i420_planes
from client.sample_room import TABLE_TOP, draw_room, draw_table

CYCLE_S = 12.0
"""Movements repeat after this time; a shorter video has the whole cycle, faster."""

FLASH_S = 0.1
"""How long the white patch shows at each whole second but the first."""

_MARGIN = 0.03
"""How much wider and higher than the picture the room is, at each side: the camera drifts."""

# (fraction of the cycle, fraction of the picture's width) where the body is; between, it moves
_WALK_LEFT = (
    (0.0, 0.27),
    (0.20, 0.27),
    (0.29, 0.235),
    (0.58, 0.235),
    (0.68, 0.30),
    (0.92, 0.30),
    (1.0, 0.27),
)
_WALK_RIGHT = (
    (0.0, 0.70),
    (0.24, 0.70),
    (0.31, 0.73),
    (0.41, 0.73),
    (0.55, 1.36),
    (0.69, 1.36),
    (0.83, 0.68),
    (0.93, 0.68),
    (1.0, 0.70),
)
_WALKS = (_WALK_LEFT, _WALK_RIGHT)

_FACE_HEIGHT = (0.245, 0.205)
"""Height of each face as a fraction of the picture's: the right person is a little further away."""

_GRAIN_ZERO = 16
"""Value of the grain that adds nothing."""

_Matrix = npt.NDArray[np.float64]
_Planes = tuple[Image, Image, Image]


@dataclass(frozen=True)
class Pose:
    """Where the point of the portrait above the table (middle of face, `feet_y`) is in the picture.

    `x`, `y` in px, `scale` in px of the picture per px of the portrait, `lean` in radians
    clockwise.
    """

    x: float
    y: float
    scale: float
    lean: float

    def matrix(self, cut: CutOut) -> _Matrix:
        """(2, 3) from px of the portrait to px of the picture."""
        c, s = self.scale * math.cos(self.lean), self.scale * math.sin(self.lean)
        ax, ay = cut.face[0] + cut.face[2] / 2, cut.feet_y
        return np.array(((c, -s, self.x - c * ax + s * ay), (s, c, self.y - s * ax - c * ay)))


@dataclass(frozen=True)
class Scene:
    """All that the frames are made of; `frame(i)` depends on nothing else. Sizes are w, h in px."""

    size: tuple[int, int]
    fps: Fraction
    cycle_s: float
    phases: tuple[float, ...]
    room: _Planes
    table: _Planes
    grain: Image
    people: tuple[CutOut, CutOut]

    @property
    def flash(self) -> tuple[int, int, int, int]:
        """x, y, w, h of the patch: even, in the upper left corner."""
        side = max(2, self.size[1] // 18 // 2 * 2)
        return 0, 0, side, side

    def time_s(self, index: int) -> Fraction:
        """When frame `index` shows, exact."""
        return index / self.fps

    def drift(self, time_s: float) -> tuple[float, float]:
        """Px by which the camera has moved right and down: a slow figure of eight."""
        a = 2 * math.pi * time_s / 11.0 + self.phases[6]
        w, h = self.size
        return 0.8 * _MARGIN * w * math.sin(a), 0.5 * _MARGIN * h * math.sin(2 * a)

    def pose(self, person: int, time_s: float) -> Pose:
        """Of `person` at a time: walks, sways, leans, comes nearer and goes back."""
        w, h = self.size
        p0, p1, p2 = self.phases[3 * person : 3 * person + 3]
        walk = _along(_WALKS[person], (time_s / self.cycle_s) % 1.0)
        step = min(1.0, abs(walk - _WALKS[person][0][1]) / 0.1)
        sway = math.sin(2 * math.pi * time_s / 4.7 + p0)
        lean = 0.035 * sway + 0.02 * math.sin(2 * math.pi * time_s / 3.1 + p1)
        near = 1 + 0.03 * math.sin(2 * math.pi * time_s / 7.3 + p2)
        bob = 0.006 * step * math.sin(4 * math.pi * time_s) + 0.002 * sway
        dx, dy = self.drift(time_s)
        face_h = _FACE_HEIGHT[person] * min(h, w * 9 / 16)
        return Pose(
            x=(walk + 0.008 * sway) * w - dx,
            y=(TABLE_TOP + 0.01 + bob) * h - dy,
            scale=face_h / self.people[person].face[3] * near,
            lean=lean,
        )

    def face(self, person: int, index: int) -> Box:
        """x, y, w, h of a face in frame `index`: the portrait's, moved as the portrait is."""
        cut = self.people[person]
        pose = self.pose(person, float(self.time_s(index)))
        x, y, w, h = cut.face
        cx, cy = (pose.matrix(cut) @ (x + w / 2, y + h / 2, 1.0)).tolist()
        w, h = w * pose.scale, h * pose.scale
        return cx - w / 2, cy - h / 2, w, h

    def frame(self, index: int) -> Image:
        """I420 as one array (height * 3 / 2, width), a new one each time."""
        time_s = float(self.time_s(index))
        w, h = self.size
        dx, dy = self.drift(time_s)
        yuv = np.empty((h * 3 // 2, w), dtype=np.uint8)
        u, v = yuv[h:].reshape(2, h // 2, w // 2)
        picture = (yuv[:h], u, v)
        _lay(self.room, _MARGIN * w + dx, _MARGIN * h + dy, picture)
        for person in (1, 0):
            _paint(picture, self.people[person], self.pose(person, time_s))
        top = _table_row(h)
        front = (picture[0][top:], u[top // 2 :], v[top // 2 :])
        # the table is nearer than the room and moves more
        _lay(self.table, _MARGIN * w + 1.2 * dx, _MARGIN * h / 2 + dy / 2, front)
        self._add_grain(picture[0], index)
        self._add_flash(picture, index)
        return yuv

    def _add_grain(self, luma: Image, index: int) -> None:
        rows, columns = (self.grain.shape[i] - luma.shape[i] for i in range(2))
        y, x = (index * 37) % rows, (index * 101) % columns
        grain = self.grain[y : y + luma.shape[0], x : x + luma.shape[1]]
        cv2.addWeighted(luma, 1.0, grain, 1.0, -_GRAIN_ZERO, dst=luma)

    def _add_flash(self, picture: _Planes, index: int) -> None:
        _, _, w, h = self.flash
        time_s = self.time_s(index)
        picture[0][:h, :w] = 235 if time_s >= 1 and time_s % 1 < FLASH_S else 40
        for chroma in picture[1:]:
            chroma[: h // 2, : w // 2] = 128


def make_scene(
    size: tuple[int, int], fps: Fraction, cycle_s: float, seed: int, portraits: Path
) -> Scene:
    """Draw what stands still and cut out the people; sides of `size` are multiples of 4.

    Raises PermanentError as `cut_out`.
    """
    width, height = size
    rng = np.random.default_rng((seed, 3))
    wide, high = (_even(side * (1 + 2 * _MARGIN)) + 4 for side in size)
    grain = rng.normal(_GRAIN_ZERO, 1.6, (height + 61, width + 149))
    rows = high - _table_row(height) + _even(_MARGIN * height)
    return Scene(
        size=size,
        fps=fps,
        cycle_s=cycle_s,
        phases=tuple(rng.uniform(0, 2 * math.pi, 7).tolist()),
        room=i420_planes(draw_room(wide, high, seed)),
        table=i420_planes(draw_table(_even(wide + 0.02 * width), rows, seed)),
        grain=np.clip(grain, 0, 2 * _GRAIN_ZERO).astype(np.uint8),
        people=(cut_out(HOPPER, portraits), cut_out(COLLINS, portraits)),
    )


def _even(value: float) -> int:
    return math.ceil(value / 2) * 2


def _table_row(height: int) -> int:
    return _even(TABLE_TOP * height)


def _along(walk: tuple[tuple[float, float], ...], at: float) -> float:
    """Place at the fraction `at` (0..1) of a cycle; starts and stops softly."""
    for (t0, x0), (t1, x1) in itertools.pairwise(walk):
        if at <= t1:
            part = (at - t0) / (t1 - t0)
            return x0 + (x1 - x0) * part * part * (3 - 2 * part)
    return walk[-1][1]


def _lay(source: _Planes, x: float, y: float, target: _Planes) -> None:
    """Fill `target` with the part of `source` whose upper left corner is at x, y px of luma."""
    _shift(source[0], x, y, target[0])
    for plane, chroma in zip(source[1:], target[1:], strict=True):
        _shift(plane, x / 2, y / 2, chroma)


def _shift(source: Image, x: float, y: float, target: Image) -> None:
    """Bilinear, by weighted sums of shifted views: a sixth of warpAffine's time."""
    rows, columns = target.shape
    left = min(max(0, math.floor(x)), source.shape[1] - columns - 1)
    top = min(max(0, math.floor(y)), source.shape[0] - rows - 1)
    fx, fy = min(max(0.0, x - left), 1.0), min(max(0.0, y - top), 1.0)
    part = source[top : top + rows + 1]
    here, right = part[:, left : left + columns], part[:, left + 1 : left + 1 + columns]
    across = cv2.addWeighted(here, 1 - fx, right, fx, 0)
    cv2.addWeighted(across[:-1], 1 - fy, across[1:], fy, 0, dst=target)


def _paint(picture: _Planes, cut: CutOut, pose: Pose) -> None:
    """Put a person into the picture, in place; only the rectangle they are in is touched."""
    matrix = pose.matrix(cut)
    height, width = picture[0].shape
    rows, columns = cut.alphas[0].shape
    corners = np.array(((0, 0, 1), (columns, 0, 1), (0, rows, 1), (columns, rows, 1))) @ matrix.T
    left, top = (max(0, math.floor(low / 2) * 2) for low in corners.min(axis=0))
    right, bottom = (_even(high) for high in corners.max(axis=0))
    right, bottom = min(width, right), min(_table_row(height), bottom)
    if left >= right or top >= bottom:
        return
    matrix[:, 2] -= (left, top)
    # a sample of chroma lies in the middle of two by two of luma
    half = matrix.copy()
    half[:, 2] = (matrix @ (0.5, 0.5, 1.0) - 0.5) / 2
    area = (slice(top, bottom), slice(left, right))
    half_area = (slice(top // 2, bottom // 2), slice(left // 2, right // 2))
    _blend(picture[0][area], cut.planes[0], _clear(picture[0][area], cut.alphas[0], matrix), matrix)
    clear = _clear(picture[1][half_area], cut.alphas[1], half)
    for plane, chroma in zip(picture[1:], cut.planes[1:], strict=True):
        _blend(plane[half_area], chroma, clear, half)


def _clear(part: Image, alpha: Image, matrix: _Matrix) -> Image:
    """How much of what is behind shows, 0..255, for each px of `part`."""
    moved = cv2.warpAffine(alpha, matrix, part.shape[::-1])
    return np.asarray(cv2.bitwise_not(moved), dtype=np.uint8)


def _blend(part: Image, person: Image, clear: Image, matrix: _Matrix) -> None:
    behind = cv2.multiply(part, clear, scale=1 / 255)
    cv2.add(behind, cv2.warpAffine(person, matrix, part.shape[::-1]), dst=part)
