"""What the coordinator's steps cost against the length of the queue, with workers that do nothing.

    python -m benchmarks.dispatch [--rounds 200] [--folder DIR]

For 10, 100 and 1,000 jobs with 100 waiting segments each, and as many jobs that are not split yet,
on a server each and by turns:
median microseconds of submitting a job, of listing a page of 20, of taking a segment fairly, of a
decoder's report, of the dispatcher's and the closing step with nothing to do. Beside each round, on
the same connection, a bare PING and a bare HSET + ZADD: read the ratios, the machine is shared.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from client.stack import start_server, stop_server
from services.coordinator.closing import Closing
from services.coordinator.dispatch import Dispatcher
from services.coordinator.telling import Telling
from shared.arena.base import ArenaDescriptor
from shared.arena.registry import ArenaRegistry
from shared.jobs import Codec, ColorTags, JobSpec, OutputPlan, Rect, Segment, SourceInfo
from shared.ledger import Losses
from shared.messages import Message, SegmentMessage
from shared.queues import make_app
from shared.redisdb import Connection, connect
from shared.runtime import Runtime, make_runtime
from shared.settings import Settings
from shared.storage.directory import DirectoryStore

SEGMENTS = 100
JOBS = (10, 100, 1000)
PAGE = 20
SPEC = JobSpec(source="jobs/j/source.mp4", name="a.mp4")
SOURCE = SourceInfo(
    format="mov", codec="h264", stream=0, width=1920, height=1080, time_base=(1, 12800),
    frame_rate=(25, 1),
)  # fmt: skip
HALF = Rect(x=0, y=0, w=960, h=1080)
OUTPUT = OutputPlan(
    width=1920, height=1080, tiles=(HALF, HALF), codec=Codec.H264, crf=23, preset="veryfast",
    color=ColorTags(), time_base=(1, 12800), frame_rate=(25, 1),
)  # fmt: skip
ARENA = ArenaDescriptor(
    name="cpu0", generation="g", path="/nowhere", slot_bytes=4096, decoded=3, composed=3
)
NO_LOSSES = Losses(0, 0, 0, 0)


class Nowhere:
    """An outbox that keeps the last message."""

    def __init__(self) -> None:
        self.segment: SegmentMessage | None = None

    def send(self, task: str, message: Message, queue: str) -> None:  # noqa: ARG002
        """Keep it, if it is a segment's."""
        if isinstance(message, SegmentMessage):
            self.segment = message


class Bench:
    """A ledger that grows, and the coordinator's parts on it."""

    def __init__(self, runtime: Runtime) -> None:
        self._redis = runtime.redis
        self._ledger = runtime.ledger
        self._outbox = Nowhere()
        behind = replace(runtime, outbox=self._outbox)
        self._dispatcher = Dispatcher(behind)
        telling = Telling(runtime.ledger, make_app(runtime.settings.redis_url))
        # Its slower rounds never come; what they cost is bounded by their slices.
        self._closing = Closing(behind, telling, clock=lambda: 0.0)
        self._jobs = 0
        self._extra = 0
        ArenaRegistry(runtime.redis).publish(ARENA)

    def grow(self, jobs: int) -> None:
        """To so many jobs of SEGMENTS segments, and as many that are not split yet."""
        for number in range(self._jobs, jobs):
            self._ledger.submit(f"queued{number}", SPEC)
            self._open(f"open{number}")
        self._jobs = jobs
        # What is not measured: the first look of a coordinator, and telling how all of them stand.
        self._dispatcher.step()
        while self._ledger.changed(1000):
            pass

    def _open(self, job: str) -> None:
        ledger = self._ledger
        ledger.submit(job, SPEC)
        ledger.take(job, "split", "w")
        ledger.put_facts(job, SOURCE, OUTPUT, 32)
        for index in range(SEGMENTS):
            key = f"jobs/{job}/segments/{index:06d}.nut"
            first = index * 128000
            segment = Segment(
                index=index, key=key, first_pts=first, end_pts=first + 128000, frames=250
            )
            ledger.add_segment(job, segment)
        ledger.split_done(job, SEGMENTS, 250 * SEGMENTS)
        ledger.let_go(job, "split", "w")

    def round(self) -> dict[str, float]:
        """Microseconds of each step, once."""
        found = {
            "PING": timed(self._redis.ping),
            "HSET + ZADD": timed(self._write),
            "submit": timed(self._submit),
            "list a page of 20": timed(lambda: self._ledger.page(self._jobs - PAGE // 2, PAGE)),
        }
        done = self._outbox.segment
        assert done is not None
        # Its decoder gives the segment back, so that the queue stays as long as it is.
        returned = lambda: self._ledger.return_segment(  # noqa: E731
            done.job, done.segment.index, done.attempt, gave_back=True
        )
        found["a decoder's report"] = timed(returned)
        found["dispatch a segment"] = timed(self._dispatcher.step)
        assert self._outbox.segment is not done, "nothing was dispatched"
        found["dispatch, nothing due"] = timed(self._dispatcher.step)
        found["closing, nothing ended"] = timed(self._closing.step)
        self._withdraw()
        return found

    def _write(self) -> None:
        """What any queue writes for a job, without a script: two commands, one round trip."""
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.hset("bench:job", mapping={"state": "queued", "spec": SPEC.model_dump_json()})
        pipeline.zadd("bench:live", {f"job{self._extra % 1000}": self._extra})
        pipeline.execute()

    def _submit(self) -> None:
        self._extra += 1
        self._ledger.submit(f"extra{self._extra}", SPEC)

    def _withdraw(self) -> None:
        """Not measured: the queue is as long as before."""
        job = f"extra{self._extra}"
        self._redis.delete(f"df:job:{job}")
        self._redis.zrem("df:jobs:live", job)
        self._redis.zrem("df:index:queued", job)
        self._redis.delete("bench:job")


def timed(action: Callable[[], object]) -> float:
    """Microseconds."""
    began = time.perf_counter()
    action()
    return (time.perf_counter() - began) * 1e6


@contextmanager
def a_ledger(folder: Path) -> Iterator[Bench]:
    """On a server of its own."""
    logs = folder / "logs"
    logs.mkdir()
    settings = Settings().model_copy(update={"state_dir": folder, "redis_url": ""})
    server, url = start_server(settings, logs)
    redis: Connection = connect(url)
    try:
        settings = settings.model_copy(update={"redis_url": url})
        store = DirectoryStore(folder / "store")
        yield Bench(make_runtime(settings, redis, store, Nowhere(), "bench"))
    finally:
        redis.close()
        stop_server(server)


def main(arguments: Sequence[str]) -> int:
    """Print the table; 1 when the longest queue costs more than twice what the shortest does."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--folder", type=Path, help="for the server's files; default: temporary")
    chosen = parser.parse_args(arguments)
    with ExitStack() as stack:
        benches = []
        for jobs in JOBS:
            name = tempfile.TemporaryDirectory(prefix="dualface-bench-", dir=chosen.folder)
            benches.append(stack.enter_context(a_ledger(Path(stack.enter_context(name)))))
            benches[-1].grow(jobs)
        # By turns, so that whatever else the machine does hits all of them.
        rounds = [[bench.round() for bench in benches] for _ in range(chosen.rounds)]
    return report(
        [
            {what: statistics.median(row[at][what] for row in rounds) for what in rounds[0][0]}
            for at in range(len(JOBS))
        ]
    )


def report(medians: Sequence[dict[str, float]]) -> int:
    """The table in Markdown. Ratios are to the HSET + ZADD of the same rounds."""
    print(
        "| step |", " | ".join(f"{n:,} jobs, {n * SEGMENTS:,} segments" for n in JOBS), "| growth |"
    )
    print("|---|" + "---|" * (len(JOBS) + 1))
    worst = 0.0
    for what in medians[0]:
        ratios = [column[what] / column["HSET + ZADD"] for column in medians]
        cells = [
            f"{column[what]:.0f} µs ({r:.2f})" for column, r in zip(medians, ratios, strict=True)
        ]
        growth = medians[-1][what] / medians[0][what]
        worst = max(worst, growth)
        print(f"| {what} | {' | '.join(cells)} | {growth:.2f} |")
    print(f"\nworst growth from {JOBS[0] * SEGMENTS:,} to {JOBS[-1] * SEGMENTS:,}: {worst:.2f}")
    return 0 if worst <= 2 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
