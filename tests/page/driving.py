"""Takes jobs through their states by the ledger's own steps, as workers would."""

from __future__ import annotations

import json
from pathlib import Path

from shared.jobs import JobSpec, Segment
from shared.ledger import ChunkRecord, JobResult
from shared.names import report_key, result_key, source_key, thumbnail_key, tracks_key
from tests.api.conftest import Served
from tests.builders import batch_message, output_plan, source_info

BATCH_FRAMES = 50


class Driver:
    """One job of `owner` in the served API."""

    def __init__(
        self, api: Served, job: str, *, name: str = "talk.mp4", owner: str = "ann"
    ) -> None:
        self.job = job
        self._store = api.service.store
        self._ledger = api.service.ledger
        self._at: dict[int, str] = {}
        self._spec = JobSpec(source=source_key(job, ".mp4"), name=name)
        self._ledger.submit(job, self._spec, owner)

    def split(self, frames: int = 1000) -> None:
        """It is running, all of it one segment."""
        self.begin()
        segment = Segment(index=0, key="s", first_pts=0, end_pts=None, frames=frames)
        self._ledger.add_segment(self.job, segment)
        self._ledger.split_done(self.job, 1, frames)
        self._ledger.let_go(self.job, "split", "w")

    def begin(self) -> None:
        """A decoder splits it."""
        assert self._ledger.take(self.job, "split", "w")
        self._ledger.put_facts(self.job, source_info(), output_plan(), BATCH_FRAMES)

    def batch(self, number: int, stage: str) -> None:
        """The batch is bound for `stage`: those before have done its frames."""
        message = batch_message(f"0:{number}", job=self.job, frames=BATCH_FRAMES)
        if stage == "done":
            record = ChunkRecord(key=f"c/{number}", pts=message.pts, size_bytes=1)
            assert self._ledger.chunk_done(message, record)
        else:
            assert self._ledger.send(message, stage, "w") == "go"

    def chunk(self, number: int, picture: bytes = b"") -> None:
        """The batch is all done, with a picture of it."""
        if picture:
            self.picture(number, picture)
        self.batch(number, "encode")
        self.batch(number, "done")

    def picture(self, number: int, picture: bytes) -> None:
        """A thumbnail of the batch."""
        self._store.write(thumbnail_key(self.job, 0, number), [picture])

    def finish(self, video: bytes, picture: bytes, source: bytes = b"", **result: object) -> None:
        """It has succeeded; `source`: what is kept of it."""
        given = {"key": result_key(self.job, "mp4"), "frames": 1000, "people": 2, **result}
        made = JobResult.model_validate(given)
        self._store.write(made.key, [video])
        if source:
            self._store.write(self._spec.source, [source])
        self.picture(0, picture)
        self._store.write(tracks_key(self.job), [b"-"])
        self._store.write(report_key(self.job), [json.dumps(self._report(made)).encode()])
        for stage, engine in ENGINES.items():
            self._ledger.note_engine(self.job, stage, engine)
            self._ledger.add(self.job, **{f"cpu_ms_{stage}": 1234})
        self._ledger.finish(self.job, made)

    def _report(self, made: JobResult) -> dict[str, object]:
        """As `services.encode.byproducts` writes it."""
        return {
            "v": 1,
            "job": self.job,
            "spec": self._spec.model_dump(mode="json"),
            "source": source_info().model_dump(mode="json"),
            "output": output_plan().model_dump(mode="json"),
            "rate": {"mode": "quality", "kbps": 0, "peak_kbps": 0, "buffer_kbit": 0},
            "result": made.model_dump(mode="json"),
            "duration_s": 40.0,
            "size_bytes": 12_345_678,
            "shift_s": 0.0,
            "engines": ENGINES,
            "busy": 0,
            "cpu_s": {},
            "times": {"submitted_ms": 0, "started_ms": 0, "ended_ms": 0},
            "versions": {"dualface": "1.0", "av": "16.0", "ffmpeg": "8.0"},
            "model": {"name": "centerface", "sha256": "0"},
            "replaced": [],
            "lost": [{"frames": made.frames_lost, "from_s": 4.0, "to_s": 8.0}]
            if made.frames_lost
            else [],
        }


ENGINES = {
    "decode": "pyav",
    "infer": "onnx-cpu:centerface",
    "compose": "opencv",
    "encode": "pyav-libx264",
}


def written(path: Path, body: bytes) -> Path:
    """The file, for choosing it in a browser."""
    path.write_bytes(body)
    return path
