"""How good detections are, by the labels; no I/O.

A detection is right when it overlaps a labelled face by an IoU of at least 0.5 and no better-scored
detection has taken that face (the rule of PASCAL VOC). One that lies on an ignored face is neither
right nor wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import sqrt

from services.infer.lab.labels import LabelledFace
from shared.faces import Face
from shared.models.precision import Condition, Points, Rates, Row

IOU_MIN = 0.5

_NORMAL_95 = 1.96


@dataclass(frozen=True)
class Seen:
    """A detection in a picture: what it matched. `label` is its index, None for no labelled face;
    `ignored`: it lies on a face that does not count. `condition` is of where it is."""

    face: Face
    label: int | None
    ignored: bool
    iou: float
    condition: Condition


@dataclass(frozen=True)
class Judged:
    """One picture: conditions of its labelled faces (None: ignored), and what both models saw.
    `base` and `variant` go down to low scores, best first."""

    labels: tuple[Condition | None, ...]
    base: tuple[Seen, ...]
    variant: tuple[Seen, ...]


def iou(a: Face | LabelledFace, b: Face | LabelledFace) -> float:
    """Intersection over union of two boxes, 0..1."""
    across = min(a.x + a.w, b.x + b.w) - max(a.x, b.x)
    down = min(a.y + a.h, b.y + b.h) - max(a.y, b.y)
    both = max(0.0, across) * max(0.0, down)
    union = a.w * a.h + b.w * b.h - both
    return both / union if union > 0 else 0.0


def match(
    labels: Sequence[LabelledFace], faces: Sequence[Face]
) -> list[tuple[int | None, bool, float]]:
    """For each of `faces` (best score first): index of its label, whether it is to be ignored, and
    its IoU with that label."""
    free = [i for i, label in enumerate(labels) if not label.ignored]
    ignored = [label for label in labels if label.ignored]
    found: list[tuple[int | None, bool, float]] = []
    for face in faces:
        best = max(free, key=lambda i: iou(labels[i], face), default=None)
        overlap = 0.0 if best is None else iou(labels[best], face)
        if best is not None and overlap >= IOU_MIN:
            free.remove(best)
            found.append((best, False, overlap))
        else:
            found.append((None, any(iou(label, face) >= IOU_MIN for label in ignored), 0.0))
    return found


def average_precision(hits: Sequence[tuple[float, bool]], faces: int) -> float | None:
    """Area under the precision envelope over recall (VOC 2010 and later, all points).

    `hits` are (score, right) of all detections in any order; None without labelled faces.
    """
    if faces == 0:
        return None
    curve: list[tuple[float, float]] = []
    right = 0
    ordered = sorted(hits, key=lambda hit: -hit[0])
    for rank, (score, is_right) in enumerate(ordered, 1):
        right += is_right
        if rank == len(ordered) or ordered[rank][0] != score:  # equal scores are one point
            curve.append((right / faces, right / rank))
    area, best, until = 0.0, 0.0, curve[-1][0] if curve else 0.0
    for index in range(len(curve) - 1, -1, -1):
        best = max(best, curve[index][1])
        before = curve[index - 1][0] if index else 0.0
        area += best * (until - before)
        until = before
    return area


def rates(
    seen: Iterable[Seen], labels: int, threshold: float, condition: Condition | None
) -> Rates:
    """Of one model's detections, those of one condition or (None) all; `labels`: faces of it."""
    of_it = [one for one in seen if not one.ignored and condition in (None, one.condition)]
    at_work = [one for one in of_it if one.face.score >= threshold]
    found = sum(one.label is not None for one in at_work)
    return Rates(
        found=found,
        missed=labels - found,
        extra=len(at_work) - found,
        precision=found / len(at_work) if at_work else None,
        miss_rate=(labels - found) / labels if labels else None,
        average_precision=average_precision(
            [(one.face.score, one.label is not None) for one in of_it], labels
        ),
    )


def compare(pictures: Sequence[Judged], threshold: float, condition: Condition | None) -> Row:
    """Both models on the faces of a condition; None: on all."""
    wanted = [
        sum(each is not None and condition in (None, each) for each in one.labels)
        for one in pictures
    ]
    faces = sum(wanted)
    base = rates((s for one in pictures for s in one.base), faces, threshold, condition)
    variant = rates((s for one in pictures for s in one.variant), faces, threshold, condition)
    lost, gained, pairs = _pairs(pictures, threshold, condition)
    rise = None
    if base.miss_rate is not None and variant.miss_rate is not None:
        rise = 100 * (variant.miss_rate - base.miss_rate)
    return Row(
        condition=condition or "all",
        faces=faces,
        fp32=base,
        variant=variant,
        lost=lost,
        gained=gained,
        precision_loss=_precision_loss(base, variant),
        miss_rate_rise=rise,
        miss_rate_rise_95=_interval(lost, gained, faces),
        score_change=_mean([b.face.score - a.face.score for a, b in pairs]),
        box_iou=_mean([iou(a.face, b.face) for a, b in pairs]),
        fp32_iou=_mean([a.iou for a, _ in pairs]),
        variant_iou=_mean([b.iou for _, b in pairs]),
    )


def found_by(seen: Iterable[Seen], threshold: float) -> dict[int, Seen]:
    """Detections at or above the threshold, by the index of the labelled face they found."""
    return {one.label: one for one in seen if one.label is not None and one.face.score >= threshold}


def _pairs(
    pictures: Sequence[Judged], threshold: float, condition: Condition | None
) -> tuple[int, int, list[tuple[Seen, Seen]]]:
    lost = gained = 0
    pairs: list[tuple[Seen, Seen]] = []
    for one in pictures:
        base, variant = found_by(one.base, threshold), found_by(one.variant, threshold)
        for index, each in enumerate(one.labels):
            if each is None or condition not in (None, each):
                continue
            lost += index in base and index not in variant
            gained += index in variant and index not in base
            if index in base and index in variant:
                pairs.append((base[index], variant[index]))
    return lost, gained, pairs


def _precision_loss(base: Rates, variant: Rates) -> Points | None:
    """The larger of two losses, so that the criterion holds however "precision" is meant."""
    losses = [
        100 * (before - after)
        for before, after in (
            (base.precision, variant.precision),
            (base.average_precision, variant.average_precision),
        )
        if before is not None and after is not None
    ]
    if base.precision is not None and variant.precision is None:
        losses.append(100 * base.precision)  # it finds nothing at all
    return max(losses) if losses else None


def _interval(lost: int, gained: int, faces: int) -> tuple[Points, Points] | None:
    """95 % of the difference of two paired rates (Agresti and Min 2005: half a face added to each
    of the four cells, which keeps it honest where nothing, or little, differs)."""
    if faces == 0:
        return None
    n, b, c = faces + 2.0, lost + 0.5, gained + 0.5
    middle = (b - c) / n
    half = _NORMAL_95 * sqrt(max(0.0, b + c - (b - c) ** 2 / n)) / n
    return 100 * (middle - half), 100 * (middle + half)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
