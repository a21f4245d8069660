"""Two releases side by side: a job that began with the one ends with the other, as if nothing was.

The other release is a copy of this one that speaks another version of the messages and has added a
field here and there, as a release of tomorrow may.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shared.jobs import JobSpec, JobState
from shared.ledger import Ledger
from shared.messages import VERSION
from shared.names import source_key
from shared.queues import DeadLetters
from shared.redisdb import Connection
from shared.storage.directory import DirectoryStore
from shared.workers import living
from tests.system.runs import FAST, have_model, home_in, picture_hash
from tests.videos import VideoSpec, make_video
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(600)

PROJECT = Path(__file__).parents[2]
STAGES = ("decode", "infer", "compose", "encode")
SLOW = '[{"stage": "compose", "kind": "slow", "pause_s": 0.15}]'


def tomorrows(folder: Path) -> Path:
    """The other release's code."""
    for package in ("shared", "services"):
        shutil.copytree(
            PROJECT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    messages = folder / "shared" / "messages.py"
    text = re.sub(rf"\bVERSION = {VERSION}\b", "VERSION = 99", messages.read_text())
    text = text.replace(f"v: Literal[{VERSION}] = {VERSION}", "v: Literal[99] = 99")
    text = text.replace("    slot: SlotRef\n", "    slot: SlotRef\n    tomorrows: int = 1\n", 1)
    assert "Literal[99]" in text
    assert "tomorrows" in text
    messages.write_text(text)
    jobs = folder / "shared" / "jobs.py"
    jobs.write_text(
        jobs.read_text().replace(
            "    rotation: Literal", "    tomorrows: int = 1\n    rotation: Literal", 1
        )
    )
    assert "tomorrows" in jobs.read_text()
    return folder


class Site:
    """The processes of one machine, of either release."""

    def __init__(self, folder: Path, shm: Path, redis_url: str) -> None:
        self._folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        own = {key: value for key, value in os.environ.items() if not key.startswith("DUALFACE_")}
        self._environment = {
            **own,
            **FAST,
            "DUALFACE_REDIS_URL": redis_url,
            "DUALFACE_STATE_DIR": str(folder / "state"),
            "DUALFACE_SHM_DIR": str(shm),
            "DUALFACE_DRILLS": SLOW,
            "DUALFACE_ENCODE_WORKERS": "1",
        }

    def start(self, name: str, module: str, code: Path = PROJECT) -> None:
        """`python -m MODULE` of the release whose code is there."""
        environment = {**self._environment, "PYTHONPATH": str(code)}
        with (self._folder / f"{name}.log").open("wb") as log:
            self._running[name] = subprocess.Popen(
                [sys.executable, "-m", module], cwd=code, env=environment, stdout=log, stderr=log
            )

    def stop(self, name: str) -> int:
        """Ask it to end; its exit code."""
        process = self._running.pop(name)
        process.send_signal(signal.SIGTERM)
        return process.wait(timeout=60)

    def said(self, name: str) -> str:
        """Its log."""
        return (self._folder / f"{name}.log").read_text(errors="replace")

    def close(self) -> None:
        """End all that is left."""
        for process in self._running.values():
            process.kill()
            process.wait()


@contextmanager
def site(folder: Path, redis_url: str) -> Iterator[Site]:
    shm = Path("/dev/shm") / f"dualface-test-{uuid.uuid4().hex[:8]}-rollout"
    shm.mkdir()
    made = Site(folder, shm, redis_url)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(shm)


def test_a_job_goes_on_while_every_process_is_replaced_by_another_release(
    redis: Connection, redis_url: str, tmp_path: Path
) -> None:
    have_model()
    video = make_video(tmp_path / "v.mp4", VideoSpec(size=(320, 180), frames=200, gop=20))
    with home_in(tmp_path) as home:
        calm = home.run("run", video, "-o", "calm.mp4")
        assert calm.code == 0, calm.said
        picture = picture_hash(home.results / "calm.mp4")
    (tmp_path / "site").mkdir()
    code = tomorrows(tmp_path / "tomorrow")
    store = DirectoryStore(tmp_path / "site" / "state" / "store")
    ledger = Ledger(redis, 60, 4)

    def done() -> int:
        view = ledger.view("j")
        assert view is not None
        assert view.state is not JobState.FAILED, view.message
        return view.done[3]

    with site(tmp_path / "site", redis_url) as here:
        here.start("arena", "shared.arena")
        here.start("coordinator", "services.coordinator")
        for stage in STAGES:
            here.start(stage, f"services.{stage}")
        store.adopt(source_key("j", ".mp4"), video)
        ledger.submit("j", JobSpec(source=source_key("j", ".mp4"), name="v.mp4"))
        wait_until(lambda: done() >= 16, "the job has begun", 90)
        # Its memory goes, and with it the frames on their way.
        assert here.stop("arena") == 0
        here.start("arena", "shared.arena")
        for stage in STAGES:
            here.start(f"new-{stage}", f"services.{stage}", code)
        workers = 2 * len(STAGES)
        wait_until(lambda: len(list(living(redis))) >= workers + 2, "the new workers are up", 90)
        # The coordinator before the old workers: what it sends, new workers understand.
        assert here.stop("coordinator") == 0
        here.start("new-coordinator", "services.coordinator", code)
        wait_until(lambda: foreign(redis), "batches of the new release are on their way", 90)
        for stage in STAGES:
            assert here.stop(stage) == 0, here.said(stage)
        wait_until(lambda: ledger.state("j") is JobState.SUCCEEDED, "the job succeeds", 60)
        refused = [name for name in STAGES if "another release" in here.said(name)]
        assert refused or any("another release" in here.said(f"new-{name}") for name in STAGES)
    view = ledger.view("j")
    assert view is not None
    assert view.result is not None
    with store.local(view.result.key) as path:
        assert picture_hash(path) == picture
    assert list(DeadLetters(redis).all()) == []


def foreign(redis: Connection) -> bool:
    """True while a batch of the new release is on its way."""
    return any('"tomorrows":1' in str(row) for row in redis.hvals("df:job:j:flight"))
