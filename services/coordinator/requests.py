"""Jobs that Celery clients ask for. Whoever can write to the broker is trusted, as its owner is."""

from __future__ import annotations

from collections.abc import Mapping

from shared.errors import DualfaceError, ErrorCode, PermanentError, TemporaryError
from shared.jobs import JOB_ID, read_spec
from shared.logs import Log
from shared.models import check_detector
from shared.names import job_folder
from shared.queues import CANCEL, TaskResults
from shared.references import check_reference, check_webhook
from shared.runtime import Runtime
from shared.uploads import REFERENCE, Uploads

"""Of a Celery task, which is a UUID unless somebody chose otherwise; it becomes part of keys."""


class Requests:
    """Enters into the ledger what clients send."""

    def __init__(self, runtime: Runtime, results: TaskResults) -> None:
        self._runtime = runtime
        self._results = results
        self._uploads = Uploads(runtime.redis)
        self._log = Log(stage="coordinator")

    def handle(self, task: str, task_id: str, arguments: Mapping[str, object]) -> None:
        """A submit that can't be is told to who asked, by `AsyncResult`. Raises TemporaryError
        when it is to be delivered again."""
        try:
            if task == CANCEL:
                self._runtime.ledger.cancel(str(arguments.get("job", "")), "Cancelled.")
                return
            self._submit(task_id, arguments)
        except TemporaryError:
            raise
        except DualfaceError as error:
            self._log.warning("request refused", task=task, job=task_id, reason=error.message)
            if task != CANCEL:
                self._tell(task_id, error)

    def refuse(self, task_id: str, why: str) -> None:
        """Tell who sent what is none of our tasks: otherwise they would wait for ever."""
        self._tell(task_id, PermanentError(ErrorCode.BAD_OPTION, f"{why}."))

    def _tell(self, task_id: str, error: DualfaceError) -> None:
        """Under the task's id, unless a job has it: what is told of that is the job's."""
        is_job = JOB_ID.fullmatch(task_id) and self._runtime.ledger.state(task_id) is not None
        if task_id and not is_job:
            self._results.store_failure(task_id, error)

    def _submit(self, job: str, arguments: Mapping[str, object]) -> None:
        if not JOB_ID.fullmatch(job):
            raise PermanentError(
                ErrorCode.BAD_OPTION, "The task's id is to be of letters, digits, '-', '_'."
            )
        spec = read_spec(arguments)
        if spec.source.startswith(REFERENCE):
            raise PermanentError(
                ErrorCode.BAD_OPTION, "source: an upload becomes a job through the API only."
            )
        if not spec.source.startswith(f"{job_folder(job)}/"):
            check_reference(spec.source, self._runtime.settings)
        settings = self._runtime.settings
        secret = ""
        if spec.webhook is not None:
            check_webhook(spec.webhook, settings.webhook_hosts)
            secret = settings.webhook_secret.get_secret_value()
            if not secret:
                raise PermanentError(
                    ErrorCode.BAD_OPTION,
                    "webhook: nothing signs those of jobs without an API key here "
                    "(DUALFACE_WEBHOOK_SECRET is empty).",
                )
        check_detector(spec.detector, settings.cache_dir / "models", settings.model_folders)
        self._runtime.ledger.submit(job, spec, webhook_secret=secret)
        self._log.info("job submitted", job=job, name=spec.name)
