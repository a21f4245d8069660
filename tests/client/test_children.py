"""Facts about supervised processes, with real ones."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from client.children import RESTARTS, Child, Program, stop_all
from shared.errors import DualfaceError
from shared.processes import die_with_parent
from tests.processes import run_forked
from tests.waiting import wait_until

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def made() -> Iterator[list[Child]]:
    children: list[Child] = []
    yield children
    for child in children:
        child.kill()


def shell(made: list[Child], folder: Path, script: str) -> Child:
    child = Child("it", folder / "it.log", Program(("/bin/sh", "-c", script), ""))
    made.append(child)
    return child


def pid_of(child: Child) -> int:
    assert child.handle is not None
    assert child.handle.pid is not None
    return child.handle.pid


def test_what_died_is_started_again(made: list[Child], tmp_path: Path) -> None:
    child = shell(made, tmp_path, "sleep 60")
    child.start()
    first = pid_of(child)
    child.watch()
    assert pid_of(child) == first
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: not child.running, "it died")
    child.watch()
    assert child.running
    assert pid_of(child) != first


def test_what_dies_again_and_again_is_given_up(made: list[Child], tmp_path: Path) -> None:
    child = shell(made, tmp_path, "exit 1")
    child.start()

    def watch_often() -> None:
        for _ in range(RESTARTS + 1):
            wait_until(lambda: not child.running, "it ended")
            child.watch()

    with pytest.raises(DualfaceError, match="again and again"):
        watch_often()


def test_what_says_why_it_cannot_run_is_not_repeated(made: list[Child], tmp_path: Path) -> None:
    child = shell(made, tmp_path, "echo 'The disk is full.' >&2; exit 2")
    child.start()
    wait_until(lambda: not child.running, "it ended")
    with pytest.raises(DualfaceError, match=r"^The disk is full\.$"):
        child.watch()


def test_stopping_ends_what_ignores_it_and_its_children(made: list[Child], tmp_path: Path) -> None:
    child = shell(made, tmp_path, "trap '' TERM; sleep 60 & wait; sleep 60")
    child.start()
    wait_until(lambda: psutil.Process(pid_of(child)).children(), "its child")
    family = [psutil.Process(pid_of(child)), *psutil.Process(pid_of(child)).children()]
    stop_all([child], patience_s=0.2)
    wait_until(lambda: not any(_lives(process) for process in family), "all of it is gone")


def given_up(parent: int) -> None:
    die_with_parent(signal.SIGTERM, parent)
    os._exit(0)


def test_what_begins_after_its_parent_has_died_ends_at_once() -> None:
    """Its parent is then somebody else, whose death would tell nothing."""
    for parent, code in ((os.getpid(), 0), (1 << 22, -signal.SIGTERM)):
        process = FORK.Process(target=run_forked, args=(given_up, parent))
        process.start()
        process.join(60)
        assert process.exitcode == code


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # it was waited for in between
        return False
