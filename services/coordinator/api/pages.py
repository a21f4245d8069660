"""Pages of a list of jobs, as JSON.

Jobs that have ended are most of any list and change no more, so what they look like is kept:
reading and writing 50 records costs three times what looking at their marks does.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence

from shared.ledger import Ledger
from shared.rest import job_of

MOST = 4096
"""Ended jobs kept, the least lately listed goes first: some 8 MB."""


class Pages:
    """For many threads."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._kept: OrderedDict[str, tuple[str, str]] = OrderedDict()
        """Job -> its mark and its JSON."""
        self._lock = threading.Lock()

    def page(self, jobs: Sequence[str], following: str | None) -> str:
        """A `JobPage` of those of `jobs` that are known, in their order."""
        marks = dict(zip(jobs, self._ledger.marks(jobs), strict=True))
        texts = self._known(marks)
        views = self._ledger.views([job for job in jobs if job not in texts])
        fresh = {view.job: job_of(view).model_dump_json() for view in views}
        self._keep({job: (marks[job], text) for job, text in fresh.items() if marks[job]})
        texts |= fresh
        listed = ",".join(texts[job] for job in jobs if job in texts)
        return f'{{"jobs":[{listed}],"next":{json.dumps(following)}}}'

    def _known(self, marks: dict[str, str]) -> dict[str, str]:
        with self._lock:
            found = {job: self._kept[job] for job in marks if job in self._kept}
            for job in found:
                self._kept.move_to_end(job)
        return {job: text for job, (mark, text) in found.items() if mark == marks[job]}

    def _keep(self, fresh: dict[str, tuple[str, str]]) -> None:
        with self._lock:
            self._kept.update(fresh)
            while len(self._kept) > MOST:
                self._kept.popitem(last=False)
