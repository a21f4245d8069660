"""How jobs stand, for who follows them by Celery's own means: `AsyncResult`, and Flower's rows.

A job's id is a task's id. Flower learns of tasks by events, so the job's row is made of events as
a worker would send them, with its progress as `task-progress`: that makes the state PROGRESS and
fills the column `result`.
"""

from __future__ import annotations

from collections.abc import Mapping

from shared.jobs import JobState
from shared.ledger import STAGES, JobView, Ledger
from shared.queues import App, TaskEvents, TaskResults, failure

STATES = {
    JobState.SUCCEEDED: "SUCCESS",
    JobState.CANCELLED: "REVOKED",
    JobState.FAILED: "FAILURE",
}
"""Celery's names; all others are PROGRESS."""


class Telling:
    """Writes result backend and events; keeps nothing that a successor needs."""

    def __init__(self, ledger: Ledger, app: App) -> None:
        """Does no I/O until it is told something."""
        self._ledger = ledger
        self._results = TaskResults(app)
        self._events = TaskEvents(app)
        self._announced: dict[str, None] = {}

    def tell(self, view: JobView) -> None:
        """How the job stands now."""
        state = STATES.get(view.state, "PROGRESS")
        rate = None if view.state.ended else self._ledger.rate(view.job)
        body = progress(view, rate)
        if view.result is not None:
            body |= view.result.model_dump(mode="json")
        if view.code:
            body |= failure(view.code, view.message)
        self._results.store(view.job, body, state)
        if view.job not in self._announced:
            self._events.begin(view.job, _title(view), _choices(view), view.submitted_ms / 1000)
            self._announced[view.job] = None
        if view.state.ended:
            self._announced.pop(view.job, None)
            spent_ms = (view.ended_ms or 0) - (view.started_ms or view.submitted_ms)
            self._events.end(view.job, state, _outcome(view), max(0.0, spent_ms / 1000))
        else:
            self._events.progress(view.job, _standing(view, rate))

    def beat(self) -> None:
        """Call it every now and then: without it Flower takes its source of jobs for gone."""
        self._events.beat()


def progress(view: JobView, rate: float | None) -> dict[str, object]:
    """What `AsyncResult(job).info` is while the job goes on. `rate`: frames per second."""
    encoded = view.done[STAGES.index("encode")]
    share = min(1.0, encoded / view.expected) if view.expected > 0 else 0.0
    return {
        "state": view.state.value,
        "frames": encoded,
        "expected": view.expected,
        "percent": round(100 * share, 1),
        "frames_per_s": None if rate is None else round(rate, 1),
    }


def _title(view: JobView) -> str:
    return f"dualface.job {view.name or view.job}"


def _choices(view: JobView) -> Mapping[str, object]:
    """Of the spec, what a person chose; never an address, which may hold a secret."""
    spec = view.spec
    chosen = {"layout": spec.layout.value, "codec": spec.codec.value, "priority": spec.priority}
    return chosen | ({"owner": view.owner} if view.owner else {})


def _standing(view: JobView, rate: float | None) -> str:
    facts = progress(view, rate)
    speed = "" if rate is None else f", {rate:.1f} frames/s"
    if not view.expected:
        return view.state.value
    return f"{facts['percent']:.1f} %{speed}, {facts['frames']} of {view.expected} frames"


def _outcome(view: JobView) -> str:
    if view.result is None:
        return f"{view.code}: {view.message}"
    lost = f", {view.result.frames_lost} lost" if view.result.frames_lost else ""
    return f"{view.result.frames} frames{lost}"
