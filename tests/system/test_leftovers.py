"""Nothing is left behind, however a command ends."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.placing import part_of
from tests.files import files_below
from tests.processes import kill
from tests.system.runs import DEADLINE_S, Home, Running, home_in
from tests.videos import VideoSpec, make_video
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(200)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "source.mp4"
    return make_video(path, VideoSpec(size=(320, 180), frames=400, audio="aac"))


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    with home_in(tmp_path) as made:
        yield made


def wait_for(run: Running, home: Home, when: str) -> None:
    """Until the run is where it is to be disturbed."""
    conditions = {
        "importing": lambda: len(home.processes()) >= 2,
        "starting": lambda: (home.state / "lock").exists(),
        "splitting": lambda: any(
            path.name.startswith("source") for path in files_below(home.state / "store" / "jobs")
        ),
        "running": lambda: len(home.chunks()) >= 2,
    }
    wait_until(
        lambda: conditions[when]() or run.process.poll() is not None, f"it is {when}", DEADLINE_S
    )
    assert run.process.poll() is None, run.said()


def test_success_leaves_the_result_alone(home: Home, tmp_path: Path) -> None:
    source = make_video(tmp_path / "short.mp4", VideoSpec(size=(320, 180), frames=10))
    done = home.run("run", source, "-o", "out.mp4")
    assert done.code == 0, done.said
    assert home.leftovers() == []
    assert [path.name for path in home.results.iterdir()] == ["out.mp4"]


@pytest.mark.parametrize("when", ["starting", "splitting", "running"])
def test_ctrl_c_leaves_nothing(home: Home, source: Path, when: str) -> None:
    run = home.start("run", source, "-o", "out.mp4")
    wait_for(run, home, when)
    run.interrupt(signal.SIGINT)
    done = run.wait()
    assert done.code == 128 + signal.SIGINT, done.said
    assert done.err == "dualface: Stopped; nothing was left behind.\n"
    assert home.leftovers() == []
    assert list(home.results.iterdir()) == []


def test_ctrl_c_before_anything_was_done_just_ends_the_command(home: Home, source: Path) -> None:
    run = home.start("run", source, "-o", "out.mp4")
    wait_for(run, home, "importing")
    run.interrupt(signal.SIGINT)
    done = run.wait()
    assert done.code in (128 + signal.SIGINT, -signal.SIGINT)
    assert "Traceback" not in done.said
    home.wait_until_all_gone()
    assert not home.state.exists() or home.leftovers() == []


def test_ctrl_c_pressed_again_and_again_leaves_nothing(home: Home, source: Path) -> None:
    run = home.start("run", source, "-o", "out.mp4")
    wait_for(run, home, "running")

    def pressed() -> bool:
        if run.process.poll() is None:
            run.interrupt(signal.SIGINT)
        return run.process.poll() is not None

    wait_until(pressed, "it has ended", DEADLINE_S)
    done = run.wait()
    assert done.code in (128 + signal.SIGINT, -signal.SIGINT), done.said
    assert "Traceback" not in done.said
    assert "KeyboardInterrupt" not in done.said
    assert home.leftovers() == []
    assert list(home.results.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_being_told_to_end_leaves_nothing(home: Home, source: Path, number: signal.Signals) -> None:
    run = home.start("run", source, "-o", "out.mp4")
    wait_for(run, home, "running")
    run.interrupt(number)
    done = run.wait()
    assert done.code == 128 + number, done.said
    assert "Traceback" not in done.said
    assert home.leftovers() == []
    assert list(home.results.iterdir()) == []


def test_a_dead_coordinator_and_redis_do_not_keep_an_interrupted_run_from_leaving(
    home: Home, source: Path
) -> None:
    run = home.start("run", source, "-o", "out.mp4")
    wait_for(run, home, "running")
    kill([home.worker("coordinator"), home.server()])
    run.interrupt(signal.SIGINT)
    done = run.wait()
    assert "Traceback" not in done.said
    assert done.code == 128 + signal.SIGINT, done.said
    assert home.leftovers() == []


def test_a_part_that_a_killed_run_left_is_removed_by_the_next(home: Home, tmp_path: Path) -> None:
    source = make_video(tmp_path / "short.mp4", VideoSpec(size=(320, 180), frames=10))
    home.results.mkdir()
    output = home.results / "out.mp4"
    part_of(output).write_bytes(b"half of it")
    done = home.run("run", source, "-o", output)
    assert done.code == 0, done.said
    assert home.leftovers() == []


def test_an_older_result_stays_when_a_run_is_stopped(home: Home, source: Path) -> None:
    home.results.mkdir()
    output = home.results / "out.mp4"
    output.write_bytes(b"older")
    run = home.start("run", source, "-o", output)
    wait_for(run, home, "splitting")
    run.interrupt(signal.SIGINT)
    run.wait()
    assert output.read_bytes() == b"older"
    assert home.leftovers() == []
