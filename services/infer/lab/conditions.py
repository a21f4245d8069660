"""What makes a face hard to find, told from what can be measured of it.

What the pixels and the detector's points say is all there is: a hand or a mask before a face is
not seen as an occlusion (only other faces and the edge of the picture are), a face out of focus
looks like one that moves, and a dark face before a bright wall may count as backlight though its
light is good. A labelled set that names conditions itself is believed.

Luma is 0..255, boxes are px of the picture, x right and y down.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from shared.faces import Face, Point
from shared.models.precision import Condition

Luma = npt.NDArray[np.uint8]
"""(rows, columns) of a picture."""

Box = tuple[float, float, float, float]
"""x, y, w, h."""

DARK_FACE, DARK_PICTURE = 55.0, 75.0
"""Mean luma below which the face, and the whole picture, are in low light."""

BRIGHT_SURROUND = 110.0
"""Mean luma of what is around a face from which light comes from behind it ..."""
DARKER = 0.55
"""... when the face has less than this share of it; dark skin in good light has some 0.6."""

COVERED = 0.15
"""Share of a face that lies under a larger one's box, or outside the picture."""

TURNED = 0.6
"""Of `asymmetry`: about 40 degrees off; 1 is a nose right above or below an eye."""

BLURRED = 0.15
"""Of `sharpness`: faces of the development clips have 0.15 (enlarged ones) to 1; the same ones
moved by an eighth of their width while they are taken, 0.03 to 0.2."""

PATCH_PX = 64
"""Faces are shrunk to a square of this side before their sharpness is measured, so that it does not
depend on their size. Smaller ones than half of it can't be told from blurred ones."""


@dataclass(frozen=True)
class Measures:
    """What was measured of one face; None where it can't be."""

    picture_luma: float
    face_luma: float
    surround_luma: float | None
    covered: float
    asymmetry: float | None
    sharpness: float | None

    @property
    def condition(self) -> Condition:
        """The first that holds, in the order of `Condition`."""
        if self.face_luma < DARK_FACE and self.picture_luma < DARK_PICTURE:
            return Condition.LOW_LIGHT
        around = self.surround_luma
        if around is not None and around >= BRIGHT_SURROUND and self.face_luma < DARKER * around:
            return Condition.BACKLIGHT
        if self.covered >= COVERED:
            return Condition.OCCLUSION
        if self.asymmetry is not None and self.asymmetry >= TURNED:
            return Condition.PROFILE
        if self.sharpness is not None and self.sharpness < BLURRED:
            return Condition.MOTION_BLUR
        return Condition.NORMAL


def measure(luma: Luma, box: Box, points: Sequence[Point], others: Sequence[Box]) -> Measures:
    """Measures of the face at `box`; `points` as `Face.landmarks`, or empty."""
    face = _crop(luma, box, 1.0)
    inner = float(face.mean()) if face.size else float(luma.mean())
    return Measures(
        picture_luma=float(luma.mean()),
        face_luma=inner,
        surround_luma=_surround(luma, box),
        covered=covered(box, others, (luma.shape[1], luma.shape[0])),
        asymmetry=asymmetry(points, box[2]),
        sharpness=sharpness(face),
    )


def condition_of(luma: Luma, faces: Sequence[Face]) -> Condition:
    """Of a whole frame: the most telling one of its faces; without faces, of its light alone."""
    boxes = [(face.x, face.y, face.w, face.h) for face in faces]
    found = {
        measure(luma, box, face.landmarks, boxes[:i] + boxes[i + 1 :]).condition
        for i, (box, face) in enumerate(zip(boxes, faces, strict=True))
    }
    if not faces and float(luma.mean()) < DARK_FACE:
        return Condition.LOW_LIGHT
    return next((each for each in Condition if each in found), Condition.NORMAL)


def asymmetry(points: Sequence[Point], width: float) -> float | None:
    """How far the nose's tip is off the middle between the eyes, along the line of the eyes.

    0 looks into the camera; 1 has the nose right above or below an eye. None without points.
    """
    if len(points) < 3:
        return None
    right, left, nose = (np.array(point) for point in points[:3])
    line = left - right
    length = float(np.hypot(*line))
    if length < 0.1 * width:
        return 2.0  # the eyes fall together: seen from the side
    along = float(np.dot(nose - right, line)) / length**2
    return abs(2 * along - 1)


def sharpness(face: Luma) -> float | None:
    """Variance of the Laplacian over the variance of luma, at a fixed size; None where too small.

    Divided by the contrast: a flat light is no blur.
    """
    if min(face.shape) < PATCH_PX // 2:
        return None
    patch = cv2.resize(face, (PATCH_PX, PATCH_PX), interpolation=cv2.INTER_AREA)
    contrast = float(patch.var())
    if contrast < 4.0:
        return None  # nothing in it
    return float(cv2.Laplacian(patch, cv2.CV_64F).var()) / contrast


def covered(box: Box, others: Sequence[Box], size: tuple[int, int]) -> float:
    """The larger of two shares of `box`: outside the picture, and under one other, larger box."""
    area = box[2] * box[3]
    inside = _common(box, (0.0, 0.0, float(size[0]), float(size[1])))
    larger = (other for other in others if other[2] * other[3] >= area)
    return max([1 - inside / area, *(_common(box, other) / area for other in larger)])


def _surround(luma: Luma, box: Box) -> float | None:
    """Mean luma between the box grown by half (hair is nearer than that) and by one and a half."""
    outer, inner = _crop(luma, box, 2.5), _crop(luma, box, 1.5)
    around = outer.size - inner.size
    if around < 64:
        return None
    return (float(outer.sum(dtype=np.int64)) - float(inner.sum(dtype=np.int64))) / around


def _crop(luma: Luma, box: Box, grown: float) -> Luma:
    """The part of the picture within the box, grown about its centre."""
    x, y, w, h = box
    left, top = x + w / 2 * (1 - grown), y + h / 2 * (1 - grown)
    rows = slice(max(0, round(top)), max(0, round(top + h * grown)))
    columns = slice(max(0, round(left)), max(0, round(left + w * grown)))
    return luma[rows, columns]


def _common(a: Box, b: Box) -> float:
    across = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    down = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(0.0, across) * max(0.0, down)
