"""What a machine does to a run: its disk and shared memory fill up, its clock jumps."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from client.stack import server_binary
from shared.redisdb import RedisError, connect
from tests.servers import free_port
from tests.system.runs import Home, Running, home_in, picture_hash
from tests.videos import VideoSpec, make_video
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(300)

MIB = 1 << 20
SLOW = '[{"stage": "encode", "kind": "slow", "pause_s": 0.05}]'
"""So that there is a middle for something to happen in."""


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("video")
    return make_video(folder / "v.mp4", VideoSpec(size=(320, 180), frames=160, gop=20))


@pytest.fixture(scope="module")
def calm(video: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The picture of an undisturbed run."""
    with home_in(tmp_path_factory.mktemp("calm")) as home:
        done = home.run("run", video, "-o", "out.mp4")
        assert done.code == 0, done.said
        return picture_hash(home.results / "out.mp4")


@contextmanager
def small_disk(folder: Path, size_mib: int) -> Iterator[Path]:
    """A file system of its own, as small as that."""
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={size_mib}m", "none", str(folder)]
    if os.geteuid() or subprocess.run(["mount", *options], check=False).returncode:
        pytest.skip("a small file system can be mounted by root only")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """A file that takes all that is free; again, what became so since."""
    path = folder / "filler"
    with path.open("ab", buffering=0) as file:
        for size in (MIB, 4096):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return path


def wait_for_chunks(home: Home, run: Running, count: int) -> None:
    wait_until(
        lambda: len(home.chunks()) >= count or run.process.poll() is not None,
        f"{count} chunks are there: {run.said()}",
        60,
    )
    assert run.process.poll() is None, run.said()


def test_a_disk_that_fills_up_in_the_middle_costs_a_service_time_and_nothing_else(
    video: Path, calm: str, tmp_path: Path
) -> None:
    with (
        small_disk(tmp_path / "disk", 56) as disk,
        home_in(disk, drills=SLOW, api_port="0") as home,
    ):
        up = home.start("up")
        wait_until(lambda: "Page and API" in up.said(), f"it is up: {up.said()}", 60)
        job = home.start("submit", video, "-o", tmp_path / "out.mp4")
        wait_for_chunks(home, job, 3)
        url = json.loads((home.state / "stack.json").read_text())["redis_url"]
        wait_until(lambda: fill(disk) and not writes(url), "its Redis can write nothing", 60)
        (disk / "filler").unlink()
        done = job.wait()
        assert done.code == 0, done.said
        up.process.send_signal(signal.SIGTERM)
        ended = up.wait()
        assert ended.code == 0, ended.said
        assert "Traceback" not in ended.said
        assert picture_hash(tmp_path / "out.mp4") == calm


def test_shared_memory_that_fills_up_in_the_middle_is_not_felt(
    video: Path, calm: str, tmp_path: Path
) -> None:
    with (
        small_disk(tmp_path / "shm", 64) as shm,
        home_in(tmp_path, drills=SLOW, shm_dir=str(shm)) as home,
    ):
        run = home.start("run", video, "-o", "out.mp4")
        wait_for_chunks(home, run, 3)
        filler = fill(shm)
        done = run.wait()
        assert done.code == 0, done.said
        assert picture_hash(home.results / "out.mp4") == calm
        filler.unlink()
        assert list(shm.iterdir()) == []


def test_shared_memory_that_is_full_from_the_start_is_refused_with_the_numbers(
    video: Path, tmp_path: Path
) -> None:
    with (
        small_disk(tmp_path / "shm", 64) as shm,
        home_in(tmp_path, shm_dir=str(shm)) as home,
    ):
        fill(shm)
        done = home.run("run", video, "-o", "out.mp4")
        assert done.code != 0
        assert "MiB" in done.said
        assert "Traceback" not in done.said


def writes(url: str) -> bool:
    """False while the server refuses to change anything."""
    try:
        return bool(connect(url).set("test:probe", "", px=1))
    except RedisError:
        return False


@pytest.fixture(scope="module")
def clock_shift(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that, loaded before all others, shifts a process's wall clock."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler for a clock that can be set; on Debian: apt-get install gcc")
    made = tmp_path_factory.mktemp("clock") / "clock_shift.so"
    source = Path(__file__).with_name("clock_shift.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", made, source, "-ldl"], check=True)
    return made


def set_clock(path: Path, seconds: int) -> None:
    """How far the clock of all processes is off, from now on."""
    with path.open("r+b" if path.exists() else "wb") as file:
        file.write(struct.pack("q", seconds))


@contextmanager
def shifted_redis(folder: Path) -> Iterator[str]:
    """A Redis whose clock is that of this process's environment; the stack's own gets none."""
    port = free_port()
    command = [str(server_binary()), "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    url = f"redis://127.0.0.1:{port}/0"
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL) as server:
        try:
            wait_until(lambda: answers(url), "Redis answers")
            yield url
        finally:
            server.kill()


def answers(url: str) -> bool:
    try:
        return bool(connect(url).ping())
    except RedisError:
        return False


def test_a_clock_that_jumps_by_hours_changes_nothing(
    video: Path,
    calm: str,
    clock_shift: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = tmp_path / "clock"
    set_clock(clock, 0)
    monkeypatch.setenv("LD_PRELOAD", str(clock_shift))
    monkeypatch.setenv("CLOCK_SHIFT_FILE", str(clock))
    with (
        shifted_redis(tmp_path) as redis,
        home_in(tmp_path, drills=SLOW, redis_url=redis) as home,
    ):
        run = home.start("run", video, "-o", "out.mp4")
        for chunks, ahead_s in ((2, 3600), (5, -3600)):
            wait_for_chunks(home, run, chunks)
            set_clock(clock, ahead_s)
            seconds, _ = connect(redis).time()
            assert abs(seconds - time.time() - ahead_s) < 60, "the server's clock has jumped, too"
        done = run.wait()
        assert done.code == 0, done.said
        assert picture_hash(home.results / "out.mp4") == calm
        assert home.leftovers() == []
