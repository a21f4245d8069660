"""What detection hands to tracking."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from shared.jobs import Model

Point = tuple[float, float]

SURE_SCORE = 0.7
"""`Face.score` from which a detection is a face as a rule, whichever model made it."""


class Face(Model):
    """One detected face in px of the upright source frame (before any crop); may reach outside it.

    `landmarks`: right eye, left eye, nose tip, right and left mouth corner, as the person has them
    (so the right eye is on the picture's left), or empty when the model gives none.
    `score` means the same for every model: each one's own scale is mapped so that it is sure from
    SURE_SCORE.
    """

    x: float
    y: float
    w: Annotated[float, Field(gt=0)]
    h: Annotated[float, Field(gt=0)]
    score: Annotated[float, Field(ge=0, le=1)]
    landmarks: tuple[Point, ...] = ()


class BatchFaces(Model):
    """Faces of the frames of one batch that detection looked at; others are interpolated.

    `frames[i]` is the index within the batch (0-based, ascending, first and last frame of the batch
    always included) that `faces[i]` belongs to.
    """

    frames: tuple[int, ...]
    faces: tuple[tuple[Face, ...], ...]
    engine: str = ""
