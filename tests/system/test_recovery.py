"""Killing parts of a run in the middle changes nothing about its result."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest

from client.sample import make_sample
from shared.errors import PermanentError
from tests.processes import kill
from tests.system.runs import DEADLINE_S, Ended, Home, Running, home_in, picture_hash
from tests.videos import VideoSpec, make_video
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(300)

STAGES = ("decode", "infer", "compose", "encode")


@dataclass(frozen=True)
class Calm:
    """A source, and what an undisturbed run makes of it."""

    source: Path
    picture: str
    chunks: int


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Calm:
    folder = tmp_path_factory.mktemp("calm")
    source = folder / "source.mp4"
    try:
        portraits = Path.home() / ".cache" / "dualface" / "portraits"
        make_sample(source, seconds=8, size=(320, 180), portraits=portraits)
    except PermanentError:  # no package index: nobody to be followed, all the rest is the same
        make_video(source, VideoSpec(size=(320, 180), frames=200, audio="aac"))
    with home_in(folder) as home:
        run = home.start("run", source, "-o", "calm.mp4")
        most = 0

        def ended() -> bool:
            nonlocal most
            most = max(most, len(home.chunks()))
            return run.process.poll() is not None

        wait_until(ended, "the undisturbed run has ended", DEADLINE_S)
        done = run.wait()
        assert done.code == 0, done.said
        assert home.leftovers() == []
        return Calm(source, picture_hash(home.results / "calm.mp4"), most)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    with home_in(tmp_path) as made:
        yield made


def wait_for_chunks(home: Home, run: Running, count: int) -> None:
    wait_until(
        lambda: len(home.chunks()) >= count or run.process.poll() is not None,
        f"{count} chunks are there: {run.said()}",
        DEADLINE_S,
    )
    assert run.process.poll() is None, run.said()


def children(home: Home) -> dict[str, list[int]]:
    """Pool children of every stage, by their process ids."""
    return {stage: [each.pid for each in home.worker(stage).children()] for stage in STAGES}


def check(home: Home, calm: Calm, done: Ended) -> None:
    assert done.code == 0, done.said
    assert "Traceback" not in done.said
    assert not home.stalled(), home.about()
    assert picture_hash(home.results / "out.mp4") == calm.picture, done.said + home.about()
    assert home.leftovers() == []


def test_killed_pool_children_change_nothing(home: Home, calm: Calm) -> None:
    # So that it is still at work when the last of them are killed.
    slow = {"DUALFACE_DRILLS": '[{"stage": "encode", "kind": "slow", "pause_s": 0.03}]'}
    run = replace(home, settings={**home.settings, **slow}).start(
        "run", calm.source, "-o", "out.mp4"
    )
    for count, stage in enumerate(STAGES, 1):
        wait_for_chunks(home, run, 2 * count)
        kill(home.worker(stage).children())
    check(home, calm, run.wait())


def test_killed_workers_change_nothing(home: Home, calm: Calm) -> None:
    run = home.start("run", calm.source, "-o", "out.mp4")
    wait_for_chunks(home, run, 1)
    for stage in STAGES:
        home.worker(stage).kill()
    check(home, calm, run.wait())


@pytest.mark.parametrize("name", ["coordinator", "arena"])
def test_a_killed_coordinator_or_arena_owner_changes_nothing(
    home: Home, calm: Calm, name: str
) -> None:
    run = home.start("run", calm.source, "-o", "out.mp4")
    wait_for_chunks(home, run, 1)
    home.worker(name).kill()
    check(home, calm, run.wait())


def test_a_killed_redis_server_changes_nothing(home: Home, calm: Calm) -> None:
    run = home.start("run", calm.source, "-o", "out.mp4")
    wait_for_chunks(home, run, 2)
    home.server().kill()
    check(home, calm, run.wait())


def test_a_killed_fork_server_changes_nothing(home: Home, calm: Calm) -> None:
    run = home.start("run", calm.source, "-o", "out.mp4")
    wait_for_chunks(home, run, 1)
    psutil.Process(home.worker("coordinator").ppid()).kill()
    check(home, calm, run.wait())


def test_after_a_kill_of_everything_the_same_command_goes_on(home: Home, calm: Calm) -> None:
    run = home.start("run", calm.source, "-o", "out.mp4")
    wait_for_chunks(home, run, 4)
    kill(home.processes())
    assert run.wait().code == -signal.SIGKILL
    home.wait_until_all_gone()
    before = home.chunks()
    assert len(before) >= 4
    again = home.start("run", calm.source, "-o", "out.mp4")
    seen: dict[str, set[int]] = {name: set() for name in before}

    def ended() -> bool:
        for name, inode in home.chunks().items():
            seen.setdefault(name, set()).add(inode)
        return again.process.poll() is not None

    wait_until(ended, "the second run has ended", DEADLINE_S)
    # A chunk whose batch was written down is not made again; one that was just being written is.
    made_again = [name for name, inode in before.items() if seen[name] - {inode}]
    assert len(made_again) <= 2
    check(home, calm, again.wait())


def test_a_killed_run_goes_on_in_an_arena_of_a_third_of_the_memory(home: Home, calm: Calm) -> None:
    first = replace(home, settings={**home.settings, "DUALFACE_BATCH_FRAMES": "32"})
    run = first.start("run", calm.source, "-o", "out.mp4")
    wait_for_chunks(first, run, 2)
    kill(first.processes())
    run.wait()
    first.wait_until_all_gone()
    less = replace(first, settings={**first.settings, "DUALFACE_ARENA_MIB": "8"})
    done = less.run("run", calm.source, "-o", "out.mp4")
    assert done.code == 0, done.said
    assert "could not be made" not in done.said
    assert less.leftovers() == []


def test_a_run_of_another_video_cleans_up_after_a_killed_one(
    home: Home, calm: Calm, tmp_path: Path
) -> None:
    run = home.start("run", calm.source, "-o", "out.mp4")
    wait_for_chunks(home, run, 1)
    kill(home.processes())
    run.wait()
    home.wait_until_all_gone()
    assert home.leftovers() != []
    other = make_video(tmp_path / "other.mp4", VideoSpec(size=(320, 180), frames=10))
    done = home.run("run", other, "-o", "other-split.mp4")
    assert done.code == 0, done.said
    assert home.leftovers() == []
    assert not (home.results / "out.mp4").exists()


def test_everything_ends_when_the_command_is_killed(home: Home, calm: Calm) -> None:
    run = home.start("run", calm.source, "-o", "out.mp4")
    wait_for_chunks(home, run, 1)
    run.process.kill()
    run.wait()
    home.wait_until_all_gone()
    assert run.err.read_text() == ""
    assert list(home.shm.iterdir()) == []
    assert not (home.results / "out.mp4").exists()
