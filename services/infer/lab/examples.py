"""Small pictures for the report: faces that one of two models found and the other did not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from services.infer.lab.labels import LabelledFace, LabelledPicture
from services.infer.lab.metrics import Judged, Seen, found_by, iou
from shared.models.precision import Variant

SIDE_PX = 220
QUALITY = 82
MOST = 8
"""Of each kind: a report has a size that a mail takes."""

AROUND = 2.2
"""Side of what is shown, in sides of the face."""

NEAR = 0.3
"""IoU from which two boxes are about the same face, though too far apart to be right."""

Box = tuple[float, float, float, float]

KINDS = ("lost", "new", "gained", "gone", "closest")
"""Found by FP32 only; a wrong detection of the copy only; found by the copy only; a wrong one of
FP32 only; found by both, with the largest change of score."""


@dataclass(frozen=True)
class Example:
    """A square cut out of a picture, JPEG, and the boxes in it as shares of its side."""

    kind: str
    name: str
    jpeg: bytes
    label: Box | None
    base: Box | None
    variant: Box | None
    base_score: float | None
    variant_score: float | None


class Examples:
    """Gathers them while pictures pass by; keeps MOST of each kind."""

    def __init__(self, threshold: float, precision: Variant) -> None:
        self._threshold = threshold
        self.precision = precision
        self._kept: dict[str, list[tuple[float, Example]]] = {kind: [] for kind in KINDS}

    def look(
        self, labelled: LabelledPicture, picture: npt.NDArray[np.uint8], judged: Judged
    ) -> None:
        """Take what is worth showing of a picture."""
        base = found_by(judged.base, self._threshold)
        variant = found_by(judged.variant, self._threshold)
        for index, face in enumerate(labelled.faces):
            box = (face.x, face.y, face.w, face.h)
            a, b = base.get(index), variant.get(index)
            if a is None and b is None:
                continue
            kind = "gained" if a is None else "lost" if b is None else "closest"
            change = abs(_score(b) - _score(a))
            # one that lies too far off to count explains what happened
            a = a or self._nearest(box, judged.base)
            b = b or self._nearest(box, judged.variant)
            self._keep(kind, change, labelled.name, picture, box, a, b)
        for a in self._wrong(judged.base):
            if not any(_overlap(a, other) for other in self._wrong(judged.variant)):
                self._keep("gone", _score(a), labelled.name, picture, None, a, None)
        for b in self._wrong(judged.variant):
            if not any(_overlap(b, other) for other in self._wrong(judged.base)):
                self._keep("new", _score(b), labelled.name, picture, None, None, b)

    def chosen(self) -> list[Example]:
        """Differences first; where there are none, what comes closest to one."""
        kept = {
            kind: [example for _, example in sorted(each, key=lambda one: -one[0])]
            for kind, each in self._kept.items()
        }
        differences = [example for kind in KINDS[:-1] for example in kept[kind]]
        return differences[: 3 * MOST] or kept["closest"][:6]

    def _nearest(self, box: Box, seen: Sequence[Seen]) -> Seen | None:
        label = LabelledFace(*box)
        wrong = [one for one in self._wrong(seen) if iou(label, one.face) >= NEAR]
        return max(wrong, key=lambda one: iou(label, one.face), default=None)

    def _wrong(self, seen: Sequence[Seen]) -> list[Seen]:
        return [
            one
            for one in seen
            if one.label is None and not one.ignored and one.face.score >= self._threshold
        ]

    def _keep(
        self,
        kind: str,
        weight: float,
        name: str,
        picture: npt.NDArray[np.uint8],
        label: Box | None,
        base: Seen | None,
        variant: Seen | None,
    ) -> None:
        kept = self._kept[kind]
        if len(kept) >= MOST:
            least = min(range(len(kept)), key=lambda i: kept[i][0])
            if kept[least][0] >= weight:
                return
            del kept[least]
        boxes = [label, _box(base), _box(variant)]
        about = next(box for box in boxes if box is not None)
        jpeg, (x, y, side) = _cut(picture, about)
        shares = [_shares(box, x, y, side) for box in boxes]
        example = Example(
            kind=kind,
            name=name,
            jpeg=jpeg,
            label=shares[0],
            base=shares[1],
            variant=shares[2],
            base_score=None if base is None else base.face.score,
            variant_score=None if variant is None else variant.face.score,
        )
        kept.append((weight, example))


def _shares(box: Box | None, x: float, y: float, side: float) -> Box | None:
    if box is None:
        return None
    return (box[0] - x) / side, (box[1] - y) / side, box[2] / side, box[3] / side


def _cut(picture: npt.NDArray[np.uint8], box: Box) -> tuple[bytes, tuple[float, float, float]]:
    """A square about the box as JPEG, grey beyond the picture; its left, top, side in px."""
    side = max(8.0, AROUND * max(box[2], box[3]))
    x, y = box[0] + box[2] / 2 - side / 2, box[1] + box[3] / 2 - side / 2
    scale = SIDE_PX / side
    matrix = np.array([[scale, 0, -x * scale], [0, scale, -y * scale]], dtype=np.float64)
    shown = cv2.warpAffine(
        picture, matrix, (SIDE_PX, SIDE_PX), flags=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_CONSTANT, borderValue=(128, 128, 128),
    )  # fmt: skip
    _, coded = cv2.imencode(".jpg", shown, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return coded.tobytes(), (x, y, side)


def _box(seen: Seen | None) -> Box | None:
    return None if seen is None else (seen.face.x, seen.face.y, seen.face.w, seen.face.h)


def _score(seen: Seen | None) -> float:
    return 0.0 if seen is None else seen.face.score


def _overlap(a: Seen, b: Seen) -> bool:
    return iou(a.face, b.face) >= NEAR
