"""The whole system behind its API: `dualface up`, and commands that speak to it."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from tests.system.runs import home_in, picture_hash
from tests.videos import CLOSED_GOP_X264, make_video
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(300)


def test_a_submitted_and_a_dropped_video_give_the_pictures_that_run_gives(tmp_path: Path) -> None:
    video = tmp_path / "talk.mp4"
    make_video(video, replace(CLOSED_GOP_X264, size=(320, 180), frames=30, audio="aac"))
    drop = tmp_path / "drop"
    drop.mkdir()
    with home_in(tmp_path, api_port="0") as home:
        up = home.start("up")
        wait_until(lambda: (home.state / "stack.json").exists(), "the stack is up", 60)
        wait_until(lambda: "Page and API" in up.said(), "the API serves", 60)
        running = home.start("run", video, "-o", "run.mp4")
        submitting = home.start("submit", video, "-o", "submit.mp4", "--json")
        watcher = home.start("watch", drop, "--out", "dropped", "--settle", "0.2")
        (drop / "talk.mp4").write_bytes(video.read_bytes())
        ran, submitted = running.wait(), submitting.wait()
        assert (ran.code, submitted.code) == (0, 0), ran.said + submitted.said
        job = json.loads(submitted.out)["job"]
        assert (job["state"], job["result"]["frames"]) == ("succeeded", 30)
        made = home.results / "dropped" / "talk-split.mp4"
        wait_until(made.exists, "the result is there", 60)
        watcher.interrupt(signal.SIGINT)
        ended = watcher.wait()
        assert (ended.code, "Traceback" in ended.said) == (0, False)
        up.interrupt(signal.SIGINT)
        assert up.wait().code == 0
        hashes = {picture_hash(home.results / name) for name in ("run.mp4", "submit.mp4")}
        assert hashes == {picture_hash(made)}
