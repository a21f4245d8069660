"""Whether a copy of a model may be used: the criteria, and what it takes to tell; no I/O."""

from __future__ import annotations

from dataclasses import dataclass

from shared.models.precision import Points, Row, Verdict

ROUNDING: Points = 1e-9
"""Rates are quotients: what is meant to be exactly at a limit may lie a bit of a float above it."""


@dataclass(frozen=True)
class Limits:
    """Largest differences that a verdict allows, in percentage points, both included."""

    precision_loss: Points
    miss_rate_rise: Points

    @property
    def faces_min(self) -> int:
        """So many labelled faces make one face weigh no more than the limit of the miss rate."""
        return round(100 / self.miss_rate_rise)


ACCEPTABLE = Limits(1.5, 0.5)
EXCELLENT = Limits(0.8, 0.2)


@dataclass(frozen=True)
class Judgement:
    """`measured` by the differences alone; `verdict` after asking whether they mean anything."""

    measured: Verdict
    verdict: Verdict
    enough_faces: bool
    reasons: tuple[str, ...]


def counted(count: int, noun: str) -> str:
    """As people say it: 1 face, 2 faces."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def measured_verdict(precision_loss: Points | None, miss_rate_rise: Points | None) -> Verdict:
    """By the criteria alone; what could not be measured is not recommended."""
    if precision_loss is None or miss_rate_rise is None:
        return Verdict.NOT_RECOMMENDED
    for verdict, limits in (
        (Verdict.EXCELLENT, EXCELLENT),
        (Verdict.ACCEPTABLE, ACCEPTABLE),
    ):
        if (
            precision_loss <= limits.precision_loss + ROUNDING
            and miss_rate_rise <= limits.miss_rate_rise + ROUNDING
        ):
            return verdict
    return Verdict.NOT_RECOMMENDED


def judge(overall: Row) -> Judgement:
    """The verdict on all faces, and the reasons as sentences for people."""
    measured = measured_verdict(overall.precision_loss, overall.miss_rate_rise)
    blind = overall.fp32.found == 0
    # numbers about nothing would only contradict what is said of them further on
    reasons = [] if blind else [_measured_reason(overall, measured)]
    verdict = measured
    enough = overall.faces >= ACCEPTABLE.faces_min
    if not enough:
        verdict = Verdict.NOT_RECOMMENDED
        are = "is" if overall.faces == 1 else "are"
        weighs = f"one face is {100 / overall.faces:.1f} points" if overall.faces else "none"
        reasons.append(
            f"{counted(overall.faces, 'labelled face')} {are} too few to tell: {weighs}, the limit "
            f"{ACCEPTABLE.miss_rate_rise:g}. At least {ACCEPTABLE.faces_min} are needed, "
            f"{EXCELLENT.faces_min} for EXCELLENT."
        )
    elif measured is Verdict.EXCELLENT and overall.faces < EXCELLENT.faces_min:
        verdict = Verdict.ACCEPTABLE
        reasons.append(
            f"EXCELLENT takes {EXCELLENT.faces_min} labelled faces: of {overall.faces}, one is "
            f"more than the {EXCELLENT.miss_rate_rise:g} points it allows."
        )
    if blind:
        verdict = Verdict.NOT_RECOMMENDED
        reasons.append("FP32 itself finds none of the faces: these labels say nothing about it.")
    if verdict is not Verdict.NOT_RECOMMENDED and overall.miss_rate_rise_95 is not None:
        most = overall.miss_rate_rise_95[1]
        if most > ACCEPTABLE.miss_rate_rise:
            reasons.append(
                f"{counted(overall.faces, 'face')} can't rule out a rise of up to "
                f"{most:.1f} points (95 %)."
            )
    return Judgement(measured, verdict, enough, tuple(reasons))


def _measured_reason(overall: Row, measured: Verdict) -> str:
    if overall.precision_loss is None or overall.miss_rate_rise is None:
        return "The difference could not be measured: the models found nothing to compare."
    word = measured.value.replace("_", " ")
    return (
        f"Precision loss {overall.precision_loss:.2f} points, miss-rate rise "
        f"{overall.miss_rate_rise:.2f} points: by these numbers alone {word}."
    )
