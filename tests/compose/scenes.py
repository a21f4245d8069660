"""Synthetic scenes: people as functions of time, seen by a detector every few frames."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import count, pairwise

from services.compose.plan import BatchPlan, ComposeSettings, ComposeState, plan_batch
from shared.faces import BatchFaces, Face
from shared.jobs import Codec, ColorTags, OutputPlan, Rect, SourceInfo

Where = tuple[float, float, float] | None
"""Centre x, centre y and height of a face, px; None while there is none."""

Actor = Callable[[float], Where]
"""A person: seconds -> where the face is."""

FPS = 30


def source(
    width: int = 1920, height: int = 1080, sample_aspect: tuple[int, int] = (1, 1)
) -> SourceInfo:
    """A source in ticks of 1/600 s."""
    return SourceInfo(
        format="mp4",
        codec="h264",
        stream=0,
        width=width,
        height=height,
        sample_aspect=sample_aspect,
        time_base=(1, 600),
        frame_rate=(30, 1),
    )


def side_by_side(width: int = 1920, height: int = 1080, full_range: bool = False) -> OutputPlan:
    """Two tiles of half the width each."""
    half = width // 2
    tiles = (Rect(x=0, y=0, w=half, h=height), Rect(x=half, y=0, w=half, h=height))
    return output(width, height, tiles, full_range)


def output(
    width: int, height: int, tiles: tuple[Rect, Rect], full_range: bool = False
) -> OutputPlan:
    """A canvas with any two tiles."""
    return OutputPlan(
        width=width,
        height=height,
        tiles=tiles,
        codec=Codec.H264,
        crf=23,
        preset="veryfast",
        color=ColorTags(full_range=full_range),
        time_base=(1, 600),
        frame_rate=(30, 1),
    )


def stacked(width: int = 1080, height: int = 1920) -> OutputPlan:
    """Two tiles of half the height each."""
    half = height // 2
    return output(
        width, height, (Rect(x=0, y=0, w=width, h=half), Rect(x=0, y=half, w=width, h=half))
    )


def still(x: float, y: float = 500.0, h: float = 200.0) -> Actor:
    """Somebody who never moves."""
    return lambda _: (x, y, h)


def between(actor: Actor, start_s: float, end_s: float) -> Actor:
    """Visible only from `start_s` to before `end_s`."""
    return lambda t: actor(t) if start_s <= t < end_s else None


def walk(points: Sequence[tuple[float, float]], y: float = 500.0, h: float = 200.0) -> Actor:
    """Moves in x along (second, x) points, linearly between them."""

    def actor(t: float) -> Where:
        if t <= points[0][0]:
            return points[0][1], y, h
        for (t0, x0), (t1, x1) in pairwise(points):
            if t <= t1:
                return x0 + (x1 - x0) * (t - t0) / (t1 - t0), y, h
        return points[-1][1], y, h

    return actor


def face(where: Where, score: float = 0.9) -> Face:
    """The detection of a face that is there."""
    assert where is not None
    x, y, h = where
    w = 0.75 * h
    return Face(x=x - w / 2, y=y - h / 2, w=w, h=h, score=score)


def seen(actors: Sequence[Actor], t: float) -> tuple[Face, ...]:
    """What a perfect detector sees at `t`."""
    return tuple(face(where) for a in actors if (where := a(t)) is not None)


def noisy(actor: Actor, px: float, seed: int = 1) -> Actor:
    """The actor with every coordinate off by up to `px`, the same at the same time."""

    def actor_(t: float) -> Where:
        where = actor(t)
        if where is None:
            return None
        rng = random.Random(seed * 1_000_003 + round(t * 6000))
        x, y, h = where
        return x + rng.uniform(-px, px), y + rng.uniform(-px, px), h + rng.uniform(-px, px)

    return actor_


class Run:
    """The plans of a whole scene, batch after batch, with the state sent through JSON between."""

    def __init__(
        self,
        actors: Sequence[Actor],
        seconds: float,
        *,
        sizes: Sequence[int] = (32,),
        every: int = 5,
        fps: float = FPS,
        src: SourceInfo | None = None,
        out: OutputPlan | None = None,
        settings: ComposeSettings | None = None,
    ) -> None:
        self.source, self.output = src or source(), out or side_by_side()
        self.settings = settings or ComposeSettings()
        frames = round(seconds * fps)
        self.times = [i / fps for i in range(frames)]
        self.pts = [round(t * 600) for t in self.times]
        self.state = ComposeState()
        self.plans: list[BatchPlan] = []
        self.state_bytes = 0
        start = 0
        for k in count():
            if start >= frames:
                break
            end = min(frames, start + sizes[min(k, len(sizes) - 1)])
            self._batch(actors, start, end, every)
            start = end

    def _batch(self, actors: Sequence[Actor], start: int, end: int, every: int) -> None:
        index = sorted({*range(0, end - start, every), end - start - 1})
        found = tuple(seen(actors, self.times[start + i]) for i in index)
        faces = BatchFaces(frames=tuple(index), faces=found)
        text = self.state.model_dump_json()
        self.state_bytes = max(self.state_bytes, len(text))
        self.state, plan = plan_batch(
            ComposeState.model_validate_json(text),
            faces,
            self.pts[start:end],
            self.source,
            self.output,
            self.settings,
        )
        self.plans.append(plan)

    @property
    def views(self) -> list[tuple[tuple[float, ...], tuple[float, ...]]]:
        """Of all frames."""
        return [pair for plan in self.plans for pair in plan.views]

    @property
    def cuts(self) -> list[float]:
        """Seconds at which a hard cut falls."""
        starts = self._starts()
        return [self.times[s + c] for s, p in zip(starts, self.plans, strict=True) for c in p.cuts]

    @property
    def persons(self) -> list[tuple[float, tuple[int, int]]]:
        """(second, identities in the two places) of every detection."""
        return [
            (self.times[s + f], ids)
            for s, p in zip(self._starts(), self.plans, strict=True)
            for f, ids in zip(p.frames, p.persons, strict=True)
        ]

    def persons_at(self, t: float) -> tuple[int, int]:
        """Identities after the latest detection up to `t`."""
        return [ids for at, ids in self.persons if at <= t + 1e-6][-1]

    def centre(self, place: int, t: float) -> float:
        """x of the middle of the view of `place` at `t`."""
        x, _, w, _ = self.views[min(range(len(self.times)), key=lambda i: abs(self.times[i] - t))][
            place
        ]
        return x + w / 2

    def _starts(self) -> list[int]:
        starts, total = [], 0
        for plan in self.plans:
            starts.append(total)
            total += len(plan.views)
        return starts
