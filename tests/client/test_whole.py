"""The whole system behind its API: `dualface up`, and commands that speak to it."""

from __future__ import annotations

import json
import os
import signal
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from tests.system.runs import Home, Running, home_in, picture_hash
from tests.videos import CLOSED_GOP_X264, make_video
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(300)


def ended(running: Running) -> bool:
    """The command is over."""
    return running.process.poll() is not None


def holding_removed(home: Home) -> list[int]:
    """Processes that have a file in shared memory open that has no name any more."""
    held = []
    for process in home.processes():
        with suppress(OSError):
            links = [os.readlink(each) for each in os.scandir(f"/proc/{process.pid}/fd")]
            if any(link.startswith(str(home.shm)) and "(deleted)" in link for link in links):
                held.append(process.pid)
    return held


def test_a_submitted_and_a_dropped_video_give_the_pictures_that_run_gives(tmp_path: Path) -> None:
    video = tmp_path / "talk.mp4"
    make_video(video, replace(CLOSED_GOP_X264, size=(320, 180), frames=30, audio="aac"))
    drop = tmp_path / "drop"
    drop.mkdir()
    with home_in(tmp_path, api_port="0") as home:
        up = home.start("up")
        wait_until(lambda: "Page and API" in up.said() or ended(up), "the API serves", 60)
        assert not ended(up), up.said()
        running = home.start("run", video, "-o", "run.mp4")
        submitting = home.start("submit", video, "-o", "submit.mp4", "--json")
        watcher = home.start("watch", drop, "--out", "dropped", "--settle", "0.2", "--json")
        (drop / "talk.mp4").write_bytes(video.read_bytes())
        ran, submitted = running.wait(), submitting.wait()
        assert (ran.code, submitted.code) == (0, 0), ran.said + submitted.said
        job = json.loads(submitted.out)["job"]
        assert (job["state"], job["result"]["frames"]) == ("succeeded", 30)
        made = home.results / "dropped" / "talk-split.mp4"
        wait_until(lambda: made.exists() or "failed" in watcher.said(), "the result is there", 60)
        assert made.exists(), watcher.said()
        watcher.interrupt(signal.SIGINT)
        stopped = watcher.wait()
        assert (stopped.code, "Traceback" in stopped.said) == (0, False)
        # Nobody works now, and yet nobody keeps the memory of an arena that is no more.
        before = set(home.shm.iterdir())
        home.worker("arena").terminate()
        wait_until(lambda: (now := set(home.shm.iterdir())) and not now & before, "another arena")
        wait_until(lambda: not holding_removed(home), "the memory of the former one is free")
        up.interrupt(signal.SIGINT)
        assert up.wait().code == 0
        hashes = {picture_hash(home.results / name) for name in ("run.mp4", "submit.mp4")}
        assert hashes == {picture_hash(made)}
