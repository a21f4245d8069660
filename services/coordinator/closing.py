"""What is left of a job that ended is given back and removed; users' view of it is kept."""

from __future__ import annotations

from pathlib import PurePosixPath

from shared.jobs import JobState
from shared.ledger import JobView
from shared.logs import Log
from shared.names import job_folder
from shared.queues import TaskResults
from shared.runtime import Runtime

KEPT = ("result",)
"""Objects of a job that outlive it."""


class Closing:
    """Tells `AsyncResult` how jobs stand, and cleans up after those that ended."""

    def __init__(self, runtime: Runtime, results: TaskResults) -> None:
        self._runtime = runtime
        self._results = results
        self._told: dict[str, tuple[str, int]] = {}
        self._log = Log(stage="coordinator")

    def step(self) -> None:
        """Tell how the live jobs stand; tell and clean up those that ended."""
        ledger = self._runtime.ledger
        live = ledger.live()
        self._told = {job: self._told[job] for job in live if job in self._told}
        for job in live:
            view = ledger.view(job)
            if view is not None and self._told.get(job) != (view.state.value, view.done[3]):
                self._told[job] = (view.state.value, view.done[3])
                self._tell(job, view)
        for job in ledger.ended():
            view = ledger.view(job)
            if view is not None:
                self._tell(job, view)
            self._clean(job, view)

    def _tell(self, job: str, view: JobView) -> None:
        state = {JobState.SUCCEEDED: "SUCCESS", JobState.CANCELLED: "REVOKED"}.get(
            view.state, "FAILURE" if view.state is JobState.FAILED else "PROGRESS"
        )
        body: dict[str, object] = {
            "state": view.state.value,
            "frames": view.done[3],
            "expected": view.expected,
        }
        if view.result is not None:
            body |= view.result.model_dump(mode="json")
        if view.code:
            body |= {"code": view.code, "message": view.message}
            # What Celery needs to raise something on the waiting side.
            body |= {"exc_type": "PermanentError", "exc_message": [view.code, view.message]}
            body |= {"exc_module": "shared.errors"}
        self._results.store(job, body, state)

    def _clean(self, job: str, view: JobView | None) -> None:
        """Idempotent: the job leaves the list of the ended last."""
        for flight in self._runtime.ledger.flights(job):
            self._runtime.release(flight.message.slot)
        store, folder = self._runtime.store, job_folder(job)
        if view is not None and view.state is JobState.SUCCEEDED:
            for key in list(store.keys(folder)):
                if PurePosixPath(key).stem not in KEPT:
                    store.delete(key)
        else:
            store.delete(folder)
        self._runtime.ledger.forget(job)
        self._log.info("job ended", job=job, state=view.state.value if view else "gone")
